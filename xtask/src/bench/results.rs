//! What all runs gave, by stage, load and target.

use serde::Serialize;

use super::contender::Contender;
use super::load::{Run, median};

/// The runs of one load against one target.
#[derive(Debug, Serialize)]
pub(super) struct Series {
    /// Where: `image in RAM, MTU 1500`.
    pub stage: String,
    /// What: [`super::load::Load::name`].
    pub load: String,
    /// Who.
    pub contender: Contender,
    /// By rounds.
    pub runs: Vec<Run>,
}

impl Series {
    /// Median of a figure.
    pub(super) fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(figure).collect())
    }

    /// Smallest and largest rate.
    pub(super) fn range(&self) -> (f64, f64) {
        let rates = self.runs.iter().map(|run| run.result.rps);
        rates.fold((f64::INFINITY, 0.0), |(low, high), rate| {
            (low.min(rate), high.max(rate))
        })
    }
}

/// A figure that is not a series of runs, such as the CPU share of an idle target.
#[derive(Debug, Serialize)]
pub(super) struct Fact {
    /// What, as [`super::bars`] looks it up.
    pub name: String,
    /// Who.
    pub contender: Contender,
    /// How much.
    pub value: f64,
}

/// Everything measured, and everything that could not be.
#[derive(Debug, Default, Serialize)]
pub(super) struct Results {
    /// Loads.
    pub series: Vec<Series>,
    /// Single values.
    pub facts: Vec<Fact>,
    /// What failed, and how.
    pub failures: Vec<String>,
}

impl Results {
    /// Adds a run.
    pub(super) fn add(&mut self, stage: &str, load: &str, contender: Contender, run: Run) {
        let same = |s: &&mut Series| s.stage == stage && s.load == load && s.contender == contender;
        match self.series.iter_mut().find(same) {
            Some(series) => series.runs.push(run),
            None => {
                let (stage, load) = (stage.to_owned(), load.to_owned());
                self.series.push(Series {
                    stage,
                    load,
                    contender,
                    runs: vec![run],
                });
            }
        }
    }

    /// Adds a single figure.
    pub(super) fn fact(&mut self, name: &str, contender: Contender, value: f64) {
        self.facts.push(Fact {
            name: name.to_owned(),
            contender,
            value,
        });
    }

    /// The runs of a load against a target.
    pub(super) fn find(&self, stage: &str, load: &str, contender: Contender) -> Option<&Series> {
        self.series
            .iter()
            .find(|s| s.stage == stage && s.load == load && s.contender == contender)
    }

    /// Median of the single values of a name.
    pub(super) fn value(&self, name: &str, contender: Contender) -> Option<f64> {
        let facts = self
            .facts
            .iter()
            .filter(|f| f.name == name && f.contender == contender);
        let values: Vec<f64> = facts.map(|fact| fact.value).collect();
        (!values.is_empty()).then(|| median(values))
    }
}
