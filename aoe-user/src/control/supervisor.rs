//! Carries out what the [`Plan`] decides, and tells it what comes of it. Nothing here waits: what may block is a job or the
//! thread of a port.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info, warn};

use super::jobs::{Jobs, panic_text};
use super::links::LinkState;
use super::lists::Made;
use super::neighbours::{self, Neighbour, Sought};
use super::notices::Notices;
use super::open::{self, Served, StateKeys};
use super::plan::{Action, ExportId, Level, Plan, PortId, View};
use super::port_thread::{PortEvent, PortHandle, PortView};
use super::state::operator::Action as Order;
use super::state::{StateDir, StateKey};
use super::tags::Tags;
use crate::config::Config;
use crate::port::Tuning;
use crate::store::Health;
use crate::target::Address;

/// How long requests of an export that goes may still be under way.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(5);

/// How often `xblade state` is listened to.
const OPERATOR_PACE: Duration = Duration::from_secs(2);

/// What comes of jobs and ports.
#[derive(Debug)]
pub(super) enum Event {
    Config(Result<Box<Config>, String>),
    Links(Result<HashMap<String, LinkState>, String>),
    State(Result<Arc<StateDir>, String>),
    Opened(ExportId, Result<Box<Served>, String>),
    Closed(ExportId, Address, Result<(), String>),
    Examined(ExportId, bool),
    /// With what to warn of.
    Searched(
        String,
        Vec<ExportId>,
        Result<HashMap<ExportId, String>, String>,
        Vec<String>,
    ),
    /// What `xblade state` asks for.
    Orders(Vec<(StateKey, Order)>),
    Port(PortId, PortEvent),
}

/// Everything that is served and by what.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) plan: Plan,
    pub(super) exports: HashMap<ExportId, Arc<Served>>,
    pub(super) ports: BTreeMap<PortId, PortHandle>,
    pub(super) state: Option<Arc<StateDir>>,
    pub(super) jobs: Jobs<Event>,
    /// Exports whose last commit is under way, with their files.
    pub(super) closing: HashMap<ExportId, (Address, PathBuf)>,
    /// Some last commit failed.
    pub(super) commit_failed: Option<String>,
    port_events: UnboundedSender<(PortId, PortEvent)>,
    notices: Arc<Notices>,
    made: Made,
    /// As the state directory must know them.
    state_keys: Arc<StateKeys>,
    /// When `xblade state` was last listened to; `None`: that is under way.
    heard_operator: Option<Instant>,
    /// Warnings about interfaces, said once.
    warned: HashSet<String>,
    links: HashMap<String, LinkState>,
    /// The interfaces are to be listed.
    pub(super) list_links: bool,
}

impl Supervisor {
    pub fn new(
        ends: UnboundedSender<Event>,
        port_events: UnboundedSender<(PortId, PortEvent)>,
        notices: Arc<Notices>,
    ) -> Supervisor {
        Supervisor {
            plan: Plan::new(),
            exports: HashMap::new(),
            ports: BTreeMap::new(),
            state: None,
            jobs: Jobs::new(ends),
            closing: HashMap::new(),
            commit_failed: None,
            port_events,
            notices,
            made: Made::default(),
            state_keys: Arc::default(),
            heard_operator: Some(Instant::now()),
            warned: HashSet::new(),
            links: HashMap::new(),
            list_links: false,
        }
    }

    /// Takes over a configuration.
    pub fn want(&mut self, config: Config, now: Instant) {
        let keys = config.exports.iter().map(StateKey::from);
        self.state_keys = Arc::new(StateKeys::new(keys.collect()));
        self.made = Made::default();
        self.plan.want(config, now);
    }

