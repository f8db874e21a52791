//! Which exports may be served on an interface: others may have their addresses, so they are asked for first.

use std::collections::HashMap;
use std::time::Instant;

use super::super::backoff::Backoff;
use super::{Claim, ExportId, Level, Plan, PlanAction, address_of};

impl Plan {
    /// Claims whose time has come are searched for again; those of exports that are gone are forgotten.
    pub(super) fn renew_claims(&mut self, name: &str, now: Instant) {
        let (exports, Some(port)) = (&self.exports, self.ports.get_mut(name)) else {
            return;
        };
        let mut due = Vec::new();
        port.claims.retain(|id, claim| {
            if let Claim::Taken(backoff) = claim
                && backoff.is_due(now)
            {
                due.push(*id);
                *claim = Claim::Asking(now, Some(backoff.clone()));
            }
            exports.contains_key(id)
        });
        if !due.is_empty() {
            self.actions.push(PlanAction::Search(name.to_owned(), due));
        }
    }

    /// Has other targets searched for whose addresses exports are about to be served with.
    pub(super) fn search(&mut self, name: &str, now: Instant) {
        let up = self
            .links
            .get(name)
            .is_some_and(|link| link.up && link.mac.is_some());
        if !up {
            return;
        }
        let mut asked = self.exports_on(name).0;
        let (exports, Some(port)) = (&self.exports, self.ports.get_mut(name)) else {
            return;
        };
        let coming = |id: &ExportId| exports.get(id).is_some_and(|entry| entry.backoff().is_none());
        asked.retain(|id| coming(id) && !port.claims.contains_key(id));
        if asked.is_empty() {
            return;
        }
        // Whose group other gateways may serve is settled by the locks.
        let in_group = |id: &ExportId| {
            exports
                .get(id)
                .is_some_and(|entry| entry.config.failover.is_some())
        };
        let (settled, asked): (Vec<ExportId>, Vec<ExportId>) = asked.into_iter().partition(in_group);
        for id in settled {
            port.claims.insert(id, Claim::Free);
        }
        for id in &asked {
            port.claims.insert(*id, Claim::Asking(now, None));
        }
        if !asked.is_empty() {
            self.actions.push(PlanAction::Search(name.to_owned(), asked));
        }
    }

    /// A link is up again, perhaps in another network. What nobody has used is not served on it before it is known that no other
    /// target has the address there, as at the start. What is in use goes on: the watch raises an alarm.
    pub(crate) fn search_again(&mut self, name: &str, unused: &[ExportId], now: Instant) {
        let (exports, Some(port)) = (&self.exports, self.ports.get_mut(name)) else {
            return;
        };
        let in_group = |id: &ExportId| {
            exports
                .get(id)
                .is_none_or(|entry| entry.config.failover.is_some())
        };
        let asked: Vec<ExportId> = unused
            .iter()
            .copied()
            .filter(|id| port.is_free(*id) && !in_group(id))
            .collect();
        for id in &asked {
            port.claims.insert(*id, Claim::Asking(now, None));
        }
        if !asked.is_empty() {
            self.ports_dirty = true;
            self.actions.push(PlanAction::Search(name.to_owned(), asked));
        }
    }

    /// What a search found: `taken` has those whose address another target answers for, and by whom; `Err` why it could not be
    /// made. With `--force` such an export is served all the same.
    pub(crate) fn searched(
        &mut self,
        name: &str,
        asked: &[ExportId],
        found: &Result<HashMap<ExportId, String>, String>,
        now: Instant,
    ) {
        self.ports_dirty = true;
        for id in asked {
            let reason = match found {
                Ok(taken) => taken.get(id).cloned(),
                Err(error) => Some(error.clone()),
            };
            self.settle_claim(name, *id, reason, now);
        }
    }

    fn settle_claim(&mut self, name: &str, id: ExportId, reason: Option<String>, now: Instant) {
        let Some(port) = self
            .ports
            .get_mut(name)
            .filter(|_| self.exports.contains_key(&id))
        else {
            return;
        };
        let Some(Claim::Asking(_, before)) = port.claims.remove(&id) else {
            return;
        };
        let Some(reason) = reason else {
            port.claims.insert(id, Claim::Free);
            return;
        };
        self.take_claim(name, id, before, reason, now);
    }

    /// An export that is served yields to another target.
    pub(super) fn lose_claim(&mut self, name: &str, id: ExportId, reason: String, now: Instant) {
        let port = self.ports.get(name);
        if port.is_some_and(|port| port.is_free(id)) {
            self.take_claim(name, id, None, reason, now);
        }
    }

    fn take_claim(
        &mut self,
        name: &str,
        id: ExportId,
        before: Option<Backoff>,
        reason: String,
        now: Instant,
    ) {
        let force = self.wanted.force;
        let again = self.again();
        let (Some(entry), Some(port)) = (self.exports.get(&id), self.ports.get_mut(name)) else {
            return;
        };
        let address = address_of(&entry.config);
        if force {
            port.claims.insert(id, Claim::Free);
            return self.say(
                Level::Warn,
                format!("{reason}; serving it all the same (--force)"),
            );
        }
        let (backoff, log) = Backoff::after(before, reason, now);
        let line = format!("{address} FAILED on {name}{again}: {}", backoff.reason);
        port.claims.insert(id, Claim::Taken(backoff));
        if log {
            self.say(Level::Error, line);
        }
    }

    /// An export that was not opened is searched for anew when it is.
    pub(super) fn forget_claims(&mut self, id: ExportId) {
        for port in self.ports.values_mut() {
            port.claims.remove(&id);
        }
    }

    /// A renewed export has its predecessor's address, which was in use here all the time.
    pub(super) fn pass_on_claims(&mut self, from: ExportId, to: ExportId) {
        for port in self.ports.values_mut() {
            if let Some(Claim::Free) = port.claims.remove(&from) {
                port.claims.insert(to, Claim::Free);
            }
        }
    }
}
