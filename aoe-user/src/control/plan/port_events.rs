//! What the threads of ports report.

use std::time::Instant;

use super::super::backoff::Backoff;
use super::ports::PortLife;
use super::{ExportId, Level, Plan, PortId};

impl Plan {
    fn port_of(&self, id: PortId) -> Option<String> {
        let found = self.ports.iter().find(|(_, port)| port.open_id() == Some(id));
        found.map(|(name, _)| name.clone())
    }

    /// Requests are being answered. False when nobody wants it any more.
    pub(crate) fn port_opened(&mut self, id: PortId, version: u64, now: Instant) -> bool {
        let Some(name) = self.port_of(id) else {
            return false;
        };
        self.ports_dirty = true;
        let Some(port) = self.ports.get_mut(&name) else {
            return false;
        };
        let PortLife::Opening(_, link, _) = &port.life else {
            return false;
        };
        let link = link.clone();
        port.life = PortLife::Open(id, link);
        port.interruptions.forget();
        port.applied = version;
        if port.view.version != version {
            port.stale = Some(now);
        }
        self.follow(&name, now);
        true
    }

    /// It could not be opened, or does not work any more and was closed.
    pub(crate) fn port_failed(&mut self, id: PortId, reason: String, now: Instant) {
        self.leaving_ports.remove(&id);
        let Some(name) = self.port_of(id) else { return };
        let Some(port) = self.ports.get_mut(&name) else {
            return;
        };
        let before = match std::mem::replace(&mut port.life, PortLife::Empty) {
            PortLife::Opening(_, _, before) => before,
            _ => None,
        };
        self.fail_port(&name, before, reason, now);
    }

    pub(super) fn fail_port(&mut self, name: &str, before: Option<Backoff>, reason: String, now: Instant) {
        // Most errors of a port begin with its name, and so do the places where this is shown.
        let own = format!("{name}: ");
        let reason = match reason.strip_prefix(&own) {
            Some(rest) => rest.to_owned(),
            None => reason,
        };
        let (backoff, log) = Backoff::after(before, reason, now);
        let line = format!("{name} FAILED{}: {}", self.again(), backoff.reason);
        if let Some(port) = self.ports.get_mut(name) {
            port.life = PortLife::Failed(backoff);
        }
        if log {
            self.say(Level::Error, line);
        }
    }

    /// An open port serves a view from now on.
    pub(crate) fn port_applied(&mut self, id: PortId, version: u64) {
        if let Some(name) = self.port_of(id)
            && let Some(port) = self.ports.get_mut(&name)
        {
            port.applied = version;
        }
    }

    /// The address of an export that has just begun to be served belongs to another target: it is searched for again as if it had
    /// been found before.
    pub(crate) fn lost(&mut self, id: PortId, export: ExportId, reason: String, now: Instant) {
        if let Some(name) = self.port_of(id) {
            self.ports_dirty = true;
            self.lose_claim(&name, export, reason, now);
        }
    }

    /// The port of an interface that was not wanted any more has ended.
    pub(crate) fn port_closed(&mut self, id: PortId) {
        self.leaving_ports.remove(&id);
        self.ports_dirty = true;
    }
}
