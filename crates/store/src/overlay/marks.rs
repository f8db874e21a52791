//! One bit a sector: set when the sector is the delta's. The words lie in a shared mapping of a file, so they outlive the process.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use engine::{Extent, Fault, FaultKind};

use super::counters::OverlayCounters;
use super::records::{PAGE_WORDS, pages_for};
use super::space::Space;
use crate::mapped::mmap::Mapping;

/// Sectors in a word.
const WORD: u64 = u64::BITS as u64;

/// Where an extent lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    Golden,
    Delta,
    Both,
}

/// The bits of one overlay.
#[derive(Debug)]
pub(crate) struct Marks {
    bits: Mapping,
    written: AtomicU64,
    space: Space,
    counters: OverlayCounters,
    /// Of a persistent overlay: pages of records that have bits which are not on the medium, one bit a page.
    changed: Option<Box<[AtomicU64]>>,
}

/// Words of the bits of so many sectors.
pub(crate) fn words_for(sectors: u64) -> u64 {
    sectors.div_ceil(WORD)
}

/// Bytes of the bits of so many sectors: whole words.
pub(crate) fn bytes_for(sectors: u64) -> u64 {
    words_for(sectors) * 8
}

/// The bits of word `index` that belong to `extent`.
fn mask(index: u64, extent: Extent) -> u64 {
    let first = index * WORD;
    let from = extent.lba.saturating_sub(first);
    let to = (extent.end() - first).min(WORD);
    let below = |count: u64| if count >= WORD { u64::MAX } else { (1 << count) - 1 };
    below(to) & !below(from)
}

/// The words that `extent` has bits in.
fn words(extent: Extent) -> std::ops::Range<u64> {
    match extent.count {
        0 => 0..0,
        _ => extent.lba / WORD..(extent.end() - 1) / WORD + 1,
    }
}

impl Marks {
    /// Maps the bits of `sectors`, which begin at byte `at` of `file` and have their space already.
    ///
    /// # Errors
    /// Of mmap.
    pub(crate) fn map(file: File, at: u64, sectors: u64, space: Space) -> io::Result<Marks> {
        let len = bytes_for(sectors) as usize;
        let bits = Mapping::of_file(Arc::new(file), at, len, true)?;
        // A look at the bits is on the data path, where nothing may wait for a disk.
        if let Err(error) = bits.lock() {
            tracing::debug!("an overlay's bits are not locked in memory: {error}");
        }
        let marks = Marks {
            bits,
            written: AtomicU64::new(0),
            space,
            counters: OverlayCounters::new(),
            changed: None,
        };
        let set = words(Extent {
            lba: 0,
            count: sectors,
        })
        .map(|index| u64::from(marks.word(index).load(Ordering::Acquire).count_ones()))
        .sum();
        marks.written.store(set, Ordering::Relaxed);
        Ok(marks)
    }

    fn word(&self, index: u64) -> &AtomicU64 {
        self.bits.word(index as usize * 8)
    }

    /// Has them go to the medium too, where `on_medium` is already: what is missing here is added, what is missing there is to be written.
    pub(crate) fn persist(&mut self, on_medium: &[u64]) {
        let words = pages_for(on_medium.len() as u64).div_ceil(WORD) as usize;
        self.changed = Some(std::iter::repeat_with(AtomicU64::default).take(words).collect());
        for (index, bits) in (0..).zip(on_medium) {
            let before = self.word(index).fetch_or(*bits, Ordering::AcqRel);
            let new = (bits & !before).count_ones();
            self.written.fetch_add(new.into(), Ordering::Relaxed);
            if before & !bits != 0 {
                self.note_changed(index);
            }
        }
    }

    #[inline]
    fn note_changed(&self, index: u64) {
        if let Some(changed) = &self.changed {
            let page = index / PAGE_WORDS;
            changed[(page / WORD) as usize].fetch_or(1 << (page % WORD), Ordering::SeqCst);
        }
    }

    /// The pages of records that are to be written, which are this commit's from here on. All their bits have their data in the page cache.
    pub(crate) fn take_changed(&self) -> Vec<u64> {
        let words = self.changed.iter().flat_map(|changed| changed.iter());
        let pages = (0..).zip(words).flat_map(|(index, word)| {
            let taken = word.swap(0, Ordering::SeqCst);
            (0..WORD).filter_map(move |bit| (taken & (1 << bit) != 0).then_some(index * WORD + bit))
        });
        let pages = pages.collect();
        // What was set before the caller's look at the notes of a write, which came before this, is seen by the looks that follow.
        fence(Ordering::SeqCst);
        pages
    }

