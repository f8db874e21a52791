//! How often the log is told of something that goes on.
//!
//! Somebody who retries for days must not fill the log: it is told at once, and then after 1 s, 2 s, 4 s … 10 min, each time
//! with the number of those that it was not told of.

use std::ops::Add;
use std::time::{Duration, Instant};

use engine::FaultKind;
use parking_lot::Mutex;

const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// What did not happen for this long has ended: the next one is told at once.
const QUIET: Duration = Duration::from_secs(1200);

/// When one thing is told again. `T` is a time that never goes back; an [`Instant`], or the time since some beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace<T = Instant> {
    last: Option<Last<T>>,
}

#[derive(Debug, Clone, Copy)]
struct Last<T> {
    seen: T,
    next: T,
    pause: Duration,
    untold: u64,
}

impl<T: Copy + Ord + Add<Duration, Output = T>> Pace<T> {
    /// Nothing has happened yet.
    pub(crate) const fn new() -> Pace<T> {
        Pace { last: None }
    }

    /// It happened again. If it is to be told now: how often it happened since it was told last, this time included.
    pub(crate) fn happened(&mut self, now: T) -> Option<u64> {
        let told = |pause, count| {
            let last = Last {
                seen: now,
                next: now + pause,
                pause,
                untold: 0,
            };
            (Some(last), Some(count))
        };
        let (last, count) = match self.last {
            Some(last) if now < last.next => {
                let untold = last.untold.saturating_add(1);
                let last = Last {
                    seen: now,
                    untold,
                    ..last
                };
                (Some(last), None)
            }
            Some(last) if now < last.seen + QUIET => {
                told((last.pause * 2).min(PAUSE_MAX), last.untold.saturating_add(1))
            }
            Some(last) => told(PAUSE_FIRST, last.untold.saturating_add(1)),
            None => told(PAUSE_FIRST, 1),
        };
        self.last = last;
        count
    }
}

impl<T: Copy + Ord + Add<Duration, Output = T>> Default for Pace<T> {
    fn default() -> Pace<T> {
        Pace::new()
    }
}

/// When faults of one disk are told: each kind has a pace of its own, so that reads that fail hide no write that does.
#[derive(Debug, Default)]
pub struct FaultPace {
    read: Mutex<Pace>,
    write: Mutex<Pace>,
    gone: Mutex<Pace>,
}

impl FaultPace {
    /// There was a fault now. If it is to be told: how many of its kind there were since one was, this one included.
    pub fn happened(&self, kind: FaultKind) -> Option<u64> {
        let pace = match kind {
            FaultKind::Read => &self.read,
            FaultKind::Write => &self.write,
            FaultKind::Gone => &self.gone,
        };
        pace.lock().happened(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn what_goes_on_for_days_is_told_less_and_less_often_and_all_of_it() {
        let mut pace = Pace::new();
        let told: Vec<(u64, u64)> = (0..3 * DAY)
            .filter_map(|second| Some((second, pace.happened(Duration::from_secs(second))?)))
            .collect();
        assert_eq!(told[..4], [(0, 1), (1, 1), (3, 2), (7, 4)]);
        assert!(told.len() < 12 + 3 * 144, "{} times in three days", told.len());
        let last = told.last().unwrap().0;
        assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), last + 1);
    }

    #[test]
    fn after_a_quiet_time_it_is_told_at_once() {
        let mut pace = Pace::new();
        let at = Duration::from_secs;
        for second in 0..DAY {
            pace.happened(at(second));
        }
        assert!(pace.happened(at(DAY) + QUIET).is_some());
        assert_eq!(
            pace.happened(at(DAY + 1) + QUIET),
            Some(1),
            "and then after the first pause"
        );
    }

    #[test]
    fn reads_that_fail_hide_no_write_that_does() {
        let pace = FaultPace::default();
        assert_eq!(pace.happened(FaultKind::Read), Some(1));
        assert_eq!(pace.happened(FaultKind::Read), None);
        assert_eq!(pace.happened(FaultKind::Write), Some(1));
    }
}
