//! Everything that is served: has the [`Plan`] decide, has its decisions carried out and tells it what came of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Result;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info, warn};

use super::api::pausing::Pausing;
use super::api::types::LastReload;
use super::backing_checks::BackingChecks;
use super::failover::{Detectors, Heard, Told};
use super::guard::guard;
use super::jobs::Jobs;
use super::lists::Made;
use super::machines::OverlayExports;
use super::notices::Notices;
use super::open::{Served, StateKeys};
use super::other_targets::own::OwnAddresses;
use super::pauses::Pauses;
use super::plan::{ExportId, LockRun, OpenRefusal, Plan, PortId};
use super::port_thread::{PortEvent, PortHandle};
use super::state::operator::OperatorAction as LoadOrder;
use super::state::{StateDir, StateKey};
use crate::config::{Config, Vlan};
use crate::dump::Hub;
use crate::host::Interface;
use crate::metrics::Registry;
use crate::store::{Health, StoreRegistry};
use crate::target::Address;

/// What comes of jobs and ports.
#[derive(Debug)]
pub(super) enum Event {
    Config(Result<Box<Config>, String>),
    Links(Result<HashMap<String, Interface>, String>),
    State(Result<Arc<StateDir>, String>),
    Opened(ExportId, Result<Box<Served>, OpenRefusal>),
    Closed(ExportId, Address, Result<(), String>),
    Examined(ExportId, bool),
    /// An export has looked at what is behind it.
    BackingChecked(ExportId),
    /// With what to warn of.
    Searched(
        String,
        Vec<ExportId>,
        Result<HashMap<ExportId, String>, String>,
        Vec<String>,
    ),
    /// A failover group that others serve was asked for, or has answered.
    Group(String, Heard),
    /// Who has the locks of a failover group's images.
    Looked(String, Result<HashMap<ExportId, Option<String>>, String>),
    /// What came of running the program of a failover group.
    Locked(LockRun, Result<(), String>),
    /// What `xblade state` asks for.
    Orders(Vec<(StateKey, LoadOrder)>),
    /// It was carried out for these, which are not in service.
    Obeyed(Vec<(StateKey, LoadOrder)>),
    Port(PortId, PortEvent),
    /// What came of a request to pause, by its number.
    Paused(u64, Result<(), String>),
    /// An export is served again, for the request with this number.
    Resumed(u64, ExportId),
    /// Who asked has the answer.
    Answered,
}

/// Everything that is served and by what.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) plan: Plan,
    pub(super) exports: HashMap<ExportId, Arc<Served>>,
    pub(super) ports: BTreeMap<PortId, PortHandle>,
    pub(super) state: Option<Arc<StateDir>>,
    pub(super) jobs: Jobs<Event>,
    /// Ask for the failover groups that others serve, or may serve as well.
    pub(super) detectors: Detectors,
    /// What was said of the groups that are served here.
    pub(super) told: Told,
    /// Exports whose last commit is under way, with their files.
    pub(super) closing: HashMap<ExportId, (Address, PathBuf)>,
    /// Everything that is counted.
    pub(super) metrics: Arc<Registry>,
    /// Who wants to see frames.
    pub(super) dumps: Arc<Hub>,
    /// What the operator has paused.
    pub(super) pauses: Pauses,
    /// Requests to pause or resume that are under way.
    pub(super) pausing: Vec<Pausing>,
    /// The number of the last of them.
    pub(super) last_pause: u64,
    pub(super) last_reload: Option<LastReload>,
    /// Where the configuration comes from.
    pub(super) config_file: Option<String>,
    /// When the process started, by both clocks.
    pub(super) start: Instant,
    pub(super) start_time: SystemTime,
    /// Stores that another client has taken before they were known to be open, and why.
    fenced_early: HashMap<ExportId, String>,
    /// Some last commit failed.
    pub(super) commit_failed: Option<String>,
    pub(super) port_events: UnboundedSender<(PortId, PortEvent)>,
    pub(super) notices: Arc<Notices>,
    /// What the stores know of each other.
    pub(super) store_registry: StoreRegistry,
    /// What exports with overlays know of each other.
    pub(super) overlay_exports: Arc<OverlayExports>,
    /// Where the ports answer from.
    pub(super) own: OwnAddresses,
    pub(super) made: Made,
    /// As the state directory must know them.
    pub(super) state_keys: Arc<StateKeys>,
    /// When `xblade state` was last listened to; `None`: that is under way.
    pub(super) heard_operator: Option<Instant>,
    pub(super) backing_checks: BackingChecks,
    /// Warnings about interfaces, said once.
    warned: HashSet<String>,
    pub(super) links: HashMap<String, Interface>,
    /// The interfaces are to be listed.
    pub(super) list_links: bool,
    /// Which actions panic.
    #[cfg(test)]
    pub(super) panics_in: fn(&super::plan::PlanAction) -> bool,
}

