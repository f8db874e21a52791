//! Interfaces made of others: a bridge or bond over its ports, a macvlan or VLAN device over its parent. The kernel attaches no XDP program
//! to an interface while one right above it has one, so that the lower one is opened first; the other way round both can be served.

use std::time::{Duration, Instant};

use super::super::{Claim, HANDOVER, Level, Plan};
use super::{PlannedPort, PortLife};
use crate::control::backoff::Backoff;
use crate::host::Interface;

/// An interface that failed so often does not interrupt those above it any more.
const TRIES: u32 = 3;
/// When to look again at a port that waits, where no event will tell.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
        let tries = before.map_or(0, |before| before.tries);
        for (upper, _) in above.iter().filter(|_| tries < TRIES) {
            if self.ports.get(upper).is_some_and(|port| port.open_id().is_some()) {
                let line = format!("{upper}: opening it again after {name}, which is below it");
                self.say(Level::Info, line);
                self.end(upper, PortLife::Empty, now);
            }
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
