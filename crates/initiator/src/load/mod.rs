//! A closed-loop load: keep a number of requests outstanding, time each, check each.

mod engine;
mod ledger;
mod outcome;
mod pattern;
mod rto;

use std::time::Duration;

pub use engine::run;
pub use outcome::LoadOutcome;
pub use pattern::LoadOrder;

use super::Route;

/// Most requests that can be outstanding.
pub const MAX_DEPTH: u16 = 4096;

/// What to do to which target.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The target.
    pub route: Route,
    /// Share of reads; the rest are writes.
    pub read_percent: u8,
    /// In which order the span is walked.
    pub order: LoadOrder,
    /// Sectors in a request: what fits a frame.
    pub sectors: u8,
    /// Requests outstanding, 1 to [`MAX_DEPTH`].
    pub depth: u16,
    /// The load ends after this time.
    pub duration: Duration,
    /// The load ends after this many requests, too.
    pub count: Option<u64>,
    /// Time before measuring begins.
    pub warmup: Duration,
    /// First sector used.
    pub first: u64,
    /// Sectors used; at least one request's.
    pub span: u64,
    /// Stamp what is written, check what is read, and read everything written again at the end.
    pub verify: bool,
    /// Makes the order repeatable and tells the stamps of one run from another's.
    pub seed: u32,
    /// A request without an answer for this long has failed.
    pub give_up: Duration,
}

impl LoadPlan {
    /// Requests that fit the span side by side.
    pub const fn blocks(&self) -> u64 {
        self.span / self.sectors as u64
    }

    /// First sector of a block.
    pub(crate) const fn lba(&self, block: u64) -> u64 {
        self.first + block * self.sectors as u64
    }
}

#[cfg(test)]
fn tests_plan() -> LoadPlan {
    use aoe_common::Mac;
    LoadPlan {
        route: Route {
            source: Mac([2, 0, 0, 0, 0, 1]),
            destination: Mac([2, 0, 0, 0, 0, 2]),
            shelf: 1,
            slot: 2,
        },
        read_percent: 100,
        order: LoadOrder::Random,
        sectors: 2,
        depth: 8,
        duration: Duration::from_secs(1),
        count: None,
        warmup: Duration::ZERO,
        first: 100,
        span: 201,
        verify: false,
        seed: 1,
        give_up: Duration::from_secs(1),
    }
}
