//! Where acknowledged writes lie that are not committed yet: which of some thousand regions of the store.

use std::sync::atomic::{AtomicU64, Ordering};

use engine::Extent;

/// Words of the map, 64 regions each.
const WORDS: usize = 64;
/// Sectors of a region at least, so that a request lies in two at most.
const LEAST_SHIFT: u32 = 11;

/// A bit for each region. A bit that is set already costs a write no more than a look.
#[derive(Debug)]
pub(crate) struct DirtyMap {
    words: [AtomicU64; WORDS],
    /// log2 of the sectors in a region.
    shift: u32,
}

impl DirtyMap {
    /// For a store of this many sectors. What it grows by belongs to the last region.
    pub(crate) fn new(sectors: u64) -> DirtyMap {
        let regions = (WORDS * 64) as u64;
        let shift = sectors.div_ceil(regions).next_power_of_two().ilog2();
        DirtyMap {
            words: [const { AtomicU64::new(0) }; WORDS],
            shift: shift.max(LEAST_SHIFT),
        }
    }

    /// Notes a write; true if its regions were noted already.
    ///
    /// The write's data must be in the cache, and a `SeqCst` fence behind it: a commit that begins after a bit was seen set finds the data.
    #[inline]
    pub(crate) fn note(&self, extent: Extent) -> bool {
        let (first, last) = (self.region(extent.lba), self.region(extent.end() - 1));
        let known = self.is_set(first) && (first == last || self.is_set(last));
        if !known {
            (first..=last).for_each(|region| {
                self.words[region / 64].fetch_or(1 << (region % 64), Ordering::SeqCst);
            });
        }
        known
    }

    /// Everything may be unsynced.
    pub(crate) fn note_all(&self) {
        for word in &self.words {
            word.store(u64::MAX, Ordering::SeqCst);
        }
    }

    /// The notes as they are now.
    pub(crate) fn look(&self) -> Regions {
        Regions {
            words: self.words.each_ref().map(|word| word.load(Ordering::SeqCst)),
            shift: self.shift,
        }
    }

    /// Takes the notes out.
    pub(crate) fn take(&self) -> Regions {
        Regions {
            words: self.words.each_ref().map(|word| word.swap(0, Ordering::SeqCst)),
            shift: self.shift,
        }
    }

    fn region(&self, lba: u64) -> usize {
        ((lba >> self.shift) as usize).min(WORDS * 64 - 1)
    }

    fn is_set(&self, region: usize) -> bool {
        self.words[region / 64].load(Ordering::Relaxed) & (1 << (region % 64)) != 0
    }
}

/// Regions that were written to.
#[derive(Clone, Debug)]
pub(crate) struct Regions {
    words: [u64; WORDS],
    shift: u32,
}

impl Regions {
    /// Those of both.
    pub(crate) fn with(mut self, other: &Regions) -> Regions {
        for (word, other) in self.words.iter_mut().zip(other.words) {
            *word |= other;
        }
        self
    }

    /// The smallest extent around them, in a store of this many sectors.
    pub(crate) fn hull(&self, sectors: u64) -> Option<Extent> {
        let first = self.words.iter().position(|word| *word != 0)?;
        let last = self.words.iter().rposition(|word| *word != 0)?;
        let first = first * 64 + self.words[first].trailing_zeros() as usize;
        let last = last * 64 + 63 - self.words[last].leading_zeros() as usize;
        let lba = (first as u64) << self.shift;
        let end = match last + 1 == WORDS * 64 {
            true => sectors,
            false => (((last + 1) as u64) << self.shift).min(sectors),
        };
        Some(Extent {
            lba,
            count: end.saturating_sub(lba).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hull_is_around_what_was_noted_and_no_more_than_a_region_larger() {
        let sectors = 1 << 24;
        let map = DirtyMap::new(sectors);
        assert_eq!(map.take().hull(sectors), None);
        let extent = Extent {
            lba: 70_001,
            count: 9,
        };
        assert!(!map.note(extent));
        assert!(map.note(extent), "noted already");
        assert!(!map.note(Extent {
            lba: 9_000_000,
            count: 1
        }));
        let hull = map.take().hull(sectors).unwrap();
        assert!(hull.lba <= 70_001 && 70_001 - hull.lba < 4096, "{hull:?}");
        assert!(
            hull.end() > 9_000_000 && hull.end() - 9_000_000 <= 4096,
            "{hull:?}"
        );
        assert_eq!(map.take().hull(sectors), None, "taken");
        assert!(!map.note(extent), "to be noted anew");
    }

    #[test]
    fn a_write_across_a_border_is_in_both_regions() {
        let map = DirtyMap::new(4096);
        map.note(Extent { lba: 2047, count: 2 });
        assert_eq!(map.take().hull(4096), Some(Extent { lba: 0, count: 4096 }));
    }

    #[test]
    fn everything_and_what_a_store_grows_by() {
        let map = DirtyMap::new(1000);
        map.note_all();
        assert_eq!(map.take().hull(1000), Some(Extent { lba: 0, count: 1000 }));
        map.note(Extent {
            lba: 1 << 40,
            count: 8,
        });
        let grown = (1 << 40) + 8;
        assert_eq!(map.take().hull(grown).unwrap().end(), grown);
    }
}
