//! What each block of the span must hold: the memory of a verified run.

use aoe_common::wire::SECTOR_BYTES;

use super::LoadPlan;
use crate::stamp::{self, StampCheck};

const BUSY: u32 = 1 << 31;
const FROZEN: u32 = 1 << 30;
const GENERATION: u32 = FROZEN - 1;

/// One word a block: its generation (0: not written by this run, or unknown) and two flags. A plan without
/// verification has an empty ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    blocks: Vec<u32>,
}

/// What checking the sectors of one reply found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// Every sector is what was written last.
    Right,
    /// No sector bears a stamp of this seed, and this run wrote none.
    Unstamped,
    /// This sector is not what it must be.
    Wrong(u64),
}

impl Ledger {
    /// Memory for a plan's blocks.
    pub(super) fn new(plan: &LoadPlan) -> Ledger {
        let blocks = if plan.verify { plan.blocks() as usize } else { 0 };
        Ledger {
            blocks: vec![0; blocks],
        }
    }

    /// Takes the block for a request, so that no other one touches it meanwhile. `None` when it is taken, or when
    /// it is to be written and must not be again.
    pub(super) fn take(&mut self, block: u64, write: bool) -> Option<u32> {
        let Some(entry) = self.blocks.get_mut(block as usize) else {
            return Some(0);
        };
        if *entry & BUSY != 0 || (write && *entry & FROZEN != 0) {
            return None;
        }
        *entry |= BUSY;
        Some((*entry & GENERATION) + u32::from(write))
    }

    /// The request on the block is over.
    pub(super) fn release(&mut self, block: u64) {
        if let Some(entry) = self.blocks.get_mut(block as usize) {
            *entry &= !BUSY;
        }
    }

    /// A write was acknowledged: from now on the block holds this generation.
    pub(super) fn written(&mut self, block: u64, generation: u32) {
        if let Some(entry) = self.blocks.get_mut(block as usize) {
            *entry = *entry & !GENERATION | generation & GENERATION;
        }
    }

    /// A write failed: what the block holds is not known.
    pub(super) fn unknown(&mut self, block: u64) {
        self.written(block, 0);
    }

    /// A write was sent more than once. A late copy may land at any time, so nothing newer is written there.
    pub(super) fn freeze(&mut self, block: u64) {
        if let Some(entry) = self.blocks.get_mut(block as usize) {
            *entry |= FROZEN;
        }
    }

    /// The first block at or after `from` that this run has written.
    pub(super) fn next_written(&self, from: u64) -> Option<u64> {
        let rest = self.blocks.get(from as usize..)?;
        rest.iter()
            .position(|entry| entry & GENERATION != 0)
            .map(|at| from + at as u64)
    }

    /// Compares what a read of the block returned with what it must hold.
    pub(super) fn check(&self, plan: &LoadPlan, block: u64, data: &[u8]) -> Checked {
        let generation = self
            .blocks
            .get(block as usize)
            .map_or(0, |entry| entry & GENERATION);
        let mut unstamped = 0;
        for (lba, sector) in (plan.lba(block)..).zip(data.chunks_exact(SECTOR_BYTES)) {
            match stamp::check(sector, lba, plan.seed) {
                StampCheck::Stamped(found) if generation == 0 || found == generation => {}
                StampCheck::Foreign if generation == 0 => unstamped += 1,
                _ => return Checked::Wrong(lba),
            }
        }
        if unstamped == usize::from(plan.sectors) {
            Checked::Unstamped
        } else {
            Checked::Right
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tests_plan;

    fn sectors(plan: &LoadPlan, block: u64, generation: u32) -> Vec<u8> {
        let mut data = vec![0; usize::from(plan.sectors) * SECTOR_BYTES];
        for (lba, sector) in (plan.lba(block)..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
            stamp::put(sector, lba, generation, plan.seed);
        }
        data
    }

    #[test]
    fn a_block_has_one_request_at_a_time() {
        let mut ledger = Ledger::new(&LoadPlan {
            verify: true,
            ..tests_plan()
        });
        assert_eq!(ledger.take(3, true), Some(1));
        assert_eq!(ledger.take(3, false), None);
        ledger.release(3);
        assert_eq!(ledger.take(3, false), Some(0));
    }

    #[test]
    fn a_lost_or_stale_write_is_found() {
        let plan = LoadPlan {
            verify: true,
            ..tests_plan()
        };
        let mut ledger = Ledger::new(&plan);
        let old = sectors(&plan, 5, 1);
        ledger.written(5, 1);
        assert_eq!(ledger.check(&plan, 5, &old), Checked::Right);
        ledger.written(5, 2);
        assert_eq!(ledger.check(&plan, 5, &old), Checked::Wrong(110));
        assert_eq!(ledger.check(&plan, 5, &[0; 1024]), Checked::Wrong(110));
        let mut half = sectors(&plan, 5, 2);
        half[512..].copy_from_slice(&old[512..]);
        assert_eq!(ledger.check(&plan, 5, &half), Checked::Wrong(111));
    }

    #[test]
    fn what_this_run_did_not_write_is_only_checked_where_it_has_a_stamp() {
        let plan = LoadPlan {
            verify: true,
            ..tests_plan()
        };
        let ledger = Ledger::new(&plan);
        assert_eq!(ledger.check(&plan, 5, &[0; 1024]), Checked::Unstamped);
        assert_eq!(ledger.check(&plan, 5, &sectors(&plan, 5, 9)), Checked::Right);
        assert_eq!(ledger.check(&plan, 5, &sectors(&plan, 6, 9)), Checked::Wrong(110));
    }

    #[test]
    fn a_retransmitted_write_is_not_overwritten_and_still_read_back() {
        let mut ledger = Ledger::new(&LoadPlan {
            verify: true,
            ..tests_plan()
        });
        let generation = ledger.take(7, true).unwrap();
        ledger.freeze(7);
        ledger.written(7, generation);
        ledger.release(7);
        assert_eq!(ledger.take(7, true), None);
        assert_eq!(ledger.next_written(0), Some(7));
        assert_eq!(ledger.next_written(8), None);
        assert_eq!(ledger.take(7, false), Some(1));
    }

    #[test]
    fn without_verification_nothing_is_kept() {
        let mut ledger = Ledger::new(&tests_plan());
        assert_eq!(ledger.take(3, true), Some(0));
        assert_eq!(ledger.take(3, true), Some(0));
    }
}
