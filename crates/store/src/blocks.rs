//! Order among writes that share a block of the medium.
//!
//! Where the medium's block is larger than a sector, a write of some of its sectors reads the block, changes it and
//! writes it back. the engine keeps overlapping *sectors* apart; two neighbours in one block are ours to keep apart.
//! Who must wait is parked as a flight and comes back through its lane's mailbox when it holds the block.

use std::collections::HashMap;
use std::collections::VecDeque;

use parking_lot::Mutex;

use super::transfer::Flight;
use crate::lane::Mailbox;

/// The blocks being changed, and who waits for each, first come first served.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    busy: Mutex<HashMap<u64, VecDeque<(Flight, Mailbox)>>>,
}

impl Blocks {
    /// Takes `block` and gives the flight back; or keeps the flight until the block is free, then holds the block
    /// for it and sends it to `mailbox`. Blocks are taken in ascending order, so nobody waits in a circle.
    pub(super) fn take(&self, block: u64, flight: Flight, mailbox: Mailbox) -> Option<Flight> {
        let mut busy = self.busy.lock();
        match busy.get_mut(&block) {
            None => {
                busy.insert(block, VecDeque::new());
                Some(flight)
            }
            Some(waiting) => {
                waiting.push_back((flight, mailbox));
                None
            }
        }
    }

    /// Hands `block` to the next who waits for it.
    pub(super) fn release(&self, block: u64) {
        let mut busy = self.busy.lock();
        let next = busy.get_mut(&block).and_then(VecDeque::pop_front);
        match next {
            Some((flight, mailbox)) => mailbox.give_back(flight),
            None => {
                busy.remove(&block);
            }
        }
    }
}
