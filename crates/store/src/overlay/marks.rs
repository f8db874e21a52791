//! One bit a sector: set when the sector is the delta's. The words lie in a shared mapping of a file, so they outlive the process.
//!
//! They are in leaves of a page. A leaf without bits is not touched: it takes no memory, and a look at its sectors costs no look at it.
//!
//! A file that is cut or cannot be read shows zeros ([`crate::mapped::sigbus`]), and zeros are the image's sectors. So every look at bits ends with a
//! look whether they were the file's; once they were not, nothing is told from them any more.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use rustix::fs::FallocateFlags;

use engine::{Extent, Fault, FaultKind};

use super::counters::OverlayCounters;
use super::records::{PAGE_WORDS, pages_for};
use super::space::{Full, Space};
use crate::mapped::mmap::Mapping;
use crate::mapped::page_set::PageSet;

/// Sectors in a word.
const WORD: u64 = u64::BITS as u64;
const LEAF_BYTES: u64 = 4096;
const LEAF_WORDS: u64 = LEAF_BYTES / 8;

/// Where an extent lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    Golden,
    Delta,
    Both,
}

/// The file with the bits, opened.
#[derive(Debug)]
pub(crate) struct BitsFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    /// Where they begin.
    pub(crate) at: u64,
    /// Which bytes of them are no hole.
    pub(crate) data: Vec<Range<u64>>,
    /// It waits for no disk, and takes no space but for what was written to it.
    pub(crate) in_memory: bool,
}

/// The bits of one overlay.
#[derive(Debug)]
pub(crate) struct Marks {
    bits: Mapping,
    /// Leaves with bits.
    leaves: PageSet,
    /// Of the mapping, when all of it was the file's.
    epoch: u64,
    /// Somebody has cut the file.
    cut: AtomicBool,
    /// Of a file in memory: where leaves get their space when they get their first bit, and where the first one begins.
    sparse: Option<(Arc<File>, u64)>,
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
fn words(extent: Extent) -> Range<u64> {
    match extent.count {
        0 => 0..0,
        _ => extent.lba / WORD..(extent.end() - 1) / WORD + 1,
    }
}

impl Marks {
    /// Maps the bits of `sectors`.
    ///
    /// # Errors
    /// Of mmap, and for a file that cannot be read.
    pub(crate) fn map(bits: BitsFile, sectors: u64, space: Space) -> io::Result<Marks> {
        let len = bytes_for(sectors) as usize;
        let (file, at, data) = (Arc::new(bits.file), bits.at, bits.data);
        let sparse = bits.in_memory.then(|| (Arc::clone(&file), at));
        let bits = Mapping::of_file(file, at, len, true)?;
        // A look at the bits is on the data path, where nothing may wait for a disk.
        if let Err(error) = bits.lock_touched() {
            tracing::debug!("an overlay's bits are not locked in memory: {error}");
        }
        let marks = Marks {
            epoch: bits.epoch(),
            bits,
            leaves: PageSet::new(len.div_ceil(LEAF_BYTES as usize)),
            cut: AtomicBool::new(false),
            sparse,
            written: AtomicU64::new(0),
            space,
            counters: OverlayCounters::new(),
            changed: None,
        };
        for data in data.iter().filter(|data| !data.is_empty()) {
            let (first, last) = (data.start / LEAF_BYTES, (data.end - 1) / LEAF_BYTES);
            marks.leaves.insert(first as usize, last as usize);
        }
        let set = marks
            .leaf_words()
            .map(|index| u64::from(marks.word(index).count_ones()));
        marks.written.store(set.sum(), Ordering::Relaxed);
        marks.check()?;
        Ok(marks)
    }

