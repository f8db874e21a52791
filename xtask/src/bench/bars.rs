//! What was promised, held against what was measured.

use serde::Serialize;

use super::contender::Contender::{Echo, Ggaoed, Nbdkit, Vblade, Xblade};
use super::disk::{AMPLIFICATION, COLD_1500, COLD_9000, HOT_BESIDE_COLD, SYNC, WRITES};
use super::flood::{KINDS, RATE_LIMITED, WOKEN, kept};
use super::holes::{self, HOLES_1500, HOLES_9000, TAKEN};
use super::load::{Load, Run};
use super::others::NBD_9000;
use super::results::{Results, Series};
use super::scale::{IDLE, MANY_MEMORY, MANY_RATE, MANY_START, MEMORY, TWO_INTERFACES};
use super::stages::{RAM_1500, RAM_9000, THREADED, UNPINNED_1500, UNPINNED_9000};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Bar {
    /// What is promised.
    pub what: String,
    /// The bar.
    pub wanted: Limit,
    /// What was measured; `None` when a part of it failed, or a peer is missing.
    pub measured: Option<f64>,
}

/// On which side of a number to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Limit {
    /// This or more, in units of a peer's figure (×) or of itself.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bar {
    /// True when measured and on the right side.
    pub(super) fn holds(&self) -> bool {
        self.measured.is_some_and(|measured| match self.wanted {
            Limit::AtLeast(limit) => measured >= limit,
            Limit::AtMost(limit) => measured <= limit,
        })
    }
}

const fn least(limit: f64) -> Limit {
    Limit::AtLeast(limit)
}

const fn most(limit: f64) -> Limit {
    Limit::AtMost(limit)
}

fn rate(run: &Run) -> f64 {
    run.result.rps
}

struct Table<'a> {
    results: &'a Results,
    bars: Vec<Bar>,
}

/// Every bar there is, measured or not.
pub(super) fn judge(results: &Results) -> Vec<Bar> {
    let mut table = Table {
        results,
        bars: Vec::new(),
    };
    table.reads();
    table.writes();
    table.against_the_echo();
    table.sequential();
    table.holes_and_others();
    table.cpu_and_unpinned();
    table.on_disk();
    table.on_one_machine();
    table.bars
}

