//! How long the user has waited: since `cargo xtask` was typed, not since this program began.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the command began, the building of this program included.
///
/// `cargo run` replaces itself by the program that it has built, so the process began with cargo.
pub(crate) fn since_the_command_began() -> Duration {
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    let began = std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| start(&stat));
    began.map_or(Duration::ZERO, |began| now.saturating_sub(began))
}

/// When a process began, after the machine, from its `/proc/PID/stat`: field 22, in ticks of 10 ms on every Linux there is.
fn start(stat: &str) -> Option<Duration> {
    // The second field is a name in parentheses, which may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_any_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 0 1 0 0 0 3 4 0 0 20 0 1 0 12345 9 9";
        assert_eq!(start(stat), Some(Duration::from_millis(123_450)));
    }

    #[test]
    fn this_process_began_a_while_ago() {
        let first = since_the_command_began();
        assert!(first < Duration::from_secs(24 * 3600), "{first:?}");
        assert!(since_the_command_began() >= first);
    }
}
