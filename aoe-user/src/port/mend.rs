//! A port that has become deaf is opened again, with growing pauses while that does not help. Times are arguments.

use std::time::{Duration, Instant};

/// From one time to the next; doubled each time. The first is at once.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// The most that becomes.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Times in the same mode that must not have helped before another is tried: a card may be shaken while it is opened.
const TRIES_IN_A_MODE: u32 = 2;

/// What is wrong, until it is seen to work again.
#[derive(Debug)]
struct Fault {
    words: String,
    past_filter: bool,
}

/// What has been done about it.
#[derive(Debug, Default)]
pub(super) struct Mend {
    fault: Option<Fault>,
    tries: u32,
    next: Option<Instant>,
}

impl Mend {
    /// Something is wrong for the first time, or still and the pause is over.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    /// What is wrong.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_ref().map(|fault| fault.words.as_str())
    }

    /// It was not said yet.
    pub(super) const fn is_new(&self) -> bool {
        self.fault.is_none()
    }

    /// Opening it as it is has not helped.
    pub(super) const fn is_in_vain(&self) -> bool {
        self.tries >= TRIES_IN_A_MODE
    }

    /// It is about to be opened again for this reason. What goes past the filter is mended once that sees frames, anything else once workers
    /// get some.
    pub(super) fn tried(&mut self, words: String, past_filter: bool, now: Instant) {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.tries.min(16)).min(PAUSE_MAX);
        self.tries = self.tries.saturating_add(1);
        self.next = Some(now + pause);
        self.fault = Some(Fault { words, past_filter });
    }

    /// The filter has seen frames, and workers may have got some; true where that mends what was wrong.
    pub(super) fn looks_well(&mut self, arrived: bool) -> bool {
        let mended = self
            .fault
            .as_ref()
            .is_some_and(|fault| arrived || fault.past_filter);
        if mended {
            *self = Mend::default();
        }
        mended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(mend: &mut Mend, now: Instant) {
        mend.tried("deaf".into(), false, now);
    }

    #[test]
    fn pauses_grow_until_it_works() {
        let (mut mend, start) = (Mend::default(), Instant::now());
        assert!(mend.is_due(start) && mend.is_new());
        let mut now = start;
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            tried(&mut mend, now);
            assert!(!mend.is_new() && !mend.is_due(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(mend.is_due(now), "{seconds}");
        }
        assert!(mend.is_in_vain() && mend.fault() == Some("deaf"));
        assert!(mend.looks_well(true) && !mend.looks_well(true));
        assert!(mend.is_due(start) && mend.is_new() && !mend.is_in_vain());
    }

    #[test]
    fn one_failure_is_no_reason_for_another_mode() {
        let (mut mend, now) = (Mend::default(), Instant::now());
        tried(&mut mend, now);
        assert!(!mend.is_in_vain());
        tried(&mut mend, now);
        assert!(mend.is_in_vain());
    }

    #[test]
    fn a_filter_that_sees_frames_mends_only_what_went_past_it() {
        let (mut mend, now) = (Mend::default(), Instant::now());
        tried(&mut mend, now);
        assert!(!mend.looks_well(false) && mend.fault().is_some());
        mend.tried("deaf".into(), true, now);
        assert!(mend.looks_well(false) && mend.fault().is_none());
    }
}
