//! Which pages of a mapping are surely in memory, so that a worker never waits for a disk in a page fault.
//!
//! A bit a page, believed for [`FRESH_TICKS`] after mincore(2) was asked about its block.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use bytemuck::allocation::zeroed_slice_box;

use crate::mapped::mmap::Mapping;
use crate::mapped::page_set::PageSet;
use crate::tick::Tick;

/// Pages that are asked about at once: 2 MiB of 4 KiB pages.
pub(crate) const BLOCK_PAGES: usize = 512;
const WORD_BLOCKS: usize = u64::BITS as usize;

/// How long an answer is believed (in ticks of 1/8 s). A page that was evicted meanwhile costs a blocking fault,
/// asking costs 10 to 30 µs a block; the kernel evicts what was just used last.
const FRESH_TICKS: i32 = 16;

/// The map of one mapping. Indices are the mapping's pages.
#[derive(Debug)]
pub(crate) struct Residency {
    pages: PageSet,
    /// When each block was asked about last, plus one; 0: never.
    asked: Box<[AtomicU32]>,
    /// Blocks that may be written to as they are, a bit each (folios.rs).
    settled: Box<[AtomicU64]>,
}

impl Residency {
    /// Knows nothing yet.
    pub(crate) fn new(pages: usize) -> Residency {
        Residency {
            pages: PageSet::new(pages),
            asked: zeroed_slice_box(pages.div_ceil(BLOCK_PAGES)),
            settled: zeroed_slice_box(pages.div_ceil(BLOCK_PAGES * WORD_BLOCKS)),
        }
    }

    /// Whether all pages `first..=last` are in memory, as far as known.
    #[inline]
    pub(crate) fn is_hot(&self, first: usize, last: usize, now: Tick) -> bool {
        self.pages.contains(first, last)
            && (first / BLOCK_PAGES..=last / BLOCK_PAGES).all(|block| self.is_fresh(block, now))
    }

    /// As [`Residency::is_hot`], however old the knowledge.
    pub(crate) fn was_hot(&self, first: usize, last: usize) -> bool {
        self.pages.contains(first, last)
    }

    /// Asks the kernel where the map is old or says no; then as [`Residency::is_hot`].
    #[cold]
    pub(crate) fn look(&self, mapping: &Mapping, pages: &RangeInclusive<usize>, now: Tick) -> bool {
        let (first, last) = (*pages.start(), *pages.end());
        for block in first / BLOCK_PAGES..=last / BLOCK_PAGES {
            let start = block * BLOCK_PAGES;
            let end = (start + BLOCK_PAGES).min(mapping.pages());
            if self.is_fresh(block, now) {
                // Only what was not known: usually one or two pages.
                self.ask(mapping, first.max(start), (last + 1).min(end));
            } else {
                self.ask(mapping, start, end);
                self.asked[block].store(now.0.wrapping_add(1).max(1), Relaxed);
            }
        }
        self.is_hot(first, last, now)
    }

    /// Notes that pages were just read in.
    pub(crate) fn note(&self, first: usize, last: usize) {
        self.pages.insert(first, last);
    }

    /// Nothing is known about a block any more.
    pub(crate) fn forget(&self, block: usize) {
        self.pages
            .remove(block * BLOCK_PAGES, (block + 1) * BLOCK_PAGES - 1);
        self.asked[block].store(0, Relaxed);
    }

    /// Whether a block's folios were seen to.
    #[inline]
    pub(crate) fn is_settled(&self, block: usize) -> bool {
        self.settled[block / WORD_BLOCKS].load(Relaxed) >> (block % WORD_BLOCKS) & 1 == 1
    }

    /// Notes that they were.
    pub(crate) fn set_settled(&self, block: usize) {
        self.settled[block / WORD_BLOCKS].fetch_or(1 << (block % WORD_BLOCKS), Relaxed);
    }

    fn is_fresh(&self, block: usize, now: Tick) -> bool {
        let asked = self.asked[block].load(Relaxed);
        // Another queue may be a round ahead of this one: what is from the future is fresh.
        let age = now.0.wrapping_add(1).wrapping_sub(asked) as i32;
        asked != 0 && age <= FRESH_TICKS
    }

    /// Fetches the truth about `first..end`, all of one block.
    fn ask(&self, mapping: &Mapping, first: usize, end: usize) {
        let mut pages = [0u8; BLOCK_PAGES];
        let pages = &mut pages[..end - first];
        if mapping.residency(first, pages).is_err() {
            return;
        }
        // While it changes a page may look hot although it is not, or a neighbour's news be lost; either costs one more look.
        self.pages
            .assign(first, end - 1, |page| pages[page - first] & 1 == 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_hot_until_it_is_old() {
        let map = Residency::new(2048);
        assert!(!map.is_hot(3, 3, Tick(100)));
        map.asked[0].store(101, Relaxed);
        map.note(3, 5);
        assert!(map.is_hot(3, 5, Tick(100)));
        assert!(!map.is_hot(3, 6, Tick(100)));
        assert!(map.is_hot(3, 5, Tick(99)), "a queue that is a round behind");
        assert!(map.is_hot(3, 5, Tick(100 + FRESH_TICKS as u32)));
        assert!(!map.is_hot(3, 5, Tick(101 + FRESH_TICKS as u32)));
    }
}
