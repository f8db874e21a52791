//! What a power cut and a killed process leave.

use aoe_common::wire::SECTOR_BYTES;

use super::transfer::Operation;
use super::{Committer, Disk};
use crate::mutants::Mutant;

impl Disk {
    /// The power fails: of what was not committed, each sector is kept or lost by itself.
    pub fn power_cut(&mut self) {
        self.half_finished();
        // One that has not ended counts as well: it may have begun on a slow disk.
        let begun = self.committers.iter().filter_map(Committer::running_since);
        let now = self.bus.now_us();
        let running = begun.map(|began| now - began).max();
        self.longest_commit_us = self.longest_commit_us.max(running.unwrap_or(0));
        // What a commit has under way is on the medium in part.
        let taken: Vec<_> = self
            .committers
            .iter_mut()
            .flat_map(Committer::take_running)
            .collect();
        for (unit, _, bytes) in taken {
            for (sector, bytes) in self.unit_sectors(unit).zip(bytes.chunks(SECTOR_BYTES)) {
                if self.random.one_in(2) {
                    self.durable[sector as usize * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(bytes);
                }
            }
        }
        for unit in std::mem::take(&mut self.dirty).into_keys() {
            for sector in self.unit_sectors(unit) {
                if self.random.one_in(2) {
                    let at = sector as usize * SECTOR_BYTES;
                    self.durable[at..][..SECTOR_BYTES].copy_from_slice(&self.seen[at..][..SECTOR_BYTES]);
                }
            }
        }
        self.seen.copy_from_slice(&self.durable);
        self.operations.clear();
        self.warm.clear();
        self.end_of_process();
    }

    /// The process is killed: what it had handed to the kernel is done or not; what was written stays.
    pub fn killed(&mut self) {
        self.half_finished();
        if self.is(Mutant::KillTearsSectors) && !self.dirty.is_empty() {
            let first = self.sectors.min(2);
            for sector in 0..first {
                let at = sector as usize * SECTOR_BYTES;
                self.seen[at..][..SECTOR_BYTES / 2].fill(0x11);
            }
        }
        // Commits go on in the kernel; nobody hears of their end.
        self.operations.retain(|_, operation| {
            matches!(
                operation,
                Operation::Middle(_) | Operation::End(_) | Operation::WriteBack
            )
        });
        self.end_of_process();
    }

    fn end_of_process(&mut self) {
        let forgets = self.is(Mutant::StickyErrorDiesWithProcess);
        for committer in &mut self.committers {
            committer.forget();
            if forgets {
                committer.accept();
            }
        }
        self.blocks.clear();
        self.granted.clear();
        self.stuck.retain(|number| self.operations.contains_key(number));
    }

    /// Transfers that were under way have changed none, some or all of their sectors.
    fn half_finished(&mut self) {
        let puts: Vec<_> = self
            .operations
            .values()
            .filter_map(|operation| match operation {
                Operation::Put(_, first, bytes) => Some((*first, bytes.clone())),
                _ => None,
            })
            .collect();
        for (first, bytes) in puts {
            for (sector, bytes) in (first..).zip(bytes.chunks(SECTOR_BYTES)) {
                if self.random.one_in(2) {
                    self.change(sector, bytes, false);
                }
            }
        }
    }
}
