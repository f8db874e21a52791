//! Watches that what the filter redirects arrives, which no proof before the first frame can promise for every driver.

/// Frames that may be lost one after the other before the way in is held to be broken: an initiator that is not answered sends
/// again and again.
const ENOUGH: u64 = 3;

/// Compares what the filter redirected with what the workers got.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Something has arrived once: the way in works.
    works: bool,
    /// What the filter had redirected at the last look.
    redirected: u64,
}

impl Watch {
    /// Takes the totals since the port was opened; gives the number of redirected frames when none of them has arrived for one
    /// look, so that a frame on its way at this moment is nobody's fault.
    pub(super) fn look(&mut self, redirected: u64, arrived: u64) -> Option<u64> {
        self.works |= arrived > 0;
        let before = std::mem::replace(&mut self.redirected, redirected);
        (!self.works && before >= ENOUGH).then_some(redirected)
    }

    /// Has nothing more to say.
    pub(super) fn rest(&mut self) {
        self.works = true;
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;

    #[test]
    fn requests_that_never_arrive_are_noticed() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(0, 0), None);
        assert_eq!(watch.look(2, 0), None);
        assert_eq!(watch.look(5, 0), None, "these may be on their way");
        assert_eq!(watch.look(6, 0), Some(6));
    }

    #[test]
    fn a_way_that_has_worked_is_left_alone() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(100, 1), None);
        assert_eq!(watch.look(1_000_000, 1), None);
        assert_eq!(watch.look(2_000_000, 1), None);
    }
}
