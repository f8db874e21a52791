//! Watches that what the card receives gets to the filter, and what the filter redirects to the workers, which no proof before the first
//! frame can promise for every driver, nor for what happens to the card later.
//!
//! **Past the filter.** The filter counts every frame that it sees, whatever it decides. A card that counts frames while the filter sees none is
//! reason enough to listen behind the filter, where the network stack gets its frames, but no proof: some cards count what they drop, and a
//! bond what its idle slave gets. AoE frames that are heard there while the filter has still not seen one are proof, in every mode and on every
//! kind of interface: its program does not run. So it was seen on vmxnet3, whose driver forgets the program with its rings
//! (`vmxnet3_rq_cleanup_all`), at `ip link set down` for example, while the kernel goes on to show it as attached.
//!
//! **Lost behind the filter.** What the filter redirects lies in a socket's ring at once. Where workers turn or sleep and get none of
//! it, the sockets get none: a program that runs on a bond's slaves, or a driver that has lost their queues.

/// Frames that may be lost one after the other before the way in is held to be broken: an initiator that is not answered sends
/// again and again.
const ENOUGH: u64 = 3;

/// What there is to see, all of it counted since the port was opened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sight {
    /// Frames that the card has received, as far as the kernel tells. Drivers begin anew with it when they like.
    pub(crate) received: Option<u64>,
    /// AoE frames that were heard behind the filter since somebody listens there. To be read before what the filter has seen.
    pub(crate) heard: Option<u64>,
    /// Frames that the filter has seen.
    pub(crate) seen: u64,
    /// Those of them that it has redirected.
    pub(crate) redirected: u64,
    /// Frames that workers got, or the kernel counted as dropped.
    pub(crate) arrived: u64,
    /// No worker hangs with a disk: what lies in its ring is taken.
    pub(crate) workers_turn: bool,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Workers got frames.
    Works,
    /// The filter has seen frames.
    Sees,
    /// Nothing new.
    Quiet,
    /// Somebody should listen behind the filter.
    Listen,
    /// So many AoE frames went past the filter.
    Past(u64),
    /// So many frames were redirected, and no worker got any.
    Lost(u64),
}

/// Compares what there is to see with what there was.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What the filter had seen, and the card received then.
    seen: u64,
    received: Option<u64>,
    /// What had arrived, and the filter redirected then.
    arrived: u64,
    redirected: u64,
    /// Lost since then, at the last look: what is on its way at this moment is nobody's fault.
    lost: u64,
    /// Heard behind the filter, at the last look.
    heard: u64,
}

impl Watch {
    /// Frames that did not arrive, as far as they were seen: it changes with each newly lost one.
    pub(super) const fn missed(&self) -> u64 {
        self.lost.saturating_add(self.heard)
    }

    /// To be called every second or so.
    pub(super) fn look(&mut self, sight: Sight) -> Finding {
        let arrives = self.arrived != sight.arrived;
        self.heard = sight.heard.unwrap_or(0);
        if let Some(lost) = self.lost(sight) {
            return Finding::Lost(lost);
        }
        if arrives || self.seen != sight.seen {
            (self.seen, self.received) = (sight.seen, sight.received);
            return if arrives { Finding::Works } else { Finding::Sees };
        }
        let Some(received) = sight.received else {
            return Finding::Quiet;
        };
        let before = *self.received.get_or_insert(received);
        if received < before {
            // The driver counts anew: all of it is younger than that.
            self.received = Some(0);
        }
        match sight.heard {
            Some(heard) if heard >= ENOUGH => Finding::Past(heard),
            Some(_) => Finding::Listen,
            None if received.checked_sub(before).unwrap_or(received) >= ENOUGH => Finding::Listen,
            None => Finding::Quiet,
        }
    }