    /// Whether all that was told from the bits, and is from here on, is what the file says.
    ///
    /// # Errors
    /// When it is not.
    #[inline]
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.bits.intact(self.epoch) && !self.cut.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(io::Error::other(
                "the file that says what the overlay holds was cut short, or cannot be read: reset the copy",
            )),
        }
    }

    fn check_for(&self, kind: FaultKind, lba: u64) -> Result<(), Fault> {
        self.check().map_err(|source| Fault { kind, lba, source })
    }

    /// Somebody has cut the file: nothing is told from it any more.
    pub(crate) fn are_cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// A word; zeros where the leaf has no bits.
    #[inline]
    fn word(&self, index: u64) -> u64 {
        let leaf = (index / LEAF_WORDS) as usize;
        match self.leaves.contains(leaf, leaf) {
            true => self.slot(index).load(Ordering::Acquire),
            false => 0,
        }
    }

    /// A word of a leaf that has bits, or gets some.
    #[inline]
    fn slot(&self, index: u64) -> &AtomicU64 {
        self.bits.word(index as usize * 8)
    }

    /// Sets these bits of a word; what it was before.
    fn add(&self, index: u64, bits: u64) -> io::Result<u64> {
        let leaf = index / LEAF_WORDS;
        if !self.leaves.contains(leaf as usize, leaf as usize) {
            self.begin_leaf(leaf)?;
        }
        let before = self.slot(index).fetch_or(bits, Ordering::AcqRel);
        let new = (bits & !before).count_ones();
        self.written.fetch_add(new.into(), Ordering::Relaxed);
        Ok(before)
    }

    /// Gives a leaf its space: a hole that finds none when it is touched would be a broken mapping, not a write that fails.
    #[cold]
    fn begin_leaf(&self, leaf: u64) -> io::Result<()> {
        let at = leaf * LEAF_BYTES;
        if let Some((file, first)) = &self.sparse {
            let bytes = LEAF_BYTES.min(self.bits.len() as u64 - at);
            rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, first + at, bytes)?;
        }
        self.leaves.insert(leaf as usize, leaf as usize);
        Ok(())
    }

    /// The words of the leaves that have bits.
    fn leaf_words(&self) -> impl Iterator<Item = u64> {
        let words = self.bits.len() as u64 / 8;
        let leaves = (0..words.div_ceil(LEAF_WORDS))
            .filter(|leaf| self.leaves.contains(*leaf as usize, *leaf as usize));
        leaves.flat_map(move |leaf| leaf * LEAF_WORDS..((leaf + 1) * LEAF_WORDS).min(words))
    }

    /// Shows each leaf with bits, and the byte of the bits that it begins at.
    ///
    /// # Errors
    /// Of `show`, and when the bits are not the file's.
    pub(crate) fn each_leaf(&self, mut show: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(LEAF_BYTES as usize);
        let mut words = self.leaf_words().peekable();
        while let Some(index) = words.next() {
            bytes.extend(self.word(index).to_ne_bytes());
            let leaf = index / LEAF_WORDS;
            if words.peek().is_none_or(|next| next / LEAF_WORDS != leaf) {
                self.check()?;
                show(leaf * LEAF_BYTES, &bytes)?;
                bytes.clear();
            }
        }
        Ok(())
    }

    /// Has them go to the medium too, where `on_medium` is already: what is missing here is added, what is missing there is to be written.
    ///
    /// # Errors
    /// When there is no space for them.
    pub(crate) fn persist(&mut self, on_medium: &[u64]) -> io::Result<()> {
        let words = pages_for(on_medium.len() as u64).div_ceil(WORD) as usize;
        self.changed = Some(std::iter::repeat_with(AtomicU64::default).take(words).collect());
        for (index, bits) in (0..).zip(on_medium) {
            let before = self.word(index);
            if bits & !before != 0 {
                self.add(index, *bits)?;
            }
            if before & !bits != 0 {
                self.note_changed(index);
            }
        }
        self.check()
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

    /// The bits of a word as they are now, if [`Marks::check`] says so afterwards; zeros behind the last one.
    pub(crate) fn bits_of(&self, index: u64) -> u64 {
        match index < self.bits.len() as u64 / 8 {
            true => self.word(index),
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
    ///
    /// # Errors
    /// When that cannot be told any more.
    #[inline]
    pub(crate) fn place(&self, extent: Extent) -> Result<Where, Fault> {
        let (mut some, mut all) = (false, true);
        for index in words(extent) {
            let mask = mask(index, extent);
            let set = self.word(index) & mask;
            some |= set != 0;
            all &= set == mask;
        }
        self.check_for(FaultKind::Read, extent.lba)?;
        Ok(match (some, all) {
            (false, _) => Where::Golden,
            (true, true) => Where::Delta,
            (true, false) => Where::Both,
        })
    }

    /// The parts of `extent` that are the delta's, if [`Marks::check`] says so afterwards.
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
        self.word(lba / WORD) & (1 << (lba % WORD)) != 0
    }

    /// The delta has this extent from here on.
    ///
    /// # Errors
    /// When there is no space for its bits, or their file is damaged: they would be forgotten.
    pub(crate) fn written(&self, extent: Extent) -> Result<(), Fault> {
        self.counters.written(extent.count);
        self.set(extent)
    }

    fn set(&self, extent: Extent) -> Result<(), Fault> {
        for index in words(extent) {
            let mask = mask(index, extent);
            if self.word(index) & mask != mask {
                let added = self.add(index, mask);
                added
                    .inspect_err(|error| self.space.note_failure(error, Full::Bits))
                    .map_err(|source| Fault {
                        kind: FaultKind::Write,
                        lba: extent.lba,
                        source,
                    })?;
                self.note_changed(index);
            }
        }
        // Before the caller's look at the notes of what is not committed: see `Committer::acknowledge`.
        fence(Ordering::SeqCst);
        self.check_for(FaultKind::Write, extent.lba)
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
