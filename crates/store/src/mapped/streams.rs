//! Which readers are sequential, and what to read ahead for them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Sequential readers that are followed at a time.
const STREAMS: usize = 8;
/// Pages before a request that must be in memory for it to count as sequential.
const BEHIND: usize = 8;
/// Pages to read ahead at a time: 1 MiB, which a disk reads in a few milliseconds.
const AHEAD: u64 = 256;

/// Read-ahead of our own: the kernel's is off, so that pages come in small folios (mmap.rs).
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// For each stream the page that it was read ahead up to; 0: none.
    ends: [AtomicU64; STREAMS],
    oldest: AtomicUsize,
}

impl Streams {
    /// The pages to fetch for a reader at `first..=last`, if it is sequential and near the end of what was fetched
    /// for it. `in_memory` tells about the pages before.
    pub(crate) fn advance(
        &self,
        first: usize,
        last: usize,
        in_memory: impl Fn(usize, usize) -> bool,
    ) -> Option<std::ops::Range<u64>> {
        if first != 0 && !in_memory(first.saturating_sub(BEHIND), first - 1) {
            return None;
        }
        let next = last as u64 + 1;
        for end in &self.ends {
            let known = end.load(Relaxed);
            if (next..=next + AHEAD * 2).contains(&known) {
                // Half a window ahead is enough until the next step.
                let more = known < next + AHEAD / 2
                    && end
                        .compare_exchange(known, known + AHEAD, Relaxed, Relaxed)
                        .is_ok();
                return more.then_some(known..known + AHEAD);
            }
        }
        let slot = self.oldest.fetch_add(1, Relaxed) % STREAMS;
        self.ends[slot].store(next + AHEAD, Relaxed);
        Some(next..next + AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_is_kept_ahead_of_and_a_random_one_is_not_followed() {
        let streams = Streams::default();
        assert_eq!(streams.advance(1000, 1001, |_, _| false), None);
        let mut fetched = 0..0u64;
        for page in 0..5000usize {
            if let Some(pages) = streams.advance(page, page, |_, _| true) {
                assert!(pages.start <= fetched.end.max(1), "a gap before {pages:?}");
                fetched = pages;
            }
            assert!(
                fetched.end > page as u64 + AHEAD / 2 - 1,
                "page {page} has only {fetched:?}"
            );
            assert!(
                fetched.end <= page as u64 + 2 * AHEAD,
                "too far ahead of {page}: {fetched:?}"
            );
        }
    }

    #[test]
    fn several_readers_are_followed_at_once() {
        let streams = Streams::default();
        let starts = [0usize, 100_000, 200_000, 300_000];
        let mut fetches = 0;
        for step in 0..1024 {
            for start in starts {
                fetches += u64::from(streams.advance(start + step, start + step, |_, _| true).is_some());
            }
        }
        assert!(fetches <= 4 * (1024 / AHEAD + 2), "{fetches} fetches");
    }
}
