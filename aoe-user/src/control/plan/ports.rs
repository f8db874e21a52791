//! The ports' part of the plan: interfaces that come, go, change and fail, and which exports are served on them.

mod layers;
mod renamed;

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::super::backoff::Backoff;
use super::{Claim, ExportId, GATHER, HANDOVER, Level, PORTS_PACE, Plan, PlanAction, PortId, PortPlan};
use crate::config::Mode;
use crate::host::{Interface, named};

/// An interface that some export names, or that a glob chooses.
#[derive(Debug)]
pub(super) struct PlannedPort {
    pub(crate) life: PortLife,
    /// Named in full by some export.
    pub(crate) literal: bool,
    pub(crate) claims: HashMap<ExportId, Claim>,
    /// What it is to serve.
    pub(crate) view: PortPlan,
    /// The version of the last view that it serves for certain.
    pub(crate) applied: u64,
    /// Since when `view` has not been handed over, while exports are still coming.
    pub(crate) stale: Option<Instant>,
    /// The mode of the view that it was opened with.
    pub(crate) opened_mode: Mode,
    /// Exports that are not served here because an earlier one answers the same frames.
    pub(crate) hidden: HashSet<ExportId>,
    /// Some export is served by another gateway: the port is open all the same, so that it can be served at once.
    pub(crate) stands_by: bool,
    /// How often those above it were closed for it.
    pub(crate) interruptions: layers::Interruptions,
}

/// A port that is being closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeavingPort {
    since: Instant,
    /// The kernel's number of its interface.
    index: u32,
}

/// No interface has the name.
const NO_INTERFACE: &str = "does not exist";

/// How far an interface is.
#[derive(Debug)]
pub(super) enum PortLife {
    /// There is no interface that could be served: what is said of the name.
    Absent(&'static str),
    /// It is down.
    Down,
    /// Nothing can be served on it yet.
    Empty,
    /// The one before is being closed, or one that is in its way.
    After(PortId, Instant, Option<Backoff>),
    Opening(PortId, Box<Interface>, Option<Backoff>),
    Open(PortId, Box<Interface>),
    Failed(Backoff),
}

impl PlannedPort {
    fn new(literal: bool) -> PlannedPort {
        PlannedPort {
            life: PortLife::Empty,
            literal,
            claims: HashMap::new(),
            view: PortPlan::default(),
            applied: 0,
            stale: None,
            opened_mode: Mode::default(),
            hidden: HashSet::new(),
            stands_by: false,
            interruptions: layers::Interruptions::default(),
        }
    }

    pub(super) fn open_id(&self) -> Option<PortId> {
        match &self.life {
            PortLife::Opening(id, ..) | PortLife::Open(id, _) => Some(*id),
            _ => None,
        }
    }

    /// The kernel's number of the interface that it has open, or is opening.
    fn open_index(&self) -> Option<u32> {
        match &self.life {
            PortLife::Opening(_, link, _) | PortLife::Open(_, link) => Some(link.index),
            _ => None,
        }
    }

    /// What failed is tried again at once, whoever is disturbed by that.
    pub(super) fn hasten(&mut self, now: Instant) {
        self.interruptions.allow();
        self.backoffs_mut().for_each(|backoff| backoff.next_try = now);
    }

    fn backoffs_mut(&mut self) -> impl Iterator<Item = &mut Backoff> {
        let own = match &mut self.life {
            PortLife::Failed(backoff) => Some(backoff),
            _ => None,
        };
        let claims = self.claims.values_mut().filter_map(|claim| match claim {
            Claim::Taken(backoff) => Some(backoff),
            _ => None,
        });
        own.into_iter().chain(claims)
    }

    /// Exports that are not served here because of another target.
    pub(super) fn taken(&self) -> impl Iterator<Item = (ExportId, &Backoff)> {
        self.claims.iter().filter_map(|(id, claim)| match claim {
            Claim::Taken(backoff) => Some((*id, backoff)),
            _ => None,
        })
    }

    /// Why this one is not.
    pub(super) fn taken_from(&self, id: ExportId) -> Option<&Backoff> {
        match self.claims.get(&id) {
            Some(Claim::Taken(backoff)) => Some(backoff),
            _ => None,
        }
    }

