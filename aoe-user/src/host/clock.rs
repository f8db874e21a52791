//! Times of the kernel's clocks in nanoseconds, as packet filters and captures count them.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`: that of the filter's stamps.
pub(crate) fn monotonic_ns() -> u64 {
    ns_of(ClockId::Monotonic)
}

/// Nanoseconds by which `CLOCK_MONOTONIC` here is ahead of the filter's stamps: in a time namespace (as of a container that was moved)
/// it begins elsewhere, and the kernel's own does not (time_namespaces(7), Linux 5.6).
pub(crate) fn ahead_of_filter_ns() -> i64 {
    std::fs::read_to_string("/proc/self/timens_offsets").map_or(0, |text| offset_ns(&text))
}

/// The line `monotonic SECONDS NANOSECONDS`, as nanoseconds.
fn offset_ns(text: &str) -> i64 {
    let mut lines = text.lines().map(str::split_whitespace);
    let Some(mut words) = lines.find_map(|mut words| (words.next() == Some("monotonic")).then_some(words))
    else {
        return 0;
    };
    let mut number = || {
        words
            .next()
            .and_then(|word| word.parse::<i64>().ok())
            .unwrap_or(0)
    };
    let seconds = number();
    seconds.saturating_mul(1_000_000_000).saturating_add(number())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_time_namespace_is_read() {
        assert_eq!(
            offset_ns("monotonic           0         0\nboottime            0         0\n"),
            0
        );
        let text = "monotonic     -100000 500000000\nboottime      5 0\n";
        assert_eq!(offset_ns(text), -99_999_500_000_000);
        assert_eq!(offset_ns(""), 0);
    }
}