    /// Takes up what came of something.
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            // Control's own, before it is handed on.
            Event::Config(_) => {}
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
                let revision = served.revision;
                self.exports.insert(id, served);
                self.plan.export_opened(id, revision);
            }
            Event::Opened(id, Err(reason)) => self.plan.export_failed(id, reason, now),
            Event::Closed(id, address, result) => {
                self.closing.remove(&id);
                self.plan.export_closed(id, now);
                if let Err(reason) = result {
                    error!("{address}: the last commit failed: {reason}");
                    self.commit_failed = Some(format!("{address}: the last commit failed: {reason}"));
                }
            }
            Event::Examined(id, replaced) => self.plan.examined(id, replaced, now),
            Event::Orders(orders) => self.obey(orders, now),
            Event::Searched(port, asked, found, warnings) => {
                for warning in warnings {
                    if self.warned.insert(warning.clone()) {
                        warn!("{warning}");
                    }
                }
                self.plan.searched(&port, &asked, &found, now);
            }
            Event::Port(id, event) => self.port_event(id, event, now),
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
            PortEvent::Closed => {
                self.ports.remove(&id);
                self.plan.port_closed(id);
            }
        }
    }

    /// Decides and acts; returns when to look again although nothing happens.
    pub fn turn(&mut self, now: Instant) -> Option<Instant> {
        let mut actions = Vec::new();
        guard("deciding what to do", || self.plan.step(now, &mut actions));
        for action in actions {
            guard("carrying out a decision", || self.act(action));
        }
        let operator = self.hear_operator(now);
        self.jobs.pump(now);
        [self.plan.next_time(now), self.jobs.next_time(now), operator]
            .into_iter()
            .flatten()
            .min()
    }

    /// Exports that initiators or their stores changed.
    pub fn changed(&mut self) {
        for (id, mask) in self.notices.take() {
            if self.exports.contains_key(&id) {
                self.ports.values().for_each(|port| port.changed(id, mask));
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Say(Level::Info, line) => info!("{line}"),
            Action::Say(Level::Warn, line) => warn!("{line}"),
            Action::Say(Level::Error, line) => error!("{line}"),
            Action::OpenState(path) => self.jobs.start(
                move || Event::State(StateDir::open(&path).map_err(|error| error.to_string())),
                |panic| Event::State(Err(panic)),
            ),
            Action::OpenExport(id) => self.open_export(id),
            Action::Reconfigure(id) => self.reconfigure(id),
            Action::CloseExport(id) => self.close_export(id, IN_FLIGHT_LIMIT),
            Action::Examine(id) => self.examine(id),
            Action::Search(port, asked) => self.search(port, asked),
            Action::ListLinks => self.list_links = true,
            Action::OpenPort(id, link, view) => self.open_port(id, &link, &view),
            Action::Apply(id, view) => {
                let view = self.port_view(&view);
                if let Some(port) = self.ports.get(&id) {
                    port.apply(view);
                }
            }
            Action::SetMac(id, mac) => self.with_port(id, |port| port.set_mac(mac)),
            Action::Announce(id) => self.with_port(id, PortHandle::announce_all),
            Action::ClosePort(id) => self.with_port(id, PortHandle::close),
        }
    }

    fn with_port(&self, id: PortId, work: impl FnOnce(&PortHandle)) {
        if let Some(port) = self.ports.get(&id) {
            work(port);
        }
    }

    fn open_export(&mut self, id: ExportId) {
        let Some((config, revision)) = self.plan.config(id) else {
            return;
        };
        let lists = self.made.of(&config.allow);
        let state = self
            .state
            .clone()
            .map(|state| (state, Arc::clone(&self.state_keys)));
        let notices = Arc::clone(&self.notices);
        let work = move || {
            let opened = open::open(id, revision, config, lists, state, &notices);
            Event::Opened(id, opened.map(Box::new).map_err(|error| format!("{error:#}")))
        };
        self.jobs.start(work, move |panic| Event::Opened(id, Err(panic)));
    }

    fn reconfigure(&mut self, id: ExportId) {
        let (Some((config, revision)), Some(served)) = (self.plan.config(id), self.exports.get(&id)) else {
            return;
        };
        let lists = self.made.of(&config.allow);
        let served = Arc::new(served.reconfigured(revision, config, lists));
        self.exports.insert(id, served);
    }

    /// Has an export closed; for `patience` its requests may still be under way.
    pub(super) fn close_export(&mut self, id: ExportId, patience: Duration) {
        let Some(served) = self.exports.remove(&id) else {
            return;
        };
        let (address, store) = (served.export.address(), Arc::clone(served.export.store()));
        self.closing.insert(id, (address, served.config.path.clone()));
        // The job alone holds the store from here on, apart from ports that have not let go of it.
        drop(served);
        let closed = move |result| Event::Closed(id, address, result);
        self.jobs.start(
            move || closed(open::close(&store, patience).map_err(|error| error.to_string())),
            move |panic| closed(Err(panic)),
        );
    }

    fn examine(&mut self, id: ExportId) {
        let Some(served) = self.exports.get(&id) else {
            return;
        };
        let (path, file) = (served.config.path.clone(), served.file);
        self.jobs.start(
            move || Event::Examined(id, open::is_replaced(&path, file)),
            move |_| Event::Examined(id, false),
        );
    }

    fn search(&mut self, port: String, asked: Vec<ExportId>) {
        let Some(index) = self.links.get(&port).map(|link| link.index) else {
            return;
        };
        let wanted = asked
            .iter()
            .filter_map(|id| Some((*id, open::sought(&self.plan.config(*id)?.0))));
        let wanted: Vec<(ExportId, Sought)> = wanted.collect();
        let (again, name) = (asked.clone(), port.clone());
        let work = move || {
            let (found, warnings) = look_around(&port, index, &wanted);
            Event::Searched(port, asked, found, warnings)
        };
        self.jobs.start(work, move |panic| {
            Event::Searched(name, again, Err(panic), Vec::new())
        });
    }

    /// Looks for what `xblade state` asks for, from time to time.
    fn hear_operator(&mut self, now: Instant) -> Option<Instant> {
        let state = self.state.as_ref()?;
        let next = self.heard_operator? + OPERATOR_PACE;
        if now < next {
            return Some(next);
        }
        let state = Arc::clone(state);
        self.heard_operator = None;
        self.jobs.start(
            move || Event::Orders(state.requests()),
            |_| Event::Orders(Vec::new()),
        );
        None
    }

    /// Has the operator's orders carried out: for what is served here, for all else when it is loaded the next time.
    fn obey(&mut self, orders: Vec<(StateKey, Order)>, now: Instant) {
        self.heard_operator = Some(now);
        let Some(state) = self.state.clone().filter(|_| !orders.is_empty()) else {
            return;
        };
        self.plan.try_all_again(now);
        let export = |(key, order): (StateKey, Order)| {
            let served = self
                .exports
                .values()
                .find(|served| StateKey::from(&*served.config) == key)?;
            Some((key, order, Arc::clone(&served.export)))
        };
        let served: Vec<_> = orders.into_iter().filter_map(export).collect();
        let work = move || {
            for (key, order, export) in &served {
                state.obey_in_service(key, order, export);
            }
            Event::Orders(Vec::new())
        };
        self.jobs.start(work, |_| Event::Orders(Vec::new()));
    }

    fn open_port(&mut self, id: PortId, link: &LinkState, view: &View) {
        let Some(nic) = link.nic() else { return };
        let events = self.port_events.clone();
        // Fails only while the process ends.
        let report = move |event| drop(events.send((id, event)));
        match PortHandle::open(nic, self.port_view(view), report) {
            Ok(port) => drop(self.ports.insert(id, port)),
            Err(error) => {
                let reason = format!("cannot start a thread for {}: {error}", link.name);
                let _ = self.port_events.send((id, PortEvent::Failed(reason)));
            }
        }
    }

    fn port_view(&self, view: &View) -> PortView {
        let exports = view.exports.iter().filter_map(|(id, _)| self.exports.get(id));
        PortView {
            exports: exports.cloned().collect(),
            mode: view.mode,
            tuning: Tuning {
                spin: Duration::from_micros(u64::from(view.spin_us)),
                cpus: view.cpus.clone(),
            },
            version: view.version,
        }
    }

    /// Logs what is served, what is not and why, and what was counted.
    pub fn report(&self) {
        let status = self.plan.status();
        let is_open = |state: &super::plan::State| *state == super::plan::State::Open;
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
            if let Health::LostWrites(lost) = served.export.store().health() {
                info!(
                    "{} of {}: FAILED-DEGRADED: {lost}",
                    served.export.address(),
                    served.config.path.display()
                );
            }
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

/// Which exports cannot be served on an interface, in words: because the tags of their VLAN do not reach XDP, or because another
/// target has their address. And what to warn of.
fn look_around(
    port: &str,
    index: u32,
    wanted: &[(ExportId, Sought)],
) -> (Result<HashMap<ExportId, String>, String>, Vec<String>) {
    let tags = Tags::on(port, index);
    let warning = |sought: &Sought| {
        Some(format!(
            "{}: {}",
            sought.address,
            tags?.warning(port, sought.vlan)?
        ))
    };
    let warnings = wanted.iter().filter_map(|(_, sought)| warning(sought)).collect();
    let all: Vec<Sought> = wanted.iter().map(|(_, sought)| *sought).collect();
    let found = neighbours::search(port, &all).map_err(|error| format!("{error:#}"));
    let refusal = |sought: &Sought, found: &[Neighbour]| {
        tags.and_then(|tags| tags.refusal(port, sought.vlan)).or_else(|| {
            let other = found.iter().find(|other| sought.is(other))?;
            Some(format!(
                "{} is already served by {} on {port}: two targets with one address corrupt data; choose another \
                 address, stop the other target, or use --force",
                sought.address, other.mac
            ))
        })
    };
    let refused = found.map(|found| {
        let of = |(id, sought): &(ExportId, Sought)| Some((*id, refusal(sought, &found)?));
        wanted.iter().filter_map(of).collect()
    });
    (refused, warnings)
}

/// Keeps a panic in control code from ending anything but what it happened in.
pub(super) fn guard(doing: &str, work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        error!(
            "internal error while {doing}, please report it: {}",
            panic_text(&*panic)
        );
    }
}