    pub(super) fn first_failure(&self, name: &str) -> Option<String> {
        let own = match &self.life {
            PortLife::Failed(backoff) => Some(format!("cannot serve {name}: {}", backoff.reason)),
            PortLife::Absent(what) => Some(format!(
                "interface {name} {what}; `ip link` lists those that exist"
            )),
            _ => None,
        };
        own.or_else(|| self.taken().next().map(|(_, backoff)| backoff.reason.clone()))
    }

    pub(super) fn is_settled(&self) -> bool {
        let asking = self
            .claims
            .values()
            .any(|claim| matches!(claim, Claim::Asking(..)));
        match &self.life {
            PortLife::Absent(_) | PortLife::Down | PortLife::Failed(_) => true,
            PortLife::Empty => !asking,
            PortLife::Open(..) => !asking && self.stale.is_none() && self.applied == self.view.version,
            PortLife::After(..) | PortLife::Opening(..) => false,
        }
    }

    pub(super) fn next_time(&self) -> Option<Instant> {
        let own = match &self.life {
            PortLife::Failed(backoff) => Some(backoff.next_try),
            PortLife::After(_, since, _) => Some(*since + HANDOVER),
            _ => None,
        };
        let claims = self.claims.values().filter_map(|claim| match claim {
            Claim::Taken(backoff) => Some(backoff.next_try),
            _ => None,
        });
        let stale = self.stale.map(|since| since + GATHER);
        own.into_iter().chain(stale).chain(claims).min()
    }

    /// What is known of other targets, without what is still being asked for.
    fn settled_claims(self) -> HashMap<ExportId, Claim> {
        let mut claims = self.claims;
        claims.retain(|_, claim| !matches!(claim, Claim::Asking(..)));
        claims
    }

    pub(super) fn is_free(&self, id: ExportId) -> bool {
        matches!(self.claims.get(&id), Some(Claim::Free))
    }
}

impl Plan {
    /// The interfaces of now.
    pub(crate) fn see(&mut self, links: HashMap<String, Interface>, now: Instant) {
        let before = std::mem::replace(&mut self.links, links);
        self.listing = false;
        for (name, port) in &mut self.ports {
            let (before, link) = (before.get(name), self.links.get(name));
            if before == link {
                continue;
            }
            if layers::is_set_anew(before, link) {
                port.interruptions.allow();
            }
            if let PortLife::Failed(backoff) = &mut port.life {
                backoff.next_try = now;
            }
        }
        self.fresh_links = true;
        self.match_interfaces(now);
    }

    /// Finds out which ports are wanted: by name, or because a glob matches.
    pub(super) fn match_interfaces(&mut self, now: Instant) {
        self.ports_dirty = true;
        let mut wanted: HashMap<String, bool> = HashMap::new();
        let mut asked = HashSet::new();
        let mut unmatched = Vec::new();
        for id in &self.order {
            let Some(entry) = self.exports.get(id) else {
                continue;
            };
            if !asked.insert(std::sync::Arc::as_ptr(&entry.patterns)) {
                continue;
            }
            let chosen = self.links.values().filter(|link| entry.patterns.choose(link));
            let chosen: Vec<&String> = chosen.map(|link| &link.name).collect();
            if chosen.is_empty() && entry.patterns.names().is_empty() && !self.links.is_empty() {
                unmatched.push(entry.config.interfaces.join(", "));
            }
            chosen.into_iter().for_each(|name| {
                wanted.entry(name.clone()).or_insert(false);
            });
            let real = |name: &String| named(&self.links, name).map_or(name, |link| &link.name).clone();
            wanted.extend(entry.patterns.names().iter().map(|name| (real(name), true)));
        }
        let lost: Vec<String> = self
            .ports
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        let mut settled = HashMap::new();
        for name in lost {
            if let Some(port) = self.ports.remove(&name)
                && let (Some(id), Some(index)) = (port.open_id(), port.open_index())
            {
                let renamed = self.links.values().find(|link| link.index == index);
                let line = match renamed.filter(|link| wanted.contains_key(&link.name)) {
                    Some(link) => format!("{name} is called {} now; opening it again", link.name),
                    None => format!("{name}: no longer served (the interface or its exports are gone)"),
                };
                self.say(Level::Info, line);
                self.close_port(id, index, now);
                settled.insert(index, port.settled_claims());
            }
        }
        for (name, literal) in wanted {
            let index = self.links.get(&name).map(|link| link.index);
            let port = self.ports.entry(name).or_insert_with(|| PlannedPort {
                // What was found out on the same wire under its former name holds.
                claims: index.and_then(|index| settled.remove(&index)).unwrap_or_default(),
                ..PlannedPort::new(literal)
            });
            port.literal = literal;
        }
        self.tell_unmatched(unmatched);
        let names: Vec<String> = self.ports.keys().cloned().collect();
        for name in names {
            self.follow(&name, now);
        }
    }

