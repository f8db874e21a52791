//! What each port is to serve.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::ports::PortLife;
use super::{Claim, ExportId, GATHER, Level, Plan, PlanAction, PortPlan, address_of};
use crate::config::Vlan;

impl Plan {
    /// The exports that an interface is to serve, by the order of the configuration. Of two that answer the same frames the
    /// first is taken.
    pub(super) fn exports_on(&self, name: &str) -> (Vec<ExportId>, HashSet<ExportId>) {
        let mut hidden = HashSet::new();
        let Some(link) = self.links.get(name) else {
            return (Vec::new(), hidden);
        };
        let mut asked: HashMap<*const _, bool> = HashMap::new();
        let mut vlans: HashMap<(u16, u8), Vec<Vlan>> = HashMap::new();
        let wanted = self.order.iter().filter(|id| {
            let Some(entry) = self.exports.get(id) else {
                return false;
            };
            let place = std::sync::Arc::as_ptr(&entry.patterns);
            if !*asked.entry(place).or_insert_with(|| entry.patterns.choose(link)) {
                return false;
            }
            let same = vlans.entry((entry.config.shelf, entry.config.slot)).or_default();
            if same.iter().any(|vlan| vlan.overlaps(entry.config.vlan)) {
                hidden.insert(**id);
                return false;
            }
            same.push(entry.config.vlan);
            true
        });
        (wanted.copied().collect(), hidden)
    }

    /// Says which exports are not served on a port because of others of the same configuration.
    fn tell_hidden(&mut self, name: &str, hidden: HashSet<ExportId>) {
        let Some(port) = self.ports.get_mut(name) else {
            return;
        };
        for id in hidden.difference(&port.hidden) {
            let Some(entry) = self.exports.get(id) else {
                continue;
            };
            let address = address_of(&entry.config);
            let line = format!(
                "{address} of {} FAILED on {name}: the address is exported there already; give it another shelf or slot, or \
                 VLANs that differ",
                entry.config.path.display()
            );
            self.actions.push(PlanAction::Say(Level::Error, line));
        }
        port.hidden = hidden;
    }

    /// Makes the port's view that of now; an open port gets it, at the latest after [`GATHER`] when more is coming.
    pub(super) fn renew_view(&mut self, name: &str, now: Instant) {
        let (on_it, hidden) = self.exports_on(name);
        self.tell_hidden(name, hidden);
        let Some(port) = self.ports.get(name) else { return };
        let entries = || on_it.iter().filter_map(|id| Some((*id, self.exports.get(id)?)));
        let served = entries()
            .filter(|(id, entry)| entry.is_open() && port.is_free(*id))
            .filter(|(_, entry)| self.answers(entry));
        let exports: Vec<(ExportId, u64)> = served.map(|(id, entry)| (id, entry.revision)).collect();
        let is_coming = |id: &ExportId, since: Option<Instant>| {
            let asking = match port.claims.get(id) {
                Some(Claim::Asking(since, _)) => Some(*since),
                _ => None,
            };
            since.or(asking).is_some_and(|since| now < since + GATHER)
        };
        let more_coming = entries()
            .filter(|(_, entry)| self.answers(entry))
            .any(|(id, entry)| is_coming(&id, entry.coming_since()));
        let stands_by = entries().any(|(_, entry)| !self.answers(entry));
        let first = entries().next().map(|(_, entry)| entry);
        let view = PortPlan {
            mode: first.map(|entry| entry.config.mode).unwrap_or_default(),
            spin_us: entries()
                .map(|(_, entry)| entry.config.spin_us)
                .max()
                .unwrap_or(0),
            cpus: self.wanted.cpus.clone(),
            version: port.view.version,
            exports,
        };
        let new: HashSet<&(ExportId, u64)> = view.exports.iter().collect();
        let narrows = port.view.exports.iter().any(|old| !new.contains(old));
        let mode_differs = view.mode != port.opened_mode;
        let changed = view != port.view;
        let Some(port) = self.ports.get_mut(name) else {
            return;
        };
        if changed {
            port.view = view;
            port.view.version += 1;
            port.stale.get_or_insert(now);
        }
        port.stands_by = stands_by;
        let Some(stale) = port.stale else { return };
        match &port.life {
            PortLife::Open(..) if mode_differs => {
                self.say(Level::Info, format!("{name}: another mode; opening it again"));
                self.end(name, PortLife::Empty, now);
            }
            PortLife::Open(id, _) if narrows || !more_coming || now >= stale + GATHER => {
                port.stale = None;
                self.actions.push(PlanAction::Apply(*id, port.view.clone()));
            }
            PortLife::Open(..) | PortLife::Opening(..) => {}
            _ if more_coming => {}
            _ => port.stale = None,
        }
    }
}
