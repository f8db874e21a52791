//! Who waits for a reload. A request that comes while the file is being read waits for the next reading: it may be about a
//! change that came too late for this one.

use std::time::Instant;

use super::reloaded::Reloaded;
use super::socket::ControlAnswer;

/// What one reading of the file is for.
#[derive(Debug, Default)]
pub(in crate::control) struct Reading {
    /// It is to be put in force.
    pub(crate) apply: bool,
    /// Who asked what it would change.
    pub(crate) dry_runs: Vec<ControlAnswer>,
    /// Who asked for it to be put in force.
    pub(crate) reloads: Vec<ControlAnswer>,
}

impl Reading {
    /// To be put in force, without anybody who waits.
    pub(crate) fn to_apply() -> Reading {
        Reading {
            apply: true,
            ..Reading::default()
        }
    }

    /// For somebody who waits.
    pub(crate) fn of(answer: ControlAnswer, dry_run: bool) -> Reading {
        let mut reading = Reading {
            apply: !dry_run,
            ..Reading::default()
        };
        let list = if dry_run {
            &mut reading.dry_runs
        } else {
            &mut reading.reloads
        };
        list.push(answer);
        reading
    }

    /// One reading for both.
    pub(crate) fn add(&mut self, other: Reading) {
        self.apply |= other.apply;
        self.dry_runs.extend(other.dry_runs);
        self.reloads.extend(other.reloads);
    }

    /// Somebody wants it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.apply || !self.dry_runs.is_empty()
    }

    /// Tells all who wait that it failed.
    pub(crate) fn refuse(self, reason: &str) {
        for answer in self.dry_runs.into_iter().chain(self.reloads) {
            answer.error(reason);
        }
    }
}

/// A configuration that was put in force and whose consequences are under way.
#[derive(Debug)]
pub(in crate::control) struct Settling {
    /// When it is told what has happened so far.
    pub(crate) until: Instant,
    pub(crate) reloaded: Reloaded,
    pub(crate) answers: Vec<ControlAnswer>,
}
