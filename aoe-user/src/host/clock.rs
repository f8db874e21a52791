//! Times of the kernel's clocks in nanoseconds, as packet filters and captures count them.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`: that of the filter's stamps.
pub(crate) fn monotonic_ns() -> u64 {
    ns_of(ClockId::Monotonic)
}

/// `CLOCK_REALTIME`.
pub(crate) fn since_1970_ns() -> u64 {
    ns_of(ClockId::Realtime)
}

fn ns_of(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let ns = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(ns)
}
