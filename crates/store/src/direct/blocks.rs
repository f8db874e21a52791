//! Order among writes that share a block of the medium.
//!
//! Where the medium's block is larger than a sector, a write of some of its sectors reads the block, changes it and
//! writes it back. The engine keeps overlapping *sectors* apart; two writes of adjacent sectors in one block are ours to keep apart.
//! Who must wait waits as a pending transfer and comes back to its queue when it holds the block.

use std::collections::HashMap;
use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::io::continuation::PendingTransfer;
use crate::io::returns::Returns;

/// The blocks being changed, and who waits for each, first come first served.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    busy: Mutex<HashMap<u64, VecDeque<(PendingTransfer, Returns)>>>,
}

impl Blocks {
    /// Takes `block` and gives the transfer back; or keeps it until the block is free, then holds the block
    /// for it and gives it to `returns`. Blocks are taken in ascending order, so nobody waits in a circle.
    pub(crate) fn take(
        &self,
        block: u64,
        pending: PendingTransfer,
        returns: Returns,
    ) -> Option<PendingTransfer> {
        let mut busy = self.busy.lock();
        match busy.get_mut(&block) {
            None => {
                busy.insert(block, VecDeque::new());
                Some(pending)
            }
            Some(waiting) => {
                waiting.push_back((pending, returns));
                None
            }
        }
    }

    /// Hands `block` to the next who waits for it.
    pub(crate) fn release(&self, block: u64) {
        let mut busy = self.busy.lock();
        let next = busy.get_mut(&block).and_then(VecDeque::pop_front);
        match next {
            Some((pending, returns)) => returns.push(pending),
            None => {
                busy.remove(&block);
            }
        }
    }
}