    /// A commit failed: they are to be written yet.
    pub(crate) fn give_changed_back(&self, pages: &[u64]) {
        pages.iter().for_each(|page| self.note_changed(page * PAGE_WORDS));
    }

    /// The bits of a word as they are now; zeros behind the last one.
    pub(crate) fn bits_of(&self, index: u64) -> u64 {
        match index < self.bits.len() as u64 / 8 {
            true => self.word(index).load(Ordering::SeqCst),
            false => 0,
        }
    }

    /// The space that the delta takes.
    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    /// What its machine does.
    pub(crate) fn counters(&self) -> &OverlayCounters {
        &self.counters
    }

    /// Sectors whose bit is set.
    pub(crate) fn written_sectors(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Where an extent lies.
    #[inline]
    pub(crate) fn place(&self, extent: Extent) -> Where {
        let (mut some, mut all) = (false, true);
        for index in words(extent) {
            let mask = mask(index, extent);
            let set = self.word(index).load(Ordering::Acquire) & mask;
            some |= set != 0;
            all &= set == mask;
        }
        match (some, all) {
            (false, _) => Where::Golden,
            (true, true) => Where::Delta,
            (true, false) => Where::Both,
        }
    }

    /// The parts of `extent` that are the delta's.
    pub(crate) fn written_runs(&self, extent: Extent) -> impl Iterator<Item = Extent> {
        let mut lba = extent.lba;
        std::iter::from_fn(move || {
            while lba < extent.end() && !self.is_set(lba) {
                lba += 1;
            }
            let start = lba;
            while lba < extent.end() && self.is_set(lba) {
                lba += 1;
            }
            let count = lba - start;
            (count > 0).then_some(Extent { lba: start, count })
        })
    }

    fn is_set(&self, lba: u64) -> bool {
        self.word(lba / WORD).load(Ordering::Acquire) & (1 << (lba % WORD)) != 0
    }

    /// The delta has this extent from here on.
    ///
    /// # Errors
    /// When the file with the bits is damaged: they would be forgotten.
    pub(crate) fn written(&self, extent: Extent) -> Result<(), Fault> {
        self.counters.written(extent.count);
        self.set(extent)
    }

    fn set(&self, extent: Extent) -> Result<(), Fault> {
        let epoch = self.bits.epoch();
        for index in words(extent) {
            let mask = mask(index, extent);
            let word = self.word(index);
            if word.load(Ordering::Acquire) & mask != mask {
                let before = word.fetch_or(mask, Ordering::AcqRel);
                let new = (mask & !before).count_ones();
                self.written.fetch_add(new.into(), Ordering::Relaxed);
                self.note_changed(index);
            }
        }
        // Before the caller's look at the notes of what is not committed: see `Committer::acknowledge`.
        fence(Ordering::SeqCst);
        if self.bits.intact(epoch) {
            return Ok(());
        }
        Err(Fault {
            kind: FaultKind::Write,
            lba: extent.lba,
            source: io::Error::other("the file that says what the overlay holds cannot be written"),
        })
    }

    /// The delta has these extents from here on, as holes.
    ///
    /// # Errors
    /// As [`Marks::written`].
    pub(crate) fn trimmed(&self, extents: &[Extent]) -> Result<(), Fault> {
        for extent in extents {
            self.set(*extent)?;
            self.space.release(*extent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cover_an_extent_and_nothing_else() {
        for (lba, count) in [(0, 1), (0, 64), (63, 1), (63, 2), (5, 200), (64, 64), (127, 130)] {
            let extent = Extent { lba, count };
            for sector in 0..400u64 {
                let index = sector / WORD;
                let inside =
                    words(extent).contains(&index) && mask(index, extent) & (1 << (sector % WORD)) != 0;
                assert_eq!(
                    inside,
                    (lba..lba + count).contains(&sector),
                    "{extent:?}, sector {sector}"
                );
            }
        }
        assert!(words(Extent { lba: 7, count: 0 }).is_empty());
    }
}
