//! How long requests took: a histogram that one thread writes and others read.
//!
//! Buckets are log-linear, four to each power of two: a quantile read from them is at most a quarter too high. A value of
//! exactly a power of two is the last of its bucket, so that cumulative counts up to powers of two are exact.

use crate::counters::EventCount;

/// Buckets; the last takes everything from about a minute on.
pub const BUCKETS: usize = 104;

/// Times by bucket.
#[derive(Debug)]
pub struct Histogram {
    buckets: [EventCount; BUCKETS],
    sum_us: EventCount,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: std::array::from_fn(|_| EventCount::default()),
            sum_us: EventCount::default(),
        }
    }
}

impl Histogram {
    /// Counts a time.
    #[inline]
    pub(crate) fn record(&self, us: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(us)) {
            bucket.bump();
        }
        self.sum_us.add(us);
    }

    /// Adds what was counted to `into`.
    pub fn add_to(&self, into: &mut Latency) {
        for (total, bucket) in into.buckets.iter_mut().zip(&self.buckets) {
            *total = total.saturating_add(bucket.get());
        }
        into.sum_us = into.sum_us.saturating_add(self.sum_us.get());
    }
}

fn bucket_of(us: u64) -> usize {
    let value = us.saturating_sub(1);
    if value < 4 {
        return usize::try_from(value).unwrap_or(0);
    }
    let top = value.ilog2();
    let quarter = (value >> top.saturating_sub(2)) & 3;
    let octave = u64::from(top.saturating_sub(1));
    let bucket = octave.saturating_mul(4).saturating_add(quarter);
    usize::try_from(bucket)
        .unwrap_or(BUCKETS)
        .min(BUCKETS.saturating_sub(1))
}

/// The longest time that a bucket takes, in microseconds; of the last one, where it begins to take more.
pub(crate) fn bucket_limit_us(bucket: usize) -> u64 {
    let next = u64::try_from(bucket).unwrap_or(0).saturating_add(1);
    if next < 4 {
        return next;
    }
    let shift = u32::try_from(next / 4).unwrap_or(0).saturating_sub(1);
    (next % 4).saturating_add(4) << shift
}

/// What histograms had counted at one moment, added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Requests by bucket; [`bucket_limit_us`] says how long they took.
    pub buckets: [u64; BUCKETS],
    /// All their times, in microseconds.
    pub sum_us: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency {
            buckets: [0; BUCKETS],
            sum_us: 0,
        }
    }
}

impl Latency {
    /// Requests counted.
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Requests that took at most `us`, a power of two.
    pub fn count_up_to(&self, us: u64) -> u64 {
        let within = self.buckets.iter().enumerate();
        within
            .take_while(|(bucket, _)| bucket_limit_us(*bucket) <= us)
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The time that this share of the requests did not exceed, in microseconds; `None` without a request.
    pub fn quantile_us(&self, permille: u64) -> Option<u64> {
        let count = self.count();
        let rank = count.saturating_mul(permille).div_ceil(1000).max(1);
        let mut seen = 0u64;
        for (bucket, of_it) in self.buckets.iter().enumerate() {
            seen = seen.saturating_add(*of_it);
            if seen >= rank {
                return Some(bucket_limit_us(bucket));
            }
        }
        None
    }

    /// What came on top of an earlier reading of the same histograms.
    pub fn since(&self, before: &Latency) -> Latency {
        let mut since = self.clone();
        for (count, before) in since.buckets.iter_mut().zip(before.buckets) {
            *count = count.saturating_sub(before);
        }
        since.sum_us = since.sum_us.saturating_sub(before.sum_us);
        since
    }

    /// Adds requests of the bucket that [`bucket_limit_us`] has this limit for.
    pub fn add_bucket(&mut self, limit_us: u64, count: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(limit_us)) {
            *bucket = bucket.saturating_add(count);
        }
    }

    /// The buckets that have requests: the longest time of each and how many.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> {
        let buckets = self.buckets.iter().enumerate();
        buckets
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (bucket_limit_us(bucket), *count))
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Latency) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets) {
            *count = count.saturating_add(more);
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_within_a_quarter_below_the_limit_of_its_bucket() {
        for us in (0..5000).chain([65_536, 65_537, 1 << 20, 40_000_000, 60_000_000]) {
            let bucket = bucket_of(us);
            let limit = bucket_limit_us(bucket);
            assert!(us <= limit, "{us} is in the bucket up to {limit}");
            assert!(limit <= us.max(1) + us.max(1) / 4 + 1, "{us}: {limit}");
            if bucket > 0 {
                assert!(us > bucket_limit_us(bucket - 1), "{us} fits the bucket before");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn counts_up_to_powers_of_two_are_exact() {
        let histogram = Histogram::default();
        for us in [0, 1, 2, 3, 4, 5, 1024, 1025] {
            histogram.record(us);
        }
        let mut latency = Latency::default();
        histogram.add_to(&mut latency);
        assert_eq!(
            [1, 2, 4, 1024, 1 << 26].map(|us| latency.count_up_to(us)),
            [2, 3, 5, 7, 8]
        );
        assert_eq!((latency.count(), latency.sum_us), (8, 2064));
    }

    #[test]
    fn buckets_are_known_by_their_limits() {
        let mut latency = Latency::default();
        for bucket in 0..BUCKETS {
            latency.add_bucket(bucket_limit_us(bucket), bucket as u64);
        }
        assert!(latency.filled().map(|(_, count)| count).eq(1..BUCKETS as u64));
    }

    #[test]
    fn quantiles_come_from_the_buckets() {
        let histogram = Histogram::default();
        let mut before = Latency::default();
        assert_eq!(before.quantile_us(500), None);
        histogram.record(1_000_000);
        histogram.add_to(&mut before);
        for _ in 0..98 {
            histogram.record(8);
        }
        histogram.record(100);
        histogram.record(100);
        let mut now = Latency::default();
        histogram.add_to(&mut now);
        let since = now.since(&before);
        assert_eq!(since.count(), 100);
        assert_eq!(since.quantile_us(500), Some(8));
        assert_eq!(since.quantile_us(980), Some(8));
        assert_eq!(
            since.quantile_us(990),
            Some(112),
            "100 lies in the bucket up to 112"
        );
    }
}
