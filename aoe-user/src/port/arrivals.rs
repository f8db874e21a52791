//! When frames arrived, for those that the filter could not leave a stamp with: not before this.

/// What is known of the frames in a receive ring. Times are microseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// No frame of the batch at hand arrived before this.
    batch_us: u64,
    /// No frame that was not taken yet arrived before this.
    rest_us: u64,
    /// A time, and how much of what lay in the ring then is still there: what comes behind it arrived later.
    mark: Option<(u64, u32)>,
}

impl Arrivals {
    /// Nothing is known.
    pub(super) const fn new() -> Arrivals {
        Arrivals {
            batch_us: 0,
            rest_us: 0,
            mark: None,
        }
    }

    /// The worker has slept or spun until something came: what is there has only just arrived.
    pub(super) fn rested(&mut self, now_us: u64) {
        (self.rest_us, self.mark) = (now_us, None);
    }

    /// A batch is about to be taken from a ring with this many descriptors in it.
    pub(super) fn look(&mut self, waiting: u32, now_us: u64) {
        self.batch_us = self.rest_us;
        if self.mark.is_none() {
            self.mark = Some((now_us, waiting));
        }
    }

    /// So many of them were taken.
    pub(super) fn took(&mut self, descriptors: u32) {
        let Some((at_us, left)) = &mut self.mark else {
            return;
        };
        *left = left.saturating_sub(descriptors);
        if *left == 0 {
            (self.rest_us, self.mark) = (*at_us, None);
        }
    }

    /// The longest that a frame of the batch can have been in the ring.
    pub(super) fn age_us(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.batch_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_idle_worker_takes_is_new() {
        let mut arrivals = Arrivals::new();
        arrivals.rested(1_000_000);
        arrivals.look(3, 1_000_010);
        arrivals.took(3);
        assert_eq!(arrivals.age_us(1_000_015), 15);
    }

    #[test]
    fn what_came_while_the_worker_hung_may_be_as_old_as_that() {
        let mut arrivals = Arrivals::new();
        arrivals.rested(1_000_000);
        arrivals.look(1, 1_000_000);
        arrivals.took(1);
        // It hangs in this batch for five seconds; two more arrive meanwhile.
        assert_eq!(arrivals.age_us(6_000_000), 5_000_000);
        arrivals.look(2, 6_000_000);
        arrivals.took(2);
        assert_eq!(arrivals.age_us(6_000_000), 5_000_000);
        arrivals.look(1, 6_000_020);
        arrivals.took(1);
        assert_eq!(arrivals.age_us(6_000_030), 30, "those behind them are new");
    }

    #[test]
    fn a_ring_that_is_never_empty_does_not_make_frames_old() {
        let mut arrivals = Arrivals::new();
        arrivals.rested(0);
        // 100 descriptors wait at any time, 10 are taken in each round of 1 ms.
        for round in 1..10_000 {
            arrivals.look(100, round * 1000);
            arrivals.took(10);
            assert!(
                arrivals.age_us(round * 1000) <= 20_000,
                "twice the time to drain it at most"
            );
        }
    }
}
