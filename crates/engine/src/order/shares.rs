//! Who has how many places of an export's order.

use std::collections::HashMap;

use aoe_common::Mac;

use crate::order::sync::{AtomicUsize, Mutex, Ordering};

/// Locks that sources are spread over: those that come in on different queues seldom meet in one.
const LOCKS: usize = 8;

/// Entries of one kind, by source. A source that is alone may have nearly all places; of several, each has its part, and one that has
/// more from before gets no new ones until it has less. The last eighth is for sources that have few, so that a newcomer finds room
/// however hard another presses.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    total: AtomicUsize,
    /// How many have any.
    sources: AtomicUsize,
    by_source: [Line; LOCKS],
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(Mutex<HashMap<Mac, usize>>);

impl Shares {
    /// Places taken.
    #[inline]
    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    /// Whether `source` may have another of `max` places.
    #[inline]
    pub(crate) fn has_room(&self, source: Mac, max: usize) -> bool {
        let total = self.total();
        // With so few not even a source that has all of them has its share: n of n + 1, and one other.
        total.saturating_mul(total) < max || self.has_share(source, total, max)
    }

    fn has_share(&self, source: Mac, total: usize, max: usize) -> bool {
        let own = self.line(source).lock().get(&source).copied().unwrap_or(0);
        let others = self.sources.load(Ordering::Relaxed);
        let sources = others.saturating_add(usize::from(own == 0));
        let has_few = own < max.div_ceil(16);
        let open = if has_few {
            max
        } else {
            max.saturating_sub(max.div_euclid(8))
        };
        total < open && own < max.div_ceil(sources.max(1))
    }

    fn line(&self, source: Mac) -> &Mutex<HashMap<Mac, usize>> {
        let sum = source.0.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        &self.by_source[usize::from(sum) % LOCKS].0
    }

    /// `source` has one more.
    pub(crate) fn add(&self, source: Mac) {
        self.total.fetch_add(1, Ordering::AcqRel);
        let mut line = self.line(source).lock();
        let own = line.entry(source).or_default();
        if *own == 0 {
            self.sources.fetch_add(1, Ordering::Relaxed);
        }
        *own = own.saturating_add(1);
    }

    /// `source` has one less of those that it had.
    pub(crate) fn remove(&self, source: Mac) {
        let mut line = self.line(source).lock();
        let Some(own) = line.get_mut(&source) else {
            return;
        };
        *own = own.saturating_sub(1);
        if *own == 0 {
            line.remove(&source);
            self.sources.fetch_sub(1, Ordering::Relaxed);
        }
        self.total.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn mac(n: u64) -> Mac {
        Mac::from_u64(0x0200_0000_0000 | n)
    }

    #[test]
    fn a_newcomer_finds_room_beside_one_that_has_all_it_can_get() {
        let shares = Shares::default();
        let fill = |source| {
            let mut got = 0;
            while shares.has_room(mac(source), 64) {
                shares.add(mac(source));
                got += 1;
            }
            got
        };
        assert_eq!(fill(1), 56, "alone");
        assert_eq!(fill(2), 4);
        assert_eq!(fill(1), 0, "it has more than its part");
        assert_eq!(fill(3), 4, "while there is an eighth");
        assert_eq!(fill(4), 0, "nobody has room where all places are taken");
    }

    #[test]
    fn a_slow_export_is_shared_evenly_however_hard_one_source_presses() {
        const MAX: usize = 64;
        let shares = Shares::default();
        let (mut queue, mut served) = (VecDeque::new(), HashMap::new());
        for round in 0..20_000u64 {
            // The first source is there before the other three, and tries a hundred times as often.
            let others = if round < 200 { 0 } else { 3 };
            for source in (0..100).map(|_| 1).chain([2, 3, 4].into_iter().take(others)) {
                if shares.has_room(mac(source), MAX) {
                    shares.add(mac(source));
                    queue.push_back(source);
                }
            }
            if let Some(source) = queue.pop_front() {
                shares.remove(mac(source));
                if round > 1000 {
                    *served.entry(source).or_insert(0u64) += 1;
                }
            }
        }
        let total: u64 = served.values().sum();
        for source in 1..=4 {
            let part = served[&source] * 4;
            assert!(
                part >= total / 2 && part <= total * 2,
                "source {source}: {part} of {total}"
            );
        }
    }
}
