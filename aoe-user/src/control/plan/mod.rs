//! Compares what is wanted with what is there and says what to do next. Decides only: it has no thread, no clock and no
//! descriptor; the time is an argument, and whatever blocks is a [`PlanAction`] whose end comes back as an event.
//!
//! Three kinds of things have a life here: the state directory, the exports (their stores), and the ports (interfaces being
//! served). Each fails and is tried again by itself. An export is served on a port when its store is open and the search
//! for another target with its address found none there ([`Claim`]).

mod claims;
mod difference;
mod exports;
mod groups;
mod port_events;
mod ports;
mod refusal;
mod reload;
mod reload_report;
mod status;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::config::{ExportConfig, FailoverGroup, Mode};
use crate::control::api::reloaded::Replaced;
use crate::control::state::Before;
use crate::host::Interface;
use crate::target::Address;
use exports::{ExportEntry, Leaving};
pub(super) use failover::GroupState as Role;
pub(super) use groups::{GroupStatus, LockOrder, LockRun, Rival};
use groups::{Membership, Retired};
use ports::{LeavingPort, PlannedPort};
pub(super) use refusal::OpenRefusal;
use reload_report::ReloadReport;
pub(super) use status::{ExportStatus, PortStatus, Progress};

/// Names one opening of one store; another store of the same address has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ExportId(pub(crate) u64);

/// Names one opening of one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortId(pub(crate) u64);

/// How long what is to follow waits for the end of what went before; then it is tried all the same, and what stands in the way
/// is its reason to fail.
pub(super) const HANDOVER: Duration = Duration::from_secs(10);

/// How long a port waits for exports that are being opened or searched for, so that it gets most of them at once.
pub(super) const GATHER: Duration = Duration::from_millis(500);

/// Least time between two looks at which exports a port can serve while they are being opened.
const PORTS_PACE: Duration = Duration::from_millis(100);

/// Something to do. What is not instant is done elsewhere and ends in an event of the name given.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PlanAction {
    /// Log a line.
    Say(Level, String),
    /// Ends in [`Plan::state_opened`] or [`Plan::state_failed`].
    OpenState(PathBuf, Before),
    /// Ends in [`Plan::export_opened`] or [`Plan::export_failed`].
    OpenExport(ExportId),
    /// Give the open export its options of now. At once.
    Reconfigure(ExportId),
    /// Answer nobody for the open export any more. At once.
    SilenceExport(ExportId),
    /// Commit and close the store. Ends in [`Plan::export_closed`].
    CloseExport(ExportId),
    /// See whether the path still leads to what is open. Ends in [`Plan::examined`].
    Examine(ExportId),
    /// Look for other targets with the addresses of these exports. Ends in [`Plan::searched`].
    Search(String, Vec<ExportId>),
    /// A link is up again: find out which exports have never been used. Ends in [`Plan::search_again`].
    FindUnused(String),
    /// List the interfaces anew. Ends in [`Plan::see`].
    ListLinks,
    /// Ends in [`Plan::port_opened`] or [`Plan::port_failed`].
    OpenPort(PortId, Box<Interface>, PortPlan),
    /// Serve this from now on. Ends in [`Plan::port_applied`].
    Apply(PortId, PortPlan),
    /// The interface has another address.
    SetMac(PortId, aoe_common::Mac),
    /// Advertise all exports of the port.
    Announce(PortId),
    /// The interface may have lost the port's queues or program without looking otherwise: have that checked.
    CheckPort(PortId),
    /// Advertise the export on all ports that serve it.
    AnnounceExport(ExportId),
    /// Ends in [`Plan::port_closed`].
    ClosePort(PortId),
    /// Find out who has the locks of a failover group's images. Ends in [`Plan::group_looked`].
    Look(String),
    /// Run the program of a failover group. Ends in [`Plan::lock_ended`].
    RunLock(LockRun, Arc<FailoverGroup>),
}

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Info,
    Warn,
    Error,
}

/// What a port is to serve, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PortPlan {
    /// The exports, by their order in the configuration, each with the number of its configuration.
    pub(crate) exports: Vec<(ExportId, u64)>,
    pub(crate) mode: Mode,
    pub(crate) spin_us: u32,
    pub(crate) cpus: Vec<usize>,
    /// Counts the views of a port.
    pub(crate) version: u64,
}

