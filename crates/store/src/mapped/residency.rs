//! Which pages of a mapping a worker may touch without ever waiting for a disk in a page fault.
//!
//! Two things are known of each page, a bit each:
//! - *in memory*: in the page cache, as mincore(2) said, or because it was just read or written there;
//! - *entered*: in this process's page table as well, because a thread of the store has touched it ([`super::entering`]).
//!
//! To touch a page that is in memory only is a page fault, which takes the page's lock, and write-back to a disk that hangs may hold that
//! for ever. A page that is entered is touched without a fault as long as it stays in memory: write-back only protects it
//! against writes.
//!
//! Both are believed for [`FRESH_TICKS`] after mincore was asked about the page's block.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use bytemuck::allocation::zeroed_slice_box;

use crate::mapped::mmap::Mapping;
use crate::mapped::page_set::PageSet;
use crate::tick::Tick;

/// Pages that are asked about at once: 2 MiB of 4 KiB pages.
pub(crate) const BLOCK_PAGES: usize = 512;
/// Pages that are entered at once: as many as the kernel maps around a page fault (64 KiB of 4 KiB pages).
pub(crate) const WINDOW_PAGES: usize = 16;
const WORD_BLOCKS: usize = u64::BITS as usize;

/// How long an answer is believed (in ticks of 1/8 s). A page that was evicted meanwhile costs a blocking fault,
/// asking costs 10 to 30 µs a block; the kernel evicts what was just used last.
const FRESH_TICKS: i32 = 16;

/// The map of one mapping. Indices are the mapping's pages.
#[derive(Debug)]
pub(crate) struct Residency {
    in_memory: PageSet,
    /// Of these none is outside `in_memory`, but for the moments of a change.
    entered: PageSet,
    /// When each block was asked about last, plus one; 0: never.
    asked: Box<[AtomicU32]>,
    /// Windows that were to be entered since their block was asked about.
    wanted: PageSet,
    /// How often anything was forgotten: who learns something while that happens may have learnt what is no longer so.
    forgotten: AtomicU32,
    /// Blocks that may be written to as they are, a bit each (folios.rs).
    settled: Box<[AtomicU64]>,
}

impl Residency {
    /// Knows nothing yet.
    pub(crate) fn new(pages: usize) -> Residency {
        Residency {
            in_memory: PageSet::new(pages),
            entered: PageSet::new(pages),
            asked: zeroed_slice_box(pages.div_ceil(BLOCK_PAGES)),
            wanted: PageSet::new(pages.div_ceil(WINDOW_PAGES)),
            forgotten: AtomicU32::new(0),
            settled: zeroed_slice_box(pages.div_ceil(BLOCK_PAGES * WORD_BLOCKS)),
        }
    }

    /// Whether all pages may be touched, as far as known.
    #[inline]
    pub(crate) fn is_entered(&self, pages: &RangeInclusive<usize>, now: Tick) -> bool {
        self.entered.contains(*pages.start(), *pages.end()) && self.is_fresh(pages, now)
    }

    /// Whether all pages are in memory, as far as known.
    pub(crate) fn is_in_memory(&self, pages: &RangeInclusive<usize>, now: Tick) -> bool {
        self.was_in_memory(*pages.start(), *pages.end()) && self.is_fresh(pages, now)
    }

    /// As [`Residency::is_in_memory`], however old the knowledge.
    pub(crate) fn was_in_memory(&self, first: usize, last: usize) -> bool {
        self.in_memory.contains(first, last)
    }

    /// Whether the kernel was asked about the pages' blocks lately.
    #[inline]
    pub(crate) fn is_fresh(&self, pages: &RangeInclusive<usize>, now: Tick) -> bool {
        (pages.start() / BLOCK_PAGES..=pages.end() / BLOCK_PAGES).all(|block| self.is_block_fresh(block, now))
    }

    /// Asks the kernel where the map is old or says no; then as [`Residency::is_in_memory`].
    #[cold]
    pub(crate) fn look(&self, mapping: &Mapping, pages: &RangeInclusive<usize>, now: Tick) -> bool {
        let (first, last) = (*pages.start(), *pages.end());
        for block in first / BLOCK_PAGES..=last / BLOCK_PAGES {
            let start = block * BLOCK_PAGES;
            let end = (start + BLOCK_PAGES).min(mapping.pages());
            if self.is_block_fresh(block, now) {
                // Only what was not known: usually one or two pages.
                self.learn(first.max(start), end.min(last + 1) - 1, |map, first, last| {
                    map.ask(mapping, first, last);
                });
            } else {
                self.learn(start, end - 1, |map, first, last| {
                    map.ask(mapping, first, last);
                    map.wanted.remove(first / WINDOW_PAGES, last / WINDOW_PAGES);
                    map.asked[block].store(now.0.wrapping_add(1).max(1), Relaxed);
                });
            }
        }
        self.is_in_memory(pages, now)
    }

    /// Notes that pages were just read in, or found in memory.
    pub(crate) fn note(&self, first: usize, last: usize) {
        self.in_memory.insert(first, last);
    }

    /// Notes that these pages are in memory no more.
    pub(crate) fn note_absent(&self, pages: &RangeInclusive<usize>) {
        self.entered.remove(*pages.start(), *pages.end());
    }

    /// Whether the pages' window is to be entered, and nobody has asked for that yet; from now on somebody has.
    pub(crate) fn wants(&self, window: usize) -> bool {
        let is_new = !self.wanted.contains(window, window);
        self.wanted.insert(window, window);
        is_new
    }

