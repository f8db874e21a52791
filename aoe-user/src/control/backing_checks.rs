//! When each export looks whether what is behind it is still there: nothing else tells of an image that was deleted, replaced or cut
//! short while nobody writes. `health()` of its store has what was found.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::plan::ExportId;

/// How often.
const PACE: Duration = Duration::from_secs(5);

/// Which looks are due and under way.
#[derive(Debug)]
pub(super) struct BackingChecks {
    next: Instant,
    /// Their looks are not over: the disk hangs, or is slow.
    running: HashSet<ExportId>,
}

impl BackingChecks {
    pub(super) fn new(now: Instant) -> BackingChecks {
        BackingChecks {
            next: now + PACE,
            running: HashSet::new(),
        }
    }

    /// Which of these are to look now, and when to ask again.
    pub(super) fn due(
        &mut self,
        open: impl Iterator<Item = ExportId>,
        now: Instant,
    ) -> (Vec<ExportId>, Instant) {
        if now < self.next {
            return (Vec::new(), self.next);
        }
        self.next = now + PACE;
        let due = open.filter(|id| self.running.insert(*id)).collect();
        (due, self.next)
    }

    /// A look is over.
    pub(super) fn ended(&mut self, id: ExportId) {
        self.running.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_hangs_is_not_begun_again_and_keeps_no_other() {
        let start = Instant::now();
        let mut checks = BackingChecks::new(start);
        let mut due = |ended: Option<ExportId>, at: Duration| {
            ended.into_iter().for_each(|id| checks.ended(id));
            checks.due([ExportId(1), ExportId(2)].into_iter(), start + at).0
        };
        assert_eq!(due(None, PACE / 2), []);
        assert_eq!(due(None, PACE), [ExportId(1), ExportId(2)]);
        assert_eq!(due(Some(ExportId(2)), PACE * 3 / 2), []);
        assert_eq!(due(None, PACE * 2), [ExportId(2)]);
        assert_eq!(due(Some(ExportId(1)), PACE * 3), [ExportId(1)]);
    }
}