    fn tell_unmatched(&mut self, unmatched: Vec<String>) {
        for patterns in &unmatched {
            if !self.unmatched.contains(patterns) {
                let line =
                    format!("no interface matches {patterns} yet; its exports will be served when one does");
                self.actions.push(PlanAction::Say(Level::Warn, line));
            }
        }
        self.unmatched = unmatched;
    }

    fn close_port(&mut self, id: PortId, index: u32, now: Instant) {
        self.leaving_ports.insert(id, LeavingPort { since: now, index });
        self.actions.push(PlanAction::ClosePort(id));
    }

    /// Closes what a port has open and says what it is instead.
    pub(super) fn end(&mut self, name: &str, life: PortLife, now: Instant) {
        let Some(port) = self.ports.get_mut(name) else {
            return;
        };
        let (open, index) = (port.open_id(), port.open_index());
        port.life = match (life, open) {
            (PortLife::Empty, Some(id)) => PortLife::After(id, now, None),
            (life, _) => life,
        };
        port.applied = 0;
        port.stale = None;
        if let (Some(id), Some(index)) = (open, index) {
            self.close_port(id, index, now);
        }
    }

    /// Follows what became of an interface.
    pub(super) fn follow(&mut self, name: &str, now: Instant) {
        let Some(port) = self.ports.get_mut(name) else {
            return;
        };
        let link = self.links.get(name).ok_or((NO_INTERFACE, "it does"));
        let fit = link.and_then(|link| match link.unfit() {
            Some(why) => Err((why, "another one has its name")),
            None => Ok(link.clone()),
        });
        let link = match fit {
            Ok(link) => link,
            Err((what, when)) => {
                if !matches!(port.life, PortLife::Absent(said) if said == what) {
                    port.claims.clear();
                    let line = format!("{name} {what}; its exports will be served when {when}");
                    self.say(Level::Warn, line);
                    self.end(name, PortLife::Absent(what), now);
                }
                return;
            }
        };
        match &mut port.life {
            PortLife::Absent(_) => port.life = PortLife::Empty,
            PortLife::Down if link.up => port.life = PortLife::Empty,
            PortLife::Empty | PortLife::Failed(_) if !link.up => {
                port.life = PortLife::Down;
                let line = format!(
                    "{name} is down; its exports will be served when it is up (`ip link set {name} up`)"
                );
                self.say(Level::Warn, line);
            }
            PortLife::Opening(_, opening, _) if opening.index != link.index => {
                self.end_of_former(name, now);
            }
            PortLife::Open(id, now_served) => {
                let (id, before) = (*id, std::mem::replace(now_served, Box::new(link.clone())));
                self.adjust(name, id, &before, &link, now);
            }
            _ => {}
        }
        // A second look: what exists again may be down.
        if let Some(port) = self.ports.get_mut(name)
            && matches!(port.life, PortLife::Empty)
            && !link.up
        {
            port.life = PortLife::Down;
            let line =
                format!("{name} is down; its exports will be served when it is up (`ip link set {name} up`)");
            self.say(Level::Warn, line);
        }
    }

