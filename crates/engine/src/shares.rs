//! Who has how many places of an export's order.

use std::collections::HashMap;

use aoe_common::Mac;

/// Entries of one kind, by source. A source that is alone may have nearly all places; of several, each has its part, and one that has
/// more from before gets no new ones until it has less. The last eighth is for sources that have few, so that a newcomer finds room
/// however hard another presses.
#[derive(Debug, Default)]
pub(super) struct Shares {
    total: usize,
    by_source: HashMap<Mac, usize>,
}

impl Shares {
    /// Whether `source` may have another of `max` places.
    pub fn has_room(&self, source: Mac, max: usize) -> bool {
        let own = self.by_source.get(&source).copied().unwrap_or(0);
        let sources = self.by_source.len().saturating_add(usize::from(own == 0));
        let has_few = own < max.div_ceil(16);
        let open = if has_few {
            max
        } else {
            max.saturating_sub(max.div_euclid(8))
        };
        self.total < open && own < max.div_ceil(sources.max(1))
    }

    /// `source` has one more.
    pub fn add(&mut self, source: Mac) {
        self.total = self.total.saturating_add(1);
        let own = self.by_source.entry(source).or_default();
        *own = own.saturating_add(1);
    }

    /// `source` has one less.
    pub fn remove(&mut self, source: Mac) {
        let Some(own) = self.by_source.get_mut(&source) else {
            return;
        };
        self.total = self.total.saturating_sub(1);
        *own = own.saturating_sub(1);
        if *own == 0 {
            self.by_source.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn mac(n: u64) -> Mac {
        Mac::from_u64(0x0200_0000_0000 | n)
    }

    #[test]
    fn a_newcomer_finds_room_beside_one_that_has_all_it_can_get() {
        let mut shares = Shares::default();
        let mut fill = |source| {
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
        let mut shares = Shares::default();
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
