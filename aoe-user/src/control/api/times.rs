//! Histograms, in the words of the control socket.

use engine::Latency;
use serde::{Deserialize, Serialize};

/// A histogram.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Times {
    /// Pairs: the longest time of a bucket in microseconds, and the requests in it. Empty buckets are left out.
    pub(crate) buckets: Vec<(u64, u64)>,
    /// All times together, in microseconds.
    pub(crate) sum_us: u64,
}

impl From<&Latency> for Times {
    fn from(latency: &Latency) -> Times {
        Times {
            buckets: latency.filled().collect(),
            sum_us: latency.sum_us,
        }
    }
}

impl From<&Times> for Latency {
    fn from(times: &Times) -> Latency {
        let mut latency = Latency::default();
        for (limit_us, count) in &times.buckets {
            latency.add_bucket(*limit_us, *count);
        }
        latency.sum_us = times.sum_us;
        latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_survive_the_journey() {
        let mut latency = Latency::default();
        latency.add_bucket(8, 3);
        latency.add_bucket(1024, 1);
        latency.sum_us = 1048;
        let times = Times::from(&latency);
        assert_eq!(times.buckets, [(8, 3), (1024, 1)]);
        assert_eq!(Latency::from(&times), latency);
    }
}
