//! A port that has become deaf is opened again, with growing pauses while that does not help. Times are arguments.

use std::time::{Duration, Instant};

/// From one time to the next; doubled each time. The first is at once.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// The most that becomes.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Times in the same mode that must not have helped before another is tried: a card may be shaken while it is opened.
const TRIES_IN_A_MODE: u32 = 2;
/// Times after which a port that has never worked and has no mode left is opened no more: some drivers take the link down for it, under the
/// other traffic of the host.
const TRIES_IN_ALL: u32 = 3;
/// Without a newly lost frame for so long nothing is known to be wrong any more: initiators give up.
const FORGIVEN: Duration = Duration::from_secs(300);

/// What is wrong, until it is seen to work again.
#[derive(Debug)]
struct Fault {
    words: String,
    past_filter: bool,
    /// Frames that were missed since the port was opened again, and when the last one was.
    missed: u64,
    since: Instant,
}

/// What has been done about it.
#[derive(Debug, Default)]
pub(super) struct Mend {
    fault: Option<Fault>,
    /// In this mode.
    tries: u32,
    next: Option<Instant>,
    /// Workers got frames in this mode, and in any.
    works: bool,
    has_worked: bool,
    /// The port is opened no more until the carrier has come back; how often it had come or gone then.
    rests: Option<u32>,
}