/// What is wanted, apart from the exports themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    state_dir: Option<PathBuf>,
    state_required: bool,
    cpus: Vec<usize>,
    force: bool,
}

#[derive(Debug)]
enum StateLife {
    Closed,
    Opening(Option<Backoff>),
    Open,
    Failed(Backoff),
}

/// Whether an export may be served on a port, as far as other targets go.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// Being searched for, since then.
    Asking(Instant, Option<Backoff>),
    /// Nobody else has the address.
    Free,
    /// Somebody has, or the search failed.
    Taken(Backoff),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Plan {
    wanted: Wanted,
    state: StateLife,
    /// The exports by the order of the configuration.
    order: Vec<ExportId>,
    exports: HashMap<ExportId, ExportEntry>,
    /// The process ends with the first failure.
    pub(crate) gives_up: bool,
    leaving: BTreeMap<ExportId, Leaving>,
    ports: BTreeMap<String, PlannedPort>,
    leaving_ports: BTreeMap<PortId, LeavingPort>,
    /// Failover groups by name.
    groups: BTreeMap<String, Membership>,
    retired: Vec<Retired>,
    /// Zero of the groups' clock.
    start: Instant,
    links: HashMap<String, Interface>,
    reload: Option<ReloadReport>,
    /// Exports whose files were found to be replaced, for the answer to a reload.
    pub(crate) renewed: Vec<Replaced>,
    last_id: u64,
    /// Something changed that ports depend on.
    ports_dirty: bool,
    /// Exports have opened or failed that ports depend on. They come by thousands: ports look at most every [`PORTS_PACE`].
    ports_stale: bool,
    /// When ports looked last.
    ports_seen: Option<Instant>,
    /// The interfaces have been listed since the last step.
    fresh_links: bool,
    /// They are being listed.
    listing: bool,
    /// Globs that matched nothing, as was logged.
    unmatched: Vec<String>,
    actions: Vec<PlanAction>,
}

