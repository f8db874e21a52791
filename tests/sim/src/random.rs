//! Random numbers that depend on the seed and on nothing else.

/// One stream of random numbers. Each part of the simulation has its own, so that leaving one part out (as the
/// shrinker does) changes nothing for the others.
#[derive(Debug, Clone)]
pub struct Random(fastrand::Rng);

impl Random {
    /// The stream of one part, named by a number, of a run with this seed.
    pub fn stream(seed: u64, part: u64) -> Random {
        // One step of SplitMix64, so that neighbouring seeds and parts have nothing in common.
        let mut mixed = seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random(fastrand::Rng::with_seed(mixed ^ mixed >> 31))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.u64(..end) }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `per_million` times in a million.
    pub fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.0.u32(..1_000_000) < per_million
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of the items.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// A duration around `mean`: mostly shorter, now and then several times as long.
    pub fn around(&mut self, mean: u64) -> u64 {
        match self.below(16) {
            0 => self.between(mean, mean * 4),
            _ => self.below(mean + mean / 2 + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_its_seed_and_part() {
        let numbers = |seed, part| {
            let mut random = Random::stream(seed, part);
            [random.any(), random.any()]
        };
        assert_eq!(numbers(1, 2), numbers(1, 2));
        assert_ne!(numbers(1, 2), numbers(1, 3));
        assert_ne!(numbers(1, 2), numbers(2, 2));
    }
}