    /// An open port's interface changed.
    fn adjust(&mut self, name: &str, id: PortId, before: &Interface, link: &Interface, now: Instant) {
        if before.index != link.index {
            return self.end_of_former(name, now);
        }
        let shape = |link: &Interface| {
            let can_answer = link.tx_queues.is_none_or(|tx_queues| tx_queues >= link.rx_queues);
            (link.mtu_bytes, link.rx_queues, can_answer)
        };
        if shape(link) != shape(before) {
            let transmit = link
                .tx_queues
                .map_or_else(String::new, |tx_queues| format!(" and {tx_queues} transmit"));
            let line = format!(
                "{name}: now MTU {}, {} receive{transmit} queues; opening it again",
                link.mtu_bytes, link.rx_queues
            );
            self.say(Level::Info, line);
            return self.end(name, PortLife::Empty, now);
        }
        if let Some(mac) = link.mac
            && link.mac != before.mac
        {
            self.say(Level::Info, format!("{name}: its address is {mac} now"));
            self.actions.push(PlanAction::SetMac(id, mac));
        }
        match (before.is_usable(), link.is_usable()) {
            (true, false) => self.say(Level::Warn, format!("{name}: link down")),
            (false, true) => {
                self.say(Level::Info, format!("{name}: link up"));
                self.actions.push(PlanAction::FindUnused(name.to_owned()));
            }
            _ => {}
        }
        let own_part = |link: &Interface| Interface {
            has_xdp: false,
            ..link.clone()
        };
        if link.is_usable() {
            if self.fresh_links {
                self.actions.push(PlanAction::CheckPort(id));
            }
            if own_part(before) != own_part(link) {
                self.actions.push(PlanAction::Announce(id));
            }
        }
    }

    pub(super) fn step_ports(&mut self, now: Instant) {
        let is_time = self.ports_seen.is_none_or(|seen| now >= seen + PORTS_PACE);
        let look = self.ports_dirty || self.ports_stale && is_time;
        if look {
            (self.ports_dirty, self.ports_stale, self.ports_seen) = (false, false, Some(now));
        }
        let names: Vec<String> = self.ports.keys().cloned().collect();
        for name in &names {
            self.renew_claims(name, now);
            if look || self.ports[name].stale.is_some_and(|since| now >= since + GATHER) {
                self.search(name, now);
                self.renew_view(name, now);
            }
        }
        // Once it is known of each whether it has something to serve.
        for name in &names {
            self.open_if_due(name, now);
        }
        self.fresh_links = false;
    }

    /// Opens the port of an interface that is up, once there is something to serve on it.
    fn open_if_due(&mut self, name: &str, now: Instant) {
        let (leaving, Some(port)) = (&self.leaving_ports, self.ports.get_mut(name)) else {
            return;
        };
        let before = match &port.life {
            PortLife::Empty => None,
            PortLife::After(id, since, before) if !leaving.contains_key(id) || now >= *since + HANDOVER => {
                before.clone()
            }
            PortLife::Failed(backoff) if backoff.is_due(now) => Some(backoff.clone()),
            _ => return,
        };
        let Some(link) = self.links.get(name).filter(|link| link.mac.is_some()).cloned() else {
            return;
        };
        if !link.up {
            port.life = PortLife::Down;
            return;
        }
        let is_after = matches!(port.life, PortLife::After(..));
        let gathering = port.stale.is_some_and(|since| now < since + GATHER);
        if port.view.exports.is_empty() && !port.stands_by || gathering {
            if is_after {
                port.life = PortLife::Empty;
            }
            return;
        }
        if self.waits_for_another_name(name, link.index, now) {
            return;
        }
        if before.is_some() && !is_after && !self.fresh_links {
            // The reason may have gone without a message: an XDP program that was detached, for one.
            return self.list_anew();
        }
        // After a port of ours its own program may still be told of; if another's is there, the kernel refuses ours.
        if link.has_xdp && !is_after {
            if !self.fresh_links {
                // Nor does the kernel tell when a port of ours that was there takes its program away.
                return self.list_anew();
            }
            let reason = format!(
                "{name} already has an XDP program, and only one fits: one xblade serves all exports of an interface; \
                 `ip link set {name} xdp off` removes a program that was left behind"
            );
            return self.fail_port(name, before, reason, now);
        }
        if self.waits_for_layers(name, &link, before.as_ref(), now) {
            return;
        }
        let id = PortId(self.next_id());
        let Some(port) = self.ports.get_mut(name) else {
            return;
        };
        port.stale = None;
        port.applied = 0;
        port.opened_mode = port.view.mode;
        port.life = PortLife::Opening(id, Box::new(link.clone()), before);
        let view = port.view.clone();
        self.actions.push(PlanAction::OpenPort(id, Box::new(link), view));
    }

    fn list_anew(&mut self) {
        if !std::mem::replace(&mut self.listing, true) {
            self.actions.push(PlanAction::ListLinks);
        }
    }
}
