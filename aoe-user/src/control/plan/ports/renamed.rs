//! Interfaces that are called otherwise than before, or whose name another one has by now.

use std::time::Instant;

use super::super::{HANDOVER, Level, Plan};
use super::PortLife;

impl Plan {
    /// What a port has open, or is opening, is not the interface of its name any more.
    pub(super) fn end_of_former(&mut self, name: &str, now: Instant) {
        self.say(
            Level::Info,
            format!("{name}: is another interface now; opening it"),
        );
        if let Some(port) = self.ports.get_mut(name) {
            port.claims.clear();
        }
        self.end(name, PortLife::Empty, now);
        if let Some(port) = self.ports.get_mut(name) {
            // That one's end does not concern it, unless it has the interface of now.
            port.life = PortLife::Empty;
        }
    }

    /// Whether a port still has this interface under another name, as after `ip link set NAME name OTHER` or where two have changed
    /// their names. Then its end is waited for: a program that the kernel tells of is its.
    pub(super) fn waits_for_another_name(&mut self, name: &str, index: u32, now: Instant) -> bool {
        let leaving = self
            .leaving_ports
            .iter()
            .find(|(_, leaving)| leaving.index == index && now < leaving.since + HANDOVER)
            .map(|(id, leaving)| (*id, leaving.since));
        let (Some((id, since)), Some(port)) = (leaving, self.ports.get_mut(name)) else {
            return false;
        };
        port.life = PortLife::After(id, since, None);
        true
    }
}
