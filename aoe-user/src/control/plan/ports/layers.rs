//! Interfaces made of others: a bridge or bond over its ports, a macvlan or VLAN device over its parent. The kernel attaches no XDP program
//! to an interface while one right above it has one, so that the lower one is opened first; the other way round both can be served.

use std::time::{Duration, Instant};

use super::super::{Claim, HANDOVER, Level, Plan};
use super::{PlannedPort, PortLife};
use crate::control::backoff::Backoff;
use crate::host::Interface;

/// So often those above are closed for one that fails as often as it is tried; after that the pauses begin.
const TRIES: u32 = 3;
/// The first pause between two interruptions of those above; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(60);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// When to look again at a port that waits, where no event will tell.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// When to look again at one that may not interrupt those above it: they may have gone by themselves.
const LOOK_ABOVE: Duration = Duration::from_secs(30);

/// How often those above a port were closed for it since it was served, and when they may be again. Each time they are silent for a
/// moment, and for nothing where what keeps the lower one from being served lasts.
#[derive(Debug, Default)]
pub(in super::super) struct Interruptions {
    count: u32,
    not_before: Option<Instant>,
}

impl Interruptions {
    /// One more now, if it is time.
    fn begin(&mut self, now: Instant) -> bool {
        if self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        self.count = self.count.saturating_add(1);
        self.not_before = self.count.checked_sub(TRIES).map(|more| {
            let factor = 1u32.checked_shl(more).unwrap_or(u32::MAX);
            now + PAUSE_FIRST.saturating_mul(factor.max(1)).min(PAUSE_MAX)
        });
        true
    }

    /// What kept it from being served may have gone: the next one need not wait.
    pub(super) const fn allow(&mut self) {
        self.not_before = None;
    }

    /// It is served.
    pub(in super::super) fn forget(&mut self) {
        *self = Interruptions::default();
    }
}

/// An interface is another one, or set otherwise than before. Carrier and programs do not count: opening a port changes them itself.
pub(super) fn is_set_anew(before: Option<&Interface>, link: Option<&Interface>) -> bool {
    let settings = |link: &Interface| Interface {
        carrier: false,
        carrier_changes: 0,
        has_xdp: false,
        ..link.clone()
    };
    before.map(settings) != link.map(settings)
}

impl PlannedPort {
    /// It will be open or have failed soon.
    fn is_on_its_way(&self) -> bool {
        let asking = || {
            self.claims
                .values()
                .any(|claim| matches!(claim, Claim::Asking(..)))
        };
        match self.life {
            PortLife::Empty => !self.view.exports.is_empty() || self.stands_by || asking(),
            PortLife::After(..) | PortLife::Opening(..) => true,
            PortLife::Absent(_) | PortLife::Down | PortLife::Open(..) | PortLife::Failed(_) => false,
        }
    }
}

impl Plan {
    /// Whether a port that could be opened has to wait: for those below it, or until those above it are closed, which are opened again
    /// after it.
    pub(super) fn waits_for_layers(
        &mut self,
        name: &str,
        link: &Interface,
        before: Option<&Backoff>,
        now: Instant,
    ) -> bool {
        let is_below = |other: &String| self.links.get(other).is_some_and(|lower| link.is_over(lower));
        if self
            .ports
            .iter()
            .any(|(other, port)| port.is_on_its_way() && is_below(other))
        {
            self.postpone(name, now);
            return true;
        }
        let above = self.links.values().filter(|upper| upper.is_over(link));
        let above: Vec<(String, u32)> = above.map(|upper| (upper.name.clone(), upper.index)).collect();
        let is_open = |upper: &&String| {
            self.ports
                .get(*upper)
                .is_some_and(|port| port.open_id().is_some())
        };
        let open: Vec<String> = above
            .iter()
            .map(|(upper, _)| upper)
            .filter(is_open)
            .cloned()
            .collect();
        if !open.is_empty() && !self.may_interrupt(name, before, now) {
            return true;
        }
        for upper in open {
            let line = format!("{upper}: opening it again after {name}, which is below it");
            self.say(Level::Info, line);
            self.end(&upper, PortLife::Empty, now);
        }
        let ending = self.leaving_ports.iter().find(|(_, leaving)| {
            now < leaving.since + HANDOVER && above.iter().any(|(_, index)| *index == leaving.index)
        });
        let Some((id, since)) = ending.map(|(id, leaving)| (*id, leaving.since)) else {
            return false;
        };
        if let Some(port) = self.ports.get_mut(name) {
            port.life = PortLife::After(id, since, before.cloned());
        }
        true
    }

    /// Whether those above a port may be closed for it now. Else it stays as it is: the kernel would refuse it below them.
    fn may_interrupt(&mut self, name: &str, before: Option<&Backoff>, now: Instant) -> bool {
        let Some(port) = self.ports.get_mut(name) else {
            return false;
        };
        let Some(before) = before else {
            // It has not failed: it comes up, or changes.
            port.interruptions.forget();
            return port.interruptions.begin(now);
        };
        let may = port.interruptions.begin(now);
        if !may {
            let mut backoff = before.clone();
            backoff.next_try = now + LOOK_ABOVE;
            port.life = PortLife::Failed(backoff);
        }
        may
    }

    /// Its time had come, and it waits: not to be asked for at once again.
    fn postpone(&mut self, name: &str, now: Instant) {
        match self.ports.get_mut(name).map(|port| &mut port.life) {
            Some(PortLife::Failed(backoff)) => backoff.next_try = now + LOOK_AGAIN,
            Some(PortLife::After(_, since, _)) if now >= *since + HANDOVER => *since = now,
            // What it waits for may end without an event: with nothing to serve after all, for one.
            _ => self.ports_stale = true,
        }
    }
}
