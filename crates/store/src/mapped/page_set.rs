//! A set of a mapping's pages, which many threads ask and change. One flat allocation of zeros, which takes memory only where an
//! initiator has been: 32 KiB for each GiB in use.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytemuck::allocation::zeroed_slice_box;

/// Pages of one word.
const WORD_PAGES: usize = u64::BITS as usize;

/// Indices are the mapping's pages. A change of one page never undoes one of another at the same time.
#[derive(Debug)]
pub(crate) struct PageSet {
    words: Box<[AtomicU64]>,
}

impl PageSet {
    /// The empty set of `0..pages`.
    pub(crate) fn new(pages: usize) -> PageSet {
        PageSet {
            words: zeroed_slice_box(pages.div_ceil(WORD_PAGES)),
        }
    }

    /// Whether all pages `first..=last` are in it; no page beyond the end is.
    #[inline]
    pub(crate) fn contains(&self, first: usize, last: usize) -> bool {
        last / WORD_PAGES < self.words.len()
            && words(first, last).all(|(word, mask)| self.words[word].load(Relaxed) & mask == mask)
    }

    /// Puts pages `first..=last` in.
    #[inline]
    pub(crate) fn insert(&self, first: usize, last: usize) {
        for (word, mask) in words(first, last) {
            // Usually they are in: then the line stays shared between the processors.
            if self.words[word].load(Relaxed) & mask != mask {
                self.words[word].fetch_or(mask, Relaxed);
            }
        }
    }

    /// Takes pages `first..=last` out, of which some may lie beyond the end.
    pub(crate) fn remove(&self, first: usize, last: usize) {
        for (word, mask) in words(first, last) {
            // A look first: a word that nobody has written takes no memory.
            if let Some(word) = self.words.get(word)
                && word.load(Relaxed) & mask != 0
            {
                word.fetch_and(!mask, Relaxed);
            }
        }
    }

    /// Makes it hold exactly those of the pages `first..=last` for which `is_in` says so.
    pub(crate) fn assign(&self, first: usize, last: usize, is_in: impl Fn(usize) -> bool) {
        for (word, mask) in words(first, last) {
            let bits = (0..WORD_PAGES)
                .filter(|bit| mask >> bit & 1 == 1 && is_in(word * WORD_PAGES + bit))
                .fold(0u64, |bits, bit| bits | 1 << bit);
            self.words[word].fetch_and(!mask | bits, Relaxed);
            self.words[word].fetch_or(bits, Relaxed);
        }
    }

    /// Takes those of the pages `first..=last` out for which `stays` says no.
    pub(crate) fn retain(&self, first: usize, last: usize, stays: impl Fn(usize) -> bool) {
        for (word, mask) in words(first, last) {
            let gone = (0..WORD_PAGES)
                .filter(|bit| mask >> bit & 1 == 1 && !stays(word * WORD_PAGES + bit))
                .fold(0u64, |bits, bit| bits | 1 << bit);
            if self.words[word].load(Relaxed) & gone != 0 {
                self.words[word].fetch_and(!gone, Relaxed);
            }
        }
    }
}

/// The words that pages `first..=last` lie in, each with the mask of those pages.
#[inline]
fn words(first: usize, last: usize) -> impl Iterator<Item = (usize, u64)> {
    (first / WORD_PAGES..=last / WORD_PAGES).map(move |word| {
        let from = first.saturating_sub(word * WORD_PAGES);
        let to = (last - word * WORD_PAGES).min(WORD_PAGES - 1);
        (word, (u64::MAX << from) & (u64::MAX >> (WORD_PAGES - 1 - to)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANS: [(usize, usize); 7] = [
        (0, 0),
        (0, 63),
        (63, 64),
        (5, 9),
        (60, 199),
        (127, 128),
        (128, 191),
    ];

    fn pages(set: &PageSet) -> Vec<usize> {
        (0..300).filter(|page| set.contains(*page, *page)).collect()
    }

    #[test]
    fn masks_cover_exactly_the_pages() {
        for (first, last) in SPANS {
            let set = PageSet::new(200);
            set.insert(first, last);
            assert_eq!(pages(&set), (first..=last).collect::<Vec<_>>());
            assert!(set.contains(first, last) && !set.contains(first, last + 1));
            set.remove(first, last);
            assert_eq!(pages(&set), []);
        }
    }

    #[test]
    fn what_is_assigned_leaves_the_others_alone() {
        for (first, last) in SPANS {
            let set = PageSet::new(200);
            set.insert(0, 199);
            set.assign(first, last, |page| page % 3 == 0);
            let expected = (0..200).filter(|page| !(first..=last).contains(page) || page % 3 == 0);
            assert_eq!(pages(&set), expected.collect::<Vec<_>>(), "{first}..={last}");
        }
    }

    #[test]
    fn what_is_retained_was_there_before() {
        for (first, last) in SPANS {
            let set = PageSet::new(200);
            set.insert(1, 150);
            set.retain(first, last, |page| page % 3 == 0);
            let expected = (1..=150).filter(|page| !(first..=last).contains(page) || page % 3 == 0);
            assert_eq!(pages(&set), expected.collect::<Vec<_>>(), "{first}..={last}");
        }
    }
}