impl Mend {
    /// Something is wrong for the first time, or still and the pause is over.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.rests.is_none() && self.next.is_none_or(|next| next <= now)
    }

    /// What is wrong.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_ref().map(|fault| fault.words.as_str())
    }

    /// It was not said yet.
    pub(super) const fn is_new(&self) -> bool {
        self.fault.is_none()
    }

    /// This mode has never worked, as far as frames that the filter redirects show it.
    pub(super) const fn has_failed(&self, past_filter: bool) -> bool {
        !past_filter && !self.works
    }

    /// Another mode should be tried: opening it as it is has not helped, or cannot.
    pub(super) const fn leaves_mode(&self, past_filter: bool) -> bool {
        self.has_failed(past_filter) || self.tries >= TRIES_IN_A_MODE
    }

    /// Where no mode is left, nothing is left to try.
    pub(super) const fn is_in_vain(&self) -> bool {
        !self.has_worked && self.tries >= TRIES_IN_ALL
    }

    /// It is about to be opened again for this reason. What goes past the filter is mended once that sees frames, anything else once workers
    /// get some.
    pub(super) fn tried(&mut self, words: String, past_filter: bool, now: Instant) {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.tries.min(16)).min(PAUSE_MAX);
        self.tries = self.tries.saturating_add(1);
        self.next = Some(now + pause);
        self.fault = Some(Fault {
            words,
            past_filter,
            missed: 0,
            since: now,
        });
    }

    /// It was opened again in another mode, of which nothing is known.
    pub(super) const fn mode_changed(&mut self) {
        self.tries = 0;
        self.works = false;
    }

    /// Leaves it as it is until the carrier, which has come or gone so often, has come back.
    pub(super) fn rest(&mut self, words: String, carrier_changes: u32) {
        if let Some(fault) = &mut self.fault {
            fault.words = words;
        }
        self.rests = Some(carrier_changes);
    }

    /// The link as it is now: what did not help before may help after it has changed.
    pub(super) fn link(&mut self, has_carrier: bool, carrier_changes: u32) {
        let comes_back = |before| has_carrier && before != carrier_changes;
        if self.rests.is_some_and(comes_back) {
            (self.rests, self.tries, self.next) = (None, 0, None);
        }
    }

    /// The filter has seen frames, and workers may have got some; true where that mends what was wrong.
    pub(super) fn looks_well(&mut self, arrived: bool) -> bool {
        self.works |= arrived;
        self.has_worked |= arrived;
        let mends = |fault: &Fault| arrived || fault.past_filter;
        self.ends_if(mends)
    }

    /// So many frames were missed since the port was opened; true where it is so long that none was added that what was wrong is forgiven.
    pub(super) fn is_forgiven(&mut self, missed: u64, now: Instant) -> bool {
        let Some(fault) = &mut self.fault else {
            return false;
        };
        if std::mem::replace(&mut fault.missed, missed) != missed {
            fault.since = now;
        }
        let is_over = now.saturating_duration_since(fault.since) >= FORGIVEN;
        self.rests.is_none() && self.ends_if(|_| is_over)
    }

    fn ends_if(&mut self, is_over: impl Fn(&Fault) -> bool) -> bool {
        let ends = self.fault.as_ref().is_some_and(is_over);
        if ends {
            *self = Mend {
                works: self.works,
                has_worked: self.has_worked,
                ..Mend::default()
            };
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(mend: &mut Mend, now: Instant) {
        mend.tried("deaf".into(), false, now);
    }

    fn has_worked() -> Mend {
        let mut mend = Mend::default();
        mend.looks_well(true);
        mend
    }

    #[test]
    fn pauses_grow_until_it_works() {
        let (mut mend, start) = (has_worked(), Instant::now());
        assert!(mend.is_due(start) && mend.is_new());
        let mut now = start;
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            tried(&mut mend, now);
            assert!(!mend.is_new() && !mend.is_due(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(mend.is_due(now), "{seconds}");
        }
        assert!(mend.leaves_mode(false) && !mend.is_in_vain() && mend.fault() == Some("deaf"));
        assert!(mend.looks_well(true) && !mend.looks_well(true));
        assert!(mend.is_due(start) && mend.is_new() && !mend.leaves_mode(false));
    }

    #[test]
    fn one_failure_is_no_reason_for_another_mode() {
        let (mut mend, now) = (has_worked(), Instant::now());
        tried(&mut mend, now);
        assert!(!mend.leaves_mode(false));
        tried(&mut mend, now);
        assert!(mend.leaves_mode(false));
    }

    #[test]
    fn failures_in_one_mode_do_not_count_in_the_next() {
        let (mut mend, now) = (has_worked(), Instant::now());
        let goes_past = |mend: &mut Mend| mend.tried("deaf".into(), true, now);
        goes_past(&mut mend);
        goes_past(&mut mend);
        assert!(mend.leaves_mode(true));
        mend.mode_changed();
        assert!(!mend.is_due(now) && mend.fault().is_some(), "the pause goes on");
        goes_past(&mut mend);
        assert!(!mend.leaves_mode(true));
        goes_past(&mut mend);
        assert!(mend.leaves_mode(true));
    }

    #[test]
    fn a_mode_that_has_never_worked_is_left_at_once() {
        let mut mend = Mend::default();
        assert!(mend.leaves_mode(false) && !mend.leaves_mode(true));
        mend.looks_well(true);
        assert!(!mend.leaves_mode(false));
        mend.mode_changed();
        assert!(mend.leaves_mode(false));
    }

    #[test]
    fn what_has_never_worked_is_left_alone_until_its_link_changes() {
        let (mut mend, now) = (Mend::default(), Instant::now());
        for _ in 0..TRIES_IN_ALL {
            assert!(!mend.is_in_vain());
            tried(&mut mend, now);
        }
        assert!(mend.is_in_vain());
        let later = now + PAUSE_MAX + FORGIVEN;
        assert!(mend.is_due(later));
        mend.rest("left".into(), 4);
        mend.link(true, 4);
        mend.link(false, 5);
        assert!(!mend.is_due(later) && !mend.is_forgiven(0, later) && mend.fault() == Some("left"));
        mend.link(true, 6);
        assert!(mend.is_due(now) && !mend.is_in_vain() && mend.fault().is_some());
    }

    #[test]
    fn what_is_left_alone_is_well_again_when_frames_arrive() {
        let (mut mend, now) = (Mend::default(), Instant::now());
        tried(&mut mend, now);
        mend.rest("left".into(), 4);
        assert!(mend.looks_well(true) && mend.fault().is_none() && mend.is_due(now));
    }

    #[test]
    fn a_filter_that_sees_frames_mends_only_what_went_past_it() {
        let (mut mend, now) = (Mend::default(), Instant::now());
        tried(&mut mend, now);
        assert!(!mend.looks_well(false) && mend.fault().is_some());
        mend.tried("deaf".into(), true, now);
        assert!(mend.looks_well(false) && mend.fault().is_none());
    }

    #[test]
    fn five_minutes_without_a_newly_lost_frame_end_a_fault() {
        let (mut mend, start) = (has_worked(), Instant::now());
        assert!(!mend.is_forgiven(0, start + FORGIVEN), "nothing is wrong");
        tried(&mut mend, start);
        let nearly = start + FORGIVEN - Duration::from_secs(1);
        assert!(!mend.is_forgiven(0, nearly));
        assert!(!mend.is_forgiven(1, nearly), "one more was lost");
        assert!(!mend.is_forgiven(1, start + FORGIVEN));
        assert!(mend.is_forgiven(1, nearly + FORGIVEN));
        assert!(mend.fault().is_none() && mend.is_due(start) && !mend.leaves_mode(false));
    }
}