    /// How many redirected frames have got lost, where none has arrived for a whole look.
    fn lost(&mut self, sight: Sight) -> Option<u64> {
        if self.arrived != sight.arrived || !sight.workers_turn {
            (self.arrived, self.redirected) = (sight.arrived, sight.redirected);
        }
        let lost = sight.redirected.saturating_sub(self.redirected);
        let before = std::mem::replace(&mut self.lost, lost);
        (lost >= before && before >= ENOUGH).then_some(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(received: u64, seen: u64) -> Sight {
        Sight {
            received: Some(received),
            seen,
            workers_turn: true,
            ..Sight::default()
        }
    }

    fn redirected(redirected: u64, arrived: u64) -> Sight {
        Sight {
            seen: redirected,
            redirected,
            arrived,
            workers_turn: true,
            ..Sight::default()
        }
    }

    #[test]
    fn requests_that_never_arrive_are_noticed() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(redirected(0, 0)), Finding::Quiet);
        assert_eq!(watch.look(redirected(2, 0)), Finding::Sees);
        assert_eq!(
            watch.look(redirected(5, 0)),
            Finding::Sees,
            "these may be on their way"
        );
        assert_eq!(watch.look(redirected(6, 0)), Finding::Lost(6));
        assert_eq!(watch.missed(), 6);
    }

    #[test]
    fn requests_that_arrive_no_more_are_noticed() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(redirected(1000, 990)), Finding::Works);
        // The ten were on their way, and one more is.
        assert_eq!(watch.look(redirected(1001, 1000)), Finding::Works);
        assert_eq!(watch.look(redirected(1005, 1000)), Finding::Sees);
        assert_eq!(watch.look(redirected(1007, 1000)), Finding::Lost(6));
    }

    #[test]
    fn what_waits_for_a_worker_that_hangs_is_not_lost() {
        let mut watch = Watch::default();
        watch.look(redirected(100, 100));
        let hangs = |redirected| Sight {
            redirected,
            seen: redirected,
            arrived: 100,
            ..Sight::default()
        };
        for many in [200, 300, 400] {
            assert_eq!(watch.look(hangs(many)), Finding::Sees);
        }
        // It turns again, and takes what waited only now.
        assert_eq!(watch.look(redirected(410, 100)), Finding::Sees);
        assert_eq!(watch.look(redirected(420, 420)), Finding::Works);
        assert_eq!(watch.look(redirected(420, 420)), Finding::Quiet);
    }

    #[test]
    fn a_card_that_counts_alone_is_listened_to_and_no_more() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(sight(100, 50)), Finding::Sees);
        assert_eq!(watch.look(sight(102, 50)), Finding::Quiet);
        assert_eq!(watch.look(sight(103, 50)), Finding::Listen);
        for received in [104, 1000, 1_000_000] {
            let nothing = Sight {
                heard: Some(0),
                ..sight(received, 50)
            };
            assert_eq!(watch.look(nothing), Finding::Listen);
        }
        assert_eq!(watch.look(sight(1_000_001, 51)), Finding::Sees);
        assert_eq!(watch.look(sight(1_000_002, 51)), Finding::Quiet);
    }

    #[test]
    fn what_is_heard_behind_a_filter_that_sees_nothing_went_past_it() {
        let mut watch = Watch::default();
        watch.look(sight(1000, 1000));
        // The driver has made its rings anew, and counts anew.
        assert_eq!(watch.look(sight(4, 1000)), Finding::Listen);
        let heard = |heard, received, seen| Sight {
            heard: Some(heard),
            ..sight(received, seen)
        };
        assert_eq!(watch.look(heard(2, 6, 1000)), Finding::Listen);
        assert_eq!(watch.look(heard(3, 7, 1000)), Finding::Past(3));
        assert_eq!(watch.missed(), 3);
        assert_eq!(
            watch.look(heard(9, 20, 1006)),
            Finding::Sees,
            "what it passes is heard as well"
        );
    }

    #[test]
    fn nothing_is_said_where_the_kernel_does_not_count() {
        let mut watch = Watch::default();
        let blind = Sight {
            received: None,
            ..sight(0, 0)
        };
        assert_eq!(watch.look(blind), Finding::Quiet);
        assert_eq!(watch.look(blind), Finding::Quiet);
        // Nor from the first look alone, of a card that has counted before it was served.
        assert_eq!(watch.look(sight(5_000, 0)), Finding::Quiet);
    }
}
