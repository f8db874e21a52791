//! A limit on answers to wildcards: one small broadcast asks every export, and its source may be forged.

use std::collections::HashMap;

use aoe_common::Mac;

/// Sources remembered; when there are more, those that asked for nothing lately are forgotten.
const MAX_SOURCES: usize = 1024;

/// How many sources' worth of answers a port gives.
const PORT_FACTOR: u64 = 64;

const SECOND_US: u64 = 1_000_000;

#[derive(Debug)]
struct Bucket {
    left: u64,
    since_us: u64,
}

impl Bucket {
    fn full(size: u64, now_us: u64) -> Bucket {
        Bucket {
            left: size,
            since_us: now_us,
        }
    }

    /// Adds what has become due and takes one, if there is one. A bucket fills in two seconds.
    fn take(&mut self, size: u64, now_us: u64) -> bool {
        let elapsed = now_us
            .saturating_sub(self.since_us)
            .min(SECOND_US.saturating_mul(4));
        let due = elapsed
            .saturating_mul(size)
            .div_euclid(SECOND_US.saturating_mul(2));
        if due > 0 {
            self.left = self.left.saturating_add(due).min(size);
            self.since_us = now_us;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// Token buckets, one for the port and one for each source: a source may discover everything four times at once
/// and twice a second after that (at least 64 and 32 answers).
#[derive(Debug)]
pub(crate) struct Limiter {
    size: u64,
    port: Bucket,
    sources: HashMap<Mac, Bucket>,
    swept_us: u64,
}

impl Limiter {
    /// For a port with this many exports.
    pub(crate) fn new(exports: usize) -> Limiter {
        let size = (exports as u64).saturating_mul(4).max(64);
        Limiter {
            size,
            port: Bucket::full(size.saturating_mul(PORT_FACTOR), 0),
            sources: HashMap::new(),
            swept_us: 0,
        }
    }

    /// True when one more answer may go to `source`.
    pub(crate) fn take(&mut self, source: Mac, now_us: u64) -> bool {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            // Two seconds fill any bucket: such a source is as good as new. Not for each frame of a flood.
            let filled = SECOND_US.saturating_mul(2);
            if now_us.saturating_sub(self.swept_us) >= SECOND_US.div_euclid(10) {
                self.swept_us = now_us;
                self.sources
                    .retain(|_, bucket| now_us.saturating_sub(bucket.since_us) < filled);
            }
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let size = self.size;
        let bucket = self
            .sources
            .entry(source)
            .or_insert_with(|| Bucket::full(size, now_us));
        bucket.take(size, now_us) && self.port.take(size.saturating_mul(PORT_FACTOR), now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u64) -> Mac {
        Mac::from_u64(0x0200_0000_0000 | n)
    }

    #[test]
    fn a_source_gets_its_burst_then_its_rate() {
        let mut limiter = Limiter::new(1);
        let burst = (0..1000).filter(|_| limiter.take(mac(1), 5)).count();
        assert_eq!(burst, 64);
        assert!(limiter.take(mac(2), 5), "another source has its own");
        let later = (0..1000)
            .filter(|i| limiter.take(mac(1), 5 + SECOND_US + i))
            .count();
        assert_eq!(later, 32);
    }

    #[test]
    fn forged_sources_share_the_port() {
        let mut limiter = Limiter::new(1);
        let answers = (0..100_000).filter(|&i| limiter.take(mac(i), 7)).count();
        assert!(answers <= 64 * 64, "{answers}");
        assert!(limiter.sources.len() <= MAX_SOURCES);
        assert!(limiter.take(mac(200_000), 10 * SECOND_US), "recovers");
    }
}
