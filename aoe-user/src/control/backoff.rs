//! Why something is not served, and when it is tried again. Times are arguments.

use std::time::{Duration, Instant};

/// First pause between two tries; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The same reason is logged again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(600);

/// A failure that is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backoff {
    /// What went wrong the last time.
    pub(crate) reason: String,
    /// Tries that failed so far.
    pub(crate) tries: u32,
    /// When it failed first.
    pub(crate) since: Instant,
    /// When it is tried again.
    pub(crate) next_try: Instant,
    logged: Instant,
}

impl Backoff {
    /// Another failed try after `before`; the flag says whether it should be logged: a reason that is new, or that has
    /// not been logged for long.
    pub(super) fn after(before: Option<Backoff>, reason: String, now: Instant) -> (Backoff, bool) {
        let (tries, since, logged, is_new) = match before {
            None => (1, now, now, true),
            Some(before) => {
                let is_new = before.reason != reason || now.duration_since(before.logged) >= SAY_AGAIN;
                let logged = if is_new { now } else { before.logged };
                (before.tries.saturating_add(1), before.since, logged, is_new)
            }
        };
        let backoff = Backoff {
            reason,
            tries,
            since,
            next_try: now + pause(tries),
            logged,
        };
        (backoff, is_new)
    }

    /// Whether its time has come.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_try <= now
    }
}

fn pause(tries: u32) -> Duration {
    let doubled = 1u32
        .checked_shl(tries.saturating_sub(1))
        .filter(|factor| *factor > 0);
    doubled.map_or(PAUSE_MAX, |factor| {
        PAUSE_FIRST.saturating_mul(factor).min(PAUSE_MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let seconds = |tries| pause(tries).as_secs();
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(seconds), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!([32, 33, 34, u32::MAX].map(seconds), [30; 4]);
    }

    #[test]
    fn a_reason_is_logged_when_it_is_new_and_then_rarely() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let fail = |before, reason: &str, seconds| Backoff::after(before, reason.to_owned(), at(seconds));
        let (first, log) = fail(None, "missing", 0);
        assert!(log && first.tries == 1 && !first.is_due(at(0)) && first.is_due(at(1)));
        let (second, log) = fail(Some(first), "missing", 1);
        assert!(!log && second.tries == 2 && second.since == start);
        let (third, log) = fail(Some(second), "in use", 3);
        assert!(log && third.tries == 3);
        let (fourth, log) = fail(Some(third), "in use", 602);
        assert!(!log);
        let (_, log) = fail(Some(fourth), "in use", 603);
        assert!(log);
    }
}