    /// The window was not entered after all: whoever reads there next asks for it again.
    pub(crate) fn want_again(&self, window: usize) {
        self.wanted.remove(window, window);
    }

    /// Has the pages of a window that are in memory touched, and believes that they are entered if `touch` says that all
    /// went well.
    pub(crate) fn enter(&self, window: usize, touch: impl Fn(usize) -> bool) {
        let pages = window * WINDOW_PAGES..(window + 1) * WINDOW_PAGES;
        for page in pages.filter(|page| self.was_in_memory(*page, *page)) {
            self.learn(page, page, |map, page, _| {
                if touch(page) {
                    map.entered.insert(page, page);
                }
            });
        }
    }

    /// Nothing is known about a block any more.
    pub(crate) fn forget(&self, block: usize) {
        self.forgotten.fetch_add(1, SeqCst);
        self.clear(block * BLOCK_PAGES, (block + 1) * BLOCK_PAGES - 1);
        self.asked[block].store(0, Relaxed);
    }

    /// These pages have left memory.
    pub(crate) fn forget_pages(&self, pages: &RangeInclusive<usize>) {
        self.forgotten.fetch_add(1, SeqCst);
        self.clear(*pages.start(), *pages.end());
    }

    /// All pages have left the page table.
    pub(crate) fn forget_all(&self) {
        self.forgotten.fetch_add(1, SeqCst);
        for (block, asked) in self.asked.iter().enumerate() {
            self.clear(block * BLOCK_PAGES, (block + 1) * BLOCK_PAGES - 1);
            if asked.load(Relaxed) != 0 {
                asked.store(0, Relaxed);
            }
        }
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

    #[inline]
    fn is_block_fresh(&self, block: usize, now: Tick) -> bool {
        let asked = self.asked[block].load(Relaxed);
        // Another queue may be a round ahead of this one: what is from the future is fresh.
        let age = now.0.wrapping_add(1).wrapping_sub(asked) as i32;
        asked != 0 && age <= FRESH_TICKS
    }

    /// Finds something out about pages and notes it, unless something is forgotten meanwhile: then nothing is known of them.
    fn learn(&self, first: usize, last: usize, find_out: impl FnOnce(&Residency, usize, usize)) {
        let before = self.forgotten.load(SeqCst);
        find_out(self, first, last);
        // Who forgets counts first and clears then: he clears what was just noted, or is seen here.
        if self.forgotten.load(SeqCst) != before {
            self.clear(first, last);
        }
    }

    fn clear(&self, first: usize, last: usize) {
        self.entered.remove(first, last);
        self.in_memory.remove(first, last);
    }

    /// Fetches the truth about `first..=last`, all of one block.
    fn ask(&self, mapping: &Mapping, first: usize, last: usize) {
        let mut pages = [0u8; BLOCK_PAGES];
        let pages = &mut pages[..=last - first];
        if mapping.residency(first, pages).is_err() {
            return;
        }
        let is_there = |page: usize| pages[page - first] & 1 == 1;
        // While it changes a page may look hot although it is not, or a neighbour's news be lost; either costs one more look.
        self.entered.retain(first, last, is_there);
        self.in_memory.assign(first, last, is_there);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_hot_until_it_is_old() {
        let map = Residency::new(2048);
        assert!(!map.is_in_memory(&(3..=3), Tick(100)));
        map.asked[0].store(101, Relaxed);
        map.note(3, 5);
        let is_hot = |first, last, now| map.is_in_memory(&(first..=last), Tick(now));
        assert!(is_hot(3, 5, 100));
        assert!(!is_hot(3, 6, 100));
        assert!(is_hot(3, 5, 99), "a queue that is a round behind");
        assert!(is_hot(3, 5, 100 + FRESH_TICKS as u32));
        assert!(!is_hot(3, 5, 101 + FRESH_TICKS as u32));
    }

    #[test]
    fn what_is_in_memory_is_entered_when_it_was_touched_and_only_until_it_is_forgotten() {
        let (map, now) = (Residency::new(2048), Tick(100));
        map.asked[0].store(101, Relaxed);
        map.note(17, 19);
        assert!(!map.is_entered(&(17..=19), now), "nobody has touched it");
        assert!(map.wants(1) && !map.wants(1), "once");
        map.want_again(1);
        assert!(map.wants(1), "it was not entered");
        let touched = std::cell::RefCell::new(Vec::new());
        map.enter(1, |page| {
            touched.borrow_mut().push(page);
            page != 19
        });
        assert_eq!(*touched.borrow(), [17, 18, 19], "what is in memory of the window");
        assert!(map.is_entered(&(17..=18), now) && !map.is_entered(&(19..=19), now));
        assert!(!map.is_entered(&(17..=18), Tick(101 + FRESH_TICKS as u32)));
        map.note_absent(&(17..=17));
        assert!(!map.is_entered(&(17..=17), now) && map.is_entered(&(18..=18), now));
        map.forget_pages(&(18..=18));
        assert!(!map.is_entered(&(18..=18), now) && !map.is_in_memory(&(18..=18), now));
        assert!(map.is_in_memory(&(19..=19), now));
        map.forget_all();
        assert!(!map.was_in_memory(19, 19));
    }

    #[test]
    fn what_is_forgotten_while_it_is_learnt_is_not_known() {
        for forget in [
            |map: &Residency| map.forget(0),
            |map: &Residency| map.forget_pages(&(5..=5)),
        ] {
            let map = Residency::new(2048);
            map.asked[0].store(101, Relaxed);
            map.note(5, 5);
            map.enter(0, |_| {
                forget(&map);
                true
            });
            assert!(!map.is_entered(&(5..=5), Tick(100)));
        }
    }
}