impl Supervisor {
    /// With nothing to serve yet.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn new(
        ends: UnboundedSender<Event>,
        port_events: UnboundedSender<(PortId, PortEvent)>,
        notices: Arc<Notices>,
    ) -> std::io::Result<Supervisor> {
        let start = Instant::now();
        Ok(Supervisor {
            plan: Plan::new(start),
            exports: HashMap::new(),
            ports: BTreeMap::new(),
            state: None,
            detectors: Detectors::new({
                let ends = ends.clone();
                // Fails only while the process ends.
                move |group, heard| drop(ends.send(Event::Group(group.to_owned(), heard)))
            }),
            told: Told::default(),
            jobs: Jobs::new(ends)?,
            closing: HashMap::new(),
            metrics: Arc::default(),
            dumps: Arc::default(),
            pauses: Pauses::default(),
            pausing: Vec::new(),
            last_pause: 0,
            last_reload: None,
            config_file: None,
            start,
            start_time: SystemTime::now(),
            fenced_early: HashMap::new(),
            commit_failed: None,
            port_events,
            notices,
            store_registry: StoreRegistry::default(),
            overlay_exports: Arc::default(),
            own: OwnAddresses::default(),
            made: Made::default(),
            state_keys: Arc::default(),
            heard_operator: Some(Instant::now()),
            backing_checks: BackingChecks::new(start),
            warned: HashSet::new(),
            links: HashMap::new(),
            list_links: false,
            #[cfg(test)]
            panics_in: |_| false,
        })
    }

    /// Takes over a configuration.
    pub(super) fn want(&mut self, config: Config, now: Instant) {
        let keys = config.exports.iter().map(StateKey::from);
        self.state_keys = Arc::new(StateKeys::new(keys.collect()));
        let wanted = |(address, vlan): &(Address, Vlan)| {
            let named = |export: &&crate::config::ExportConfig| {
                (export.shelf, export.slot, export.vlan) == (address.shelf, address.slot, *vlan)
            };
            config.exports.iter().find(named).is_some()
        };
        self.pauses.retain(wanted);
        self.overlay_exports.configure(&config.exports);
        self.made = Made::default();
        let file = config.sources.first().map(|source| source.file());
        // Whoever asks has another working directory.
        let file = file.and_then(|file| std::path::absolute(file).ok());
        self.config_file = file.map(|file| file.display().to_string());
        self.plan.want(config, now);
    }

    /// Takes up what came of something.
    pub(super) fn handle(&mut self, event: Event, now: Instant) {
        match event {
            // The first is Control's own, before it is handed on.
            Event::Config(_) | Event::Answered => {}
            Event::Links(Ok(links)) => {
                self.links = links.clone();
                self.plan.see(links, now);
            }
            Event::Links(Err(reason)) => {
                error!("{reason}");
                self.list_links = true;
            }
            Event::State(Ok(state)) => {
                self.state = Some(state);
                self.plan.state_opened();
            }
            Event::State(Err(reason)) => self.plan.state_failed(reason, now),
            Event::Opened(id, Ok(served)) => {
                let served = Arc::new(*served);
                if self.pauses.keeps_silent(served.key()) {
                    // Another store, as after its file was moved: it stays paused, or is paused with the one that it takes the
                    // place of.
                    served.export.pause();
                }
                let revision = served.revision;
                self.exports.insert(id, served);
                self.plan.export_opened(id, revision);
                if let Some(reason) = self.fenced_early.remove(&id) {
                    self.plan.fenced(id, reason, now);
                }
            }
            Event::Opened(id, Err(refusal)) => self.plan.export_failed(id, refusal, now),
            Event::Group(group, Heard::Asked) => self.plan.group_asked(&group, now),
            Event::Group(group, Heard::Answer) => self.plan.group_heard(&group, now),
            Event::Group(group, Heard::Unavailable) => self.plan.group_heard_unavailable(&group, now),
            Event::Group(group, Heard::Rival(rival)) => self.hear_rival(&group, &rival, now),
            Event::Looked(group, found) => self.plan.group_looked(&group, found, now),
            Event::Locked(run, result) => self.plan.lock_ended(run, &result, now),
            Event::Closed(id, address, result) => {
                // It was lost before it was closed.
                self.hear_fenced(now);
                self.fenced_early.remove(&id);
                self.closing.remove(&id);
                self.plan.export_closed(id, now);
                if let Err(reason) = result {
                    error!("{address}: the last commit failed: {reason}");
                    self.commit_failed = Some(format!("{address}: the last commit failed: {reason}"));
                }
            }
            Event::Examined(id, replaced) => self.plan.examined(id, replaced, now),
            Event::BackingChecked(id) => self.backing_checks.ended(id),
            Event::Orders(orders) => self.obey(orders, now),
            Event::Obeyed(keys) => self.obeyed(&keys, now),
            Event::Searched(port, asked, found, warnings) => {
                for warning in warnings {
                    if self.warned.insert(warning.clone()) {
                        warn!("{warning}");
                    }
                }
                self.plan.searched(&port, &asked, &found, now);
            }
            Event::Port(id, event) => self.port_event(id, event, now),
            Event::Paused(number, done) => self.pause_ended(number, done, now),
            Event::Resumed(number, id) => self.is_resumed(number, id),
        }
    }

    fn port_event(&mut self, id: PortId, event: PortEvent, now: Instant) {
        match event {
            PortEvent::Opened(version) => {
                self.plan.port_opened(id, version, now);
            }
            PortEvent::Lost(export, reason) => self.plan.lost(id, export, reason, now),
            PortEvent::Applied(version) => self.plan.port_applied(id, version),
            PortEvent::Failed(reason) => {
                self.ports.remove(&id);
                self.plan.port_failed(id, reason, now);
            }
            PortEvent::OtherQueues => self.list_links = true,
            PortEvent::Closed => {
                self.ports.remove(&id);
                self.plan.port_closed(id);
            }
        }
    }

    /// Decides and acts; returns when to look again although nothing happens.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Instant> {
        let mut actions = Vec::new();
        self.resume_due(now);
        guard("deciding what to do", || self.plan.step(now, &mut actions));
        for action in actions {
            self.carry_out(&action, now);
        }
        self.ask_for_groups();
        self.tell_silence(now);
        let own = [self.hear_operator(now), self.check_backings(now)];
        self.jobs.pump(now);
        [self.plan.next_time(now), self.jobs.next_time(now)]
            .into_iter()
            .chain(own)
            .chain([self.pauses.next_time()])
            .flatten()
            .min()
    }

    /// Stores that were lost to other clients.
    fn hear_fenced(&mut self, now: Instant) {
        for (id, reason) in self.notices.take_fenced() {
            match self.exports.contains_key(&id) || self.closing.contains_key(&id) {
                true => self.plan.fenced(id, reason, now),
                // It is told once, and its opening has not been taken up yet.
                false => drop(self.fenced_early.insert(id, reason)),
            }
        }
    }

    /// Exports that initiators or their stores changed.
    pub(super) fn changed(&mut self, now: Instant) {
        self.hear_fenced(now);
        for (id, mask) in self.notices.take() {
            if self.exports.contains_key(&id) {
                self.ports.values().for_each(|port| port.changed(id, mask));
            }
        }
    }

    /// Logs what is served, what is not and why, and what was counted.
    pub(super) fn report(&self) {
        let status = self.plan.status();
        let is_open = |state: &super::plan::Progress| *state == super::plan::Progress::Open;
        let open = status
            .exports
            .iter()
            .filter(|export| is_open(&export.state))
            .count();
        info!("{open} of {} exports are open", status.exports.len());
        for export in &status.exports {
            if !is_open(&export.state) {
                info!(
                    "{} of {}: {}",
                    export.address,
                    export.path.display(),
                    export.state
                );
            }
            for (port, reason) in &export.kept_off {
                info!("{} not on {port}: {reason}", export.address);
            }
        }
        for served in self.exports.values() {
            let troubles = served.disks.as_ref().and_then(|disks| disks.troubles().reason());
            if let Some(why) = troubles {
                info!("{}: machines' copies: {why}", served.export.address());
            }
            let (state, why) = match served.export.store().health() {
                Health::Healthy => continue,
                Health::LostWrites(lost) => ("FAILED-DEGRADED", lost.to_string()),
                Health::Degraded(why) => ("FAILED-DEGRADED", why),
                Health::Silent(why) => ("FAILED", why),
            };
            let (address, path) = (served.export.address(), served.config.path.display());
            info!("{address} of {path}: {state}: {why}");
        }
        for address in &status.closing {
            info!("{address}: no longer wanted, its last commit is not over");
        }
        for port in &status.ports {
            info!("{}: {}, {} exports", port.name, port.state, port.exports);
        }
        self.ports.values().for_each(PortHandle::log_counters);
    }
}
