//! Order among writes that share a block of the medium.

use std::collections::{BTreeMap, VecDeque};

/// Blocks being changed, with the operations that wait for each. The first number tells tables apart.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    busy: BTreeMap<(usize, u64), VecDeque<u64>>,
}

impl Blocks {
    /// Takes a block; false: the operation waits for it.
    pub(super) fn take(&mut self, block: (usize, u64), operation: u64) -> bool {
        match self.busy.get_mut(&block) {
            None => {
                self.busy.insert(block, VecDeque::new());
                true
            }
            Some(waiting) => {
                waiting.push_back(operation);
                false
            }
        }
    }

    /// Gives a block to the next that waits for it, and returns that one.
    pub(super) fn release(&mut self, block: (usize, u64)) -> Option<u64> {
        let next = self.busy.get_mut(&block)?.pop_front();
        if next.is_none() {
            self.busy.remove(&block);
        }
        next
    }

    /// Forgets all: the process is gone.
    pub(super) fn clear(&mut self) {
        self.busy.clear();
    }
}
