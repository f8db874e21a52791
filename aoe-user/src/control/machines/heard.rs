//! When a machine was heard last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A time that workers note with each request, and that costs them a look unless it is news.
#[derive(Debug)]
pub(super) struct Heard {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
}

/// What is older than this is noted again.
const GRAIN: Duration = Duration::from_millis(100);

impl Heard {
    /// Just now.
    pub(super) fn now() -> Heard {
        Heard {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    pub(super) fn note(&self, now: Instant) {
        if self.silence(now) >= GRAIN {
            let since = now.saturating_duration_since(self.began).as_millis() as u64;
            self.last.fetch_max(since, Ordering::Relaxed);
        }
    }

    pub(super) fn silence(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        now.saturating_duration_since(self.began).saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_with_a_note_and_no_earlier_one_brings_it_back() {
        let heard = Heard::now();
        let later = |seconds| heard.began + Duration::from_secs(seconds);
        assert_eq!(heard.silence(later(9)), Duration::from_secs(9));
        heard.note(later(10));
        heard.note(later(5));
        assert_eq!(heard.silence(later(12)), Duration::from_secs(2));
        assert_eq!(heard.silence(later(3)), Duration::ZERO);
    }
}