impl Table<'_> {
    fn add(&mut self, what: String, wanted: Limit, measured: Option<f64>) {
        self.bars.push(Bar {
            what,
            wanted,
            measured: measured.filter(|value| value.is_finite()),
        });
    }

    fn reads(&mut self) {
        let one = Load::reads(2, 1);
        self.against_vblade(RAM_1500, &one, "rate", rate, least(4.0));
        let p50 = self
            .results
            .find(RAM_1500, &one.name(), Xblade)
            .map(|s| s.median(|run| run.result.lat_us.p50));
        self.add(format!("{}: p50 in µs", one.name()), most(6.0), p50);
        for (stage, sectors, limit) in [(RAM_1500, 2, 1.9), (RAM_9000, 16, 1.35)] {
            for depth in [16, 64] {
                self.against_vblade(stage, &Load::reads(sectors, depth), "rate", rate, least(limit));
            }
        }
    }

    fn against_the_echo(&mut self) {
        for (stage, sectors) in [(RAM_1500, 2), (RAM_9000, 16)] {
            for depth in [16, 64] {
                for load in [Load::reads(sectors, depth), Load::writes(sectors, depth)] {
                    let ratio = self.ratio(stage, &load, Echo, rate);
                    self.add(
                        format!("{stage}, {}: rate (echo)", load.name()),
                        least(0.95),
                        ratio,
                    );
                }
            }
        }
    }

    fn writes(&mut self) {
        for (stage, sectors, limit) in [(RAM_1500, 2, 1.5), (RAM_9000, 16, 1.0), (THREADED, 16, 1.4)] {
            for depth in [16, 64] {
                self.against_vblade(stage, &Load::writes(sectors, depth), "rate", rate, least(limit));
            }
        }
    }

    fn sequential(&mut self) {
        for (stage, sectors) in [(RAM_1500, 2), (RAM_9000, 16)] {
            for load in [
                Load::reads(sectors, 16).in_order(),
                Load::writes(sectors, 16).in_order(),
            ] {
                let (best, ratio) = match self.ratio(stage, &load, Ggaoed, rate) {
                    Some(ratio) => ("ggaoed", Some(ratio)),
                    None => ("vblade, without ggaoed", self.ratio(stage, &load, Vblade, rate)),
                };
                self.add(format!("{}: rate ({best})", load.name()), least(1.0), ratio);
            }
        }
    }

    fn cpu_and_unpinned(&mut self) {
        let cpu = |run: &Run| run.target_us;
        for (stage, sectors, limit) in [(RAM_1500, 2, 0.55), (RAM_9000, 16, 0.75)] {
            self.against_vblade(stage, &Load::reads(sectors, 16), "target's CPU", cpu, most(limit));
        }
        for (stage, sectors) in [(UNPINNED_1500, 2), (UNPINNED_9000, 16)] {
            self.against_vblade(stage, &Load::reads(sectors, 16), "rate", rate, least(1.5));
        }
    }

    fn on_disk(&mut self) {
        for depth in [16, 64] {
            self.against_vblade(WRITES, &Load::writes(2, depth), "rate", rate, least(3.0));
        }
        self.fact(AMPLIFICATION, most(5.0));
        for (stage, load) in super::direct::cells() {
            let peers = [Vblade, Ggaoed].map(|peer| self.ratio(stage, &load, peer, rate));
            let best = peers.into_iter().flatten().reduce(f64::min);
            self.add(
                format!("{stage}, {}: rate (best peer)", load.name()),
                least(1.0),
                best,
            );
        }
        for (depth, limit) in [(1, 1.0), (16, 3.0), (64, 4.0)] {
            self.against_vblade(SYNC, &Load::writes(2, depth), "rate", rate, least(limit));
        }
        self.against_vblade(COLD_1500, &Load::reads(2, 64), "rate", rate, least(4.0));
        let in_order = Load::reads(16, 16).in_order();
        self.against_vblade(COLD_9000, &in_order, "rate", rate, least(1.0));
        self.fact(HOT_BESIDE_COLD, least(0.9));
    }

    /// Strangers, many exports, several interfaces, and what rest costs.
    fn on_one_machine(&mut self) {
        for kind in KINDS {
            self.fact(&kept(kind), least(0.95));
        }
        self.fact(WOKEN, most(20.0));
        self.fact(RATE_LIMITED, least(0.8));
        self.fact(MANY_RATE, least(0.97));
        self.fact(MANY_START, most(2.0));
        self.fact(MANY_MEMORY, most(64.0));
        self.fact(TWO_INTERFACES, least(1.0));
        self.fact(IDLE, most(0.5));
        self.fact(MEMORY, most(24.0));
    }

    fn holes_and_others(&mut self) {
        for stage in [HOLES_1500, HOLES_9000] {
            self.against_vblade(stage, &holes::load(stage), "rate", rate, least(1.0));
            self.fact(&holes::against_data(stage), least(0.95));
        }
        self.fact(TAKEN, most(1.0));
        for load in [Load::reads(16, 1), Load::reads(16, 16), Load::writes(16, 16)] {
            let ratio = self.ratio(NBD_9000, &load, Nbdkit, rate);
            self.add(
                format!("{NBD_9000}, {}: rate (nbdkit)", load.name()),
                least(1.0),
                ratio,
            );
        }
    }

    fn fact(&mut self, name: &str, wanted: Limit) {
        let value = self.results.value(name, Xblade);
        self.add(name.to_owned(), wanted, value);
    }

    fn against_vblade(
        &mut self,
        stage: &str,
        load: &Load,
        figure: &str,
        of: impl Fn(&Run) -> f64,
        wanted: Limit,
    ) {
        let ratio = self.ratio(stage, load, Vblade, of);
        self.add(
            format!("{stage}, {}: {figure} (vblade)", load.name()),
            wanted,
            ratio,
        );
    }

    fn ratio(
        &self,
        stage: &str,
        load: &Load,
        peer: super::contender::Contender,
        figure: impl Fn(&Run) -> f64,
    ) -> Option<f64> {
        let name = load.name();
        let median = |series: &Series| series.median(&figure);
        let ours = self.results.find(stage, &name, Xblade).map(median)?;
        Some(ours / self.results.find(stage, &name, peer).map(median)?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::contender::Contender;
    use crate::bench::load::{Latency, LoadResult};

    fn run(rps: f64) -> Run {
        let lat_us = Latency { p50: 5.0, p99: 9.0 };
        let result = LoadResult {
            requests: 1000,
            rps,
            mibs: 1.0,
            seconds: 1.0,
            errors: 0,
            timeouts: 0,
            retransmits: 0,
            lat_us,
            generator_idle_pct: 20.0,
            generator_starved_pct: 0.0,
            transport: "AF_PACKET".into(),
        };
        Run::new(
            &Load::reads(2, 1),
            result,
            Duration::from_millis(2),
            Duration::from_millis(4),
        )
    }

    fn results(ours: f64, theirs: f64) -> Results {
        let mut results = Results::default();
        let one = Load::reads(2, 1).name();
        for (contender, rps) in [(Contender::Xblade, ours), (Contender::Vblade, theirs)] {
            for factor in [0.5, 1.0, 30.0] {
                results.add(RAM_1500, &one, contender, run(rps * factor));
            }
        }
        results
    }

    #[test]
    fn a_bar_is_a_ratio_of_medians() {
        let bar = judge(&results(450.0, 100.0))[0].clone();
        assert_eq!(
            (bar.wanted, bar.measured, bar.holds()),
            (Limit::AtLeast(4.0), Some(4.5), true)
        );
        assert!(!judge(&results(390.0, 100.0))[0].holds());
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let bars = judge(&Results::default());
        assert!(bars.len() > 40);
        assert!(bars.iter().all(|bar| bar.measured.is_none() && !bar.holds()));
    }

    #[test]
    fn a_limit_from_above_is_one() {
        let mut results = Results::default();
        results.fact(IDLE, Contender::Xblade, 0.4);
        results.fact(MEMORY, Contender::Xblade, 25.0);
        let bars = judge(&results);
        let holds = |name| bars.iter().find(|bar| bar.what == name).unwrap().holds();
        assert!(holds(IDLE) && !holds(MEMORY));
    }
}
