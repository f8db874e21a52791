//! When a machine was heard last.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A time that workers note with each request, and that costs them a look unless it is news.
#[derive(Debug)]
pub(super) struct Heard {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    /// It was heard since then.
    noted: AtomicBool,
    /// When it was heard last before that.
    before: Option<Instant>,
}

/// What is older than this is noted again.
const GRAIN: Duration = Duration::from_millis(100);

impl Heard {
    /// Just now.
    pub(super) fn now() -> Heard {
        Heard {
            began: Instant::now(),
            last: AtomicU64::new(0),
            noted: AtomicBool::new(false),
            before: None,
        }
    }

    /// Silence counts from now on; when the machine was heard is kept.
    pub(super) fn counted_anew(&self) -> Heard {
        let now = Instant::now();
        Heard {
            before: self.ago(now).and_then(|ago| now.checked_sub(ago)),
            ..Heard::now()
        }
    }

    pub(super) fn note(&self, now: Instant) {
        if !self.noted.load(Ordering::Relaxed) {
            self.noted.store(true, Ordering::Relaxed);
        }
        if self.silence(now) >= GRAIN {
            let since = now.saturating_duration_since(self.began).as_millis() as u64;
            self.last.fetch_max(since, Ordering::Relaxed);
        }
    }

    /// How long ago the machine was heard; `None`: nothing is known of that.
    pub(super) fn ago(&self, now: Instant) -> Option<Duration> {
        match self.noted.load(Ordering::Relaxed) {
            true => Some(self.silence(now)),
            false => Some(now.saturating_duration_since(self.before?)),
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

    #[test]
    fn what_was_heard_is_known_also_when_silence_counts_anew() {
        let never = Heard::now();
        assert_eq!(never.ago(never.began), None);
        assert_eq!(never.counted_anew().ago(Instant::now()), None);
        let heard = Heard::now();
        heard.note(heard.began);
        let anew = heard.counted_anew();
        let later = anew.began + Duration::from_secs(9);
        assert!(anew.ago(later) >= Some(Duration::from_secs(9)));
        anew.note(later);
        assert_eq!(anew.ago(later), Some(Duration::ZERO));
    }
}
