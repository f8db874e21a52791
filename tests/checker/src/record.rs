//! What clients record.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use lab::values::Value;

/// What an operation did to one sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Wrote this value.
    Write(Value),
    /// Saw this value.
    Read(Value),
}

/// One operation on one sector, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// Who.
    pub client: usize,
    /// What.
    pub action: Action,
    /// When it was first sent, by the [`Clock`].
    pub invoked: u64,
    /// When its reply was accepted; `None`: never, it may or may not have happened, and may yet.
    pub returned: Option<u64>,
}

/// One counter for all clients: a moment before another has the smaller number.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The next moment.
    pub fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// The operations on each sector.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// By LBA, in no particular order.
    pub sectors: BTreeMap<u64, Vec<Op>>,
}

impl History {
    /// Adds an operation on a sector.
    pub fn push(&mut self, lba: u64, op: Op) {
        self.sectors.entry(lba).or_default().push(op);
    }

    /// Takes in what another client recorded.
    pub fn merge(&mut self, other: History) {
        for (lba, ops) in other.sectors {
            self.sectors.entry(lba).or_default().extend(ops);
        }
    }

    /// Operations on all sectors.
    pub fn operations(&self) -> usize {
        self.sectors.values().map(Vec::len).sum()
    }

    /// Operations that never returned.
    pub fn pending(&self) -> usize {
        self.sectors
            .values()
            .flatten()
            .filter(|op| op.returned.is_none())
            .count()
    }
}
