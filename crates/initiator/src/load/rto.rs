//! When to send a request again: the estimator of RFC 6298, with limits that fit a disk.

use std::time::Duration;

/// Even a fast target may flush, group writes or lose its cpu for this long.
const FLOOR: Duration = Duration::from_millis(100);
const CEILING: Duration = Duration::from_secs(5);
const INITIAL: Duration = Duration::from_millis(250);

/// Round-trip estimator.
#[derive(Debug, Clone, Default)]
pub(super) struct Rto {
    smoothed_ns: f64,
    variation_ns: f64,
}

impl Rto {
    /// Learns from an answer to a request that was sent once.
    pub(super) fn sample(&mut self, round_trip: Duration) {
        let ns = round_trip.as_secs_f64() * 1e9;
        if self.smoothed_ns == 0.0 {
            (self.smoothed_ns, self.variation_ns) = (ns, ns / 2.0);
        } else {
            self.variation_ns += ((self.smoothed_ns - ns).abs() - self.variation_ns) / 4.0;
            self.smoothed_ns += (ns - self.smoothed_ns) / 8.0;
        }
    }

    /// How long to wait for an answer to the `tries`th copy, 1 being the first.
    pub(super) fn after(&self, tries: u32) -> Duration {
        let first = if self.smoothed_ns == 0.0 {
            INITIAL
        } else {
            Duration::from_nanos((self.smoothed_ns + 4.0 * self.variation_ns) as u64).max(FLOOR)
        };
        first.saturating_mul(1 << (tries - 1).min(10)).min(CEILING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_target_gets_the_floor_and_every_copy_twice_as_long() {
        let mut rto = Rto::default();
        assert_eq!(rto.after(1), INITIAL);
        rto.sample(Duration::from_micros(20));
        assert_eq!(rto.after(1), FLOOR);
        assert_eq!(rto.after(2), 2 * FLOOR);
        assert_eq!(rto.after(40), CEILING);
    }

    #[test]
    fn a_slow_target_is_given_its_time() {
        let mut rto = Rto::default();
        for _ in 0..100 {
            rto.sample(Duration::from_millis(400));
        }
        assert!(rto.after(1) >= Duration::from_millis(400));
        assert!(rto.after(1) < Duration::from_millis(600));
    }
}
