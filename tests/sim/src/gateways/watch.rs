//! What is remembered of gateways for those who watch them.

use std::collections::BTreeMap;

/// What is remembered.
#[derive(Debug)]
pub(super) struct Watch {
    /// When something happened to a gateway last, if ever.
    pub(super) disturbed: Vec<Option<u64>>,
    /// When it had the lock last.
    pub(super) locked: Vec<u64>,
    /// Since when it can serve, and would.
    pub(super) able: Vec<Option<u64>>,
    /// Since when none serves.
    pub(super) outage: Option<u64>,
    /// When a gateway took the group from another one last.
    pub(super) takes: BTreeMap<(u8, u8), TakeOver>,
}

/// A gateway took the group from another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct TakeOver {
    pub(super) at_us: u64,
    /// In which life of the other one.
    pub(super) life: u32,
    /// By the operator's order.
    pub(super) ordered: bool,
}

impl Watch {
    /// Of so many gateways.
    pub(super) fn new(count: u8) -> Watch {
        let count = usize::from(count);
        Watch {
            disturbed: vec![None; count],
            locked: vec![0; count],
            able: vec![None; count],
            outage: Some(0),
            takes: BTreeMap::new(),
        }
    }

    /// Something happens to a gateway.
    pub(super) fn disturb(&mut self, gateway: u8, now_us: u64) {
        self.disturbed[usize::from(gateway)] = Some(now_us);
    }

    /// The operator has a gateway take the group, or give it away: whoever took it from there before has nothing to do with what comes now.
    pub(super) fn begins_anew(&mut self, gateway: u8) {
        self.takes.retain(|(_, from), _| *from != gateway);
    }

    /// A gateway has the lock.
    pub(super) fn locked(&mut self, gateway: u8, now_us: u64) {
        self.locked[usize::from(gateway)] = now_us;
    }
}
