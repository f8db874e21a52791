//! What a machine has done with its overlay since the counting began.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What was read from where and written, since [`OverlayTotals::since`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayTotals {
    /// Sectors read from the golden image.
    pub golden_sectors: u64,
    /// Sectors read from the delta.
    pub delta_sectors: u64,
    /// Sectors written, each as often as it was.
    pub written_sectors: u64,
    /// When the counting began.
    pub since: SystemTime,
}

/// Counts for one overlay. They are for people: one is not exact in relation to another.
#[derive(Debug)]
pub(crate) struct OverlayCounters {
    golden: AtomicU64,
    delta: AtomicU64,
    written: AtomicU64,
    /// Milliseconds since 1970.
    since: AtomicU64,
}

impl OverlayCounters {
    pub(crate) fn new() -> OverlayCounters {
        OverlayCounters {
            golden: AtomicU64::new(0),
            delta: AtomicU64::new(0),
            written: AtomicU64::new(0),
            since: AtomicU64::new(now()),
        }
    }

    #[inline]
    pub(crate) fn read(&self, golden: u64, delta: u64) {
        for (count, sectors) in [(&self.golden, golden), (&self.delta, delta)] {
            if sectors > 0 {
                count.fetch_add(sectors, Ordering::Relaxed);
            }
        }
    }

    #[inline]
    pub(crate) fn written(&self, sectors: u64) {
        self.written.fetch_add(sectors, Ordering::Relaxed);
    }

    /// Begins anew.
    pub(crate) fn clear(&self) {
        self.since.store(now(), Ordering::Relaxed);
        for count in [&self.golden, &self.delta, &self.written] {
            count.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> OverlayTotals {
        OverlayTotals {
            golden_sectors: self.golden.load(Ordering::Relaxed),
            delta_sectors: self.delta.load(Ordering::Relaxed),
            written_sectors: self.written.load(Ordering::Relaxed),
            since: UNIX_EPOCH + Duration::from_millis(self.since.load(Ordering::Relaxed)),
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64
}