impl Plan {
    /// Nothing is wanted yet and nothing there.
    pub(super) fn new(now: Instant) -> Plan {
        Plan {
            wanted: Wanted::default(),
            state: StateLife::Closed,
            order: Vec::new(),
            exports: HashMap::new(),
            gives_up: false,
            leaving: BTreeMap::new(),
            ports: BTreeMap::new(),
            leaving_ports: BTreeMap::new(),
            groups: BTreeMap::new(),
            retired: Vec::new(),
            start: now,
            links: HashMap::new(),
            reload: None,
            renewed: Vec::new(),
            last_id: 0,
            ports_dirty: true,
            ports_stale: false,
            ports_seen: None,
            fresh_links: false,
            listing: false,
            unmatched: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Decides what to do now. To be called after events, and at the time that [`Plan::next_time`] gives.
    ///
    /// Actions are put into `actions` as they are decided: what was decided before a panic is still carried out.
    pub(super) fn step(&mut self, now: Instant, actions: &mut Vec<PlanAction>) {
        self.step_state(now);
        self.step_groups(now);
        self.step_exports(now);
        self.step_ports(now);
        self.step_reload(now);
        actions.append(&mut self.actions);
    }

    /// When [`Plan::step`] has something to do although nothing has happened.
    pub(super) fn next_time(&self, now: Instant) -> Option<Instant> {
        let state = match &self.state {
            StateLife::Failed(backoff) => Some(backoff.next_try),
            _ => None,
        };
        let exports = self.exports.values().filter_map(|entry| entry.next_time(self));
        let ports = self.ports.values().filter_map(PlannedPort::next_time);
        let reload = self.reload.as_ref().map(ReloadReport::next_time);
        let look = self
            .ports_stale
            .then_some(self.ports_seen.map(|seen| seen + PORTS_PACE))
            .flatten();
        let times = state
            .into_iter()
            .chain(self.next_group_time())
            .chain(look)
            .chain(exports)
            .chain(ports)
            .chain(reload);
        // What is over has been decided, and goes on by an event only.
        times.filter(|time| *time > now).min()
    }

    /// The configuration of an export, and its number.
    pub(super) fn config(&self, id: ExportId) -> Option<(Arc<ExportConfig>, u64)> {
        let entry = self.exports.get(&id)?;
        Some((Arc::clone(&entry.config), entry.revision))
    }

    /// The first thing that fails, for `serve`, which ends with it.
    pub(super) fn first_failure(&self) -> Option<String> {
        if let StateLife::Failed(backoff) = &self.state {
            return Some(backoff.reason.clone());
        }
        let tried = self.order.iter().map(|id| &self.exports[id]);
        let exports = tried
            .filter(|entry| self.may_open(entry))
            .filter_map(ExportEntry::backoff);
        let exports = exports.map(|backoff| backoff.reason.clone());
        let ports = self
            .ports
            .iter()
            .filter_map(|(name, port)| port.first_failure(name));
        let unmatched = self
            .unmatched
            .first()
            .map(|patterns| format!("no interface matches {patterns}"));
        exports.chain(ports).chain(unmatched).next()
    }

    /// True when nothing is under way any more: all that can be served is.
    pub(super) fn is_settled(&self) -> bool {
        // A port that waits for the list of interfaces looks like one with nothing to do.
        !(self.ports_dirty || self.ports_stale || self.listing)
            && self
                .exports
                .values()
                .all(|entry| entry.is_settled() || self.stands_by(entry))
            && self.leaving.is_empty()
            && self.leaving_ports.is_empty()
            && self.ports.values().all(PlannedPort::is_settled)
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn say(&mut self, level: Level, line: String) {
        self.actions.push(PlanAction::Say(level, line));
    }

    fn step_state(&mut self, now: Instant) {
        let Some(path) = self.wanted.state_dir.clone() else {
            return;
        };
        let before = match std::mem::replace(&mut self.state, StateLife::Closed) {
            StateLife::Closed => None,
            StateLife::Failed(backoff) if backoff.is_due(now) => Some(backoff),
            other => {
                self.state = other;
                return;
            }
        };
        self.state = StateLife::Opening(before);
        let used = match self.wanted.state_required {
            true => Before::Used,
            false => Before::Unknown,
        };
        self.actions.push(PlanAction::OpenState(path, used));
    }

    /// What is said of a failure beside it.
    const fn again(&self) -> &'static str {
        if self.gives_up { "" } else { ", trying again" }
    }

    /// Kept state can be read and written.
    pub(super) fn state_opened(&mut self) {
        self.state = StateLife::Open;
    }

    /// The state directory cannot be used; exports wait for it.
    pub(super) fn state_failed(&mut self, reason: String, now: Instant) {
        let StateLife::Opening(before) = std::mem::replace(&mut self.state, StateLife::Closed) else {
            return;
        };
        let (backoff, log) = Backoff::after(before, reason, now);
        if log {
            let line = format!(
                "no export can be served yet: FAILED{}: {}",
                self.again(),
                backoff.reason
            );
            self.say(Level::Error, line);
        }
        self.state = StateLife::Failed(backoff);
    }

    fn has_state(&self) -> bool {
        self.wanted.state_dir.is_none() || matches!(self.state, StateLife::Open)
    }

    /// Those that failed of some exports are tried again with the next step.
    pub(super) fn try_again(&mut self, is_meant: impl Fn(&ExportConfig) -> bool, now: Instant) {
        let meant = self.exports.values_mut().filter(|entry| is_meant(&entry.config));
        for backoff in meant.filter_map(ExportEntry::backoff_mut) {
            backoff.next_try = now;
        }
    }

    /// What failed is tried again with the next step.
    pub(super) fn try_all_again(&mut self, now: Instant) {
        let exports = self.exports.values_mut().filter_map(ExportEntry::backoff_mut);
        self.ports.values_mut().for_each(|port| port.hasten(now));
        let state = match &mut self.state {
            StateLife::Failed(backoff) => Some(backoff),
            _ => None,
        };
        exports.chain(state).for_each(|backoff| backoff.next_try = now);
    }
}

/// An address in front of a message.
fn address_of(config: &ExportConfig) -> Address {
    Address {
        shelf: config.shelf,
        slot: config.slot,
    }
}
