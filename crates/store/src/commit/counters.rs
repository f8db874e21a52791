//! What a committer counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of all commits since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    commits: AtomicU64,
    failed: AtomicU64,
    waiters: AtomicU64,
    largest_group: AtomicU64,
    commit_us: AtomicU64,
    longest_us: AtomicU64,
    panics: AtomicU64,
}

impl Counters {
    /// Whether there was one.
    pub(super) fn any(&self) -> bool {
        self.commits.load(Ordering::Relaxed) > 0
    }

    /// Counts one.
    pub(super) fn count(&self, took: Duration, waiters: usize, failed: bool) {
        let (waiters, took_us) = (waiters as u64, took.as_micros() as u64);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.waiters.fetch_add(waiters, Ordering::Relaxed);
        self.largest_group.fetch_max(waiters, Ordering::Relaxed);
        self.commit_us.fetch_add(took_us, Ordering::Relaxed);
        self.longest_us.fetch_max(took_us, Ordering::Relaxed);
    }

    /// Counts a panic of whoever commits; gives how many there have been.
    pub(super) fn count_panic(&self) -> u32 {
        let before = self.panics.fetch_add(1, Ordering::Relaxed);
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    }

    /// All figures.
    pub(super) fn by_name(&self) -> Vec<(&'static str, u64)> {
        [
            ("commits", &self.commits),
            ("commits_failed", &self.failed),
            ("commit_waiters", &self.waiters),
            ("commit_group_max", &self.largest_group),
            ("commit_us_total", &self.commit_us),
            ("commit_us_max", &self.longest_us),
            ("commit_panics", &self.panics),
        ]
        .map(|(name, figure)| (name, figure.load(Ordering::Relaxed)))
        .to_vec()
    }
}
