//! Carries out what the plan decided. Nothing here waits: what may block is a job or the thread of a port.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::guard::caught;
use super::open::{self, Served};
use super::other_targets::own::OwnAddresses;
use super::other_targets::{self, OtherTarget, ProbedExport};
use super::plan::{ExportId, Level, OpenRefusal, PlanAction, PortId, PortPlan};
use super::port_thread::{PortEvent, PortHandle};
use super::port_view::PortView;
use super::state::StateDir;
use super::supervisor::{Event, Supervisor};
use super::tags::TagPlace;
use crate::host::{self, Interface};
use crate::port::{Drain, Nic, Tuning};

/// How long requests of an export that goes may still be under way.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Carries out one decision. Where that ends in a panic the plan hears that it failed, and tries it again in its time.
    pub(super) fn carry_out(&mut self, action: &PlanAction, now: Instant) {
        if let Err(reason) = caught(|| self.act(action)) {
            error!("{reason}");
            self.failed(action, reason, now);
        }
    }

    fn failed(&mut self, action: &PlanAction, reason: String, now: Instant) {
        match action {
            PlanAction::OpenState(..) => self.plan.state_failed(reason, now),
            PlanAction::OpenExport(id) => self.plan.export_failed(*id, reason, now),
            PlanAction::CloseExport(id) => self.plan.export_closed(*id, now),
            PlanAction::Examine(id) => self.plan.examined(*id, false, now),
            PlanAction::Search(port, asked) => self.plan.searched(port, asked, &Err(reason), now),
            PlanAction::OpenPort(id, ..) => {
                self.ports.remove(id);
                self.plan.port_failed(*id, reason, now);
            }
            PlanAction::ClosePort(id) => {
                self.ports.remove(id);
                self.plan.port_closed(*id);
            }
            PlanAction::Look(group) => self.plan.group_looked(group, Err(reason), now),
            PlanAction::RunLock(run, _) => self.plan.lock_ended(*run, &Err(reason), now),
            // Nobody waits for an end of these.
            PlanAction::Say(..)
            | PlanAction::Reconfigure(_)
            | PlanAction::FindUnused(_)
            | PlanAction::ListLinks
            | PlanAction::Apply(..)
            | PlanAction::SetMac(..)
            | PlanAction::Announce(_)
            | PlanAction::CheckPort(_)
            | PlanAction::SilenceExport(_)
            | PlanAction::AnnounceExport(_) => {}
        }
    }

    fn act(&mut self, action: &PlanAction) {
        #[cfg(test)]
        assert!(!(self.panics_in)(action), "on purpose, for a test");
        match action {
            PlanAction::Say(Level::Info, line) => info!("{line}"),
            PlanAction::Say(Level::Warn, line) => warn!("{line}"),
            PlanAction::Say(Level::Error, line) => error!("{line}"),
            PlanAction::OpenState(path, before) => {
                let (path, before) = (path.clone(), *before);
                self.jobs.start(
                    move || Event::State(StateDir::open(&path, before).map_err(|error| error.to_string())),
                    |panic| Event::State(Err(panic)),
                );
            }
            PlanAction::OpenExport(id) => self.open_export(*id),
            PlanAction::Reconfigure(id) => self.reconfigure(*id),
            PlanAction::SilenceExport(id) => {
                if let Some(served) = self.exports.get(id) {
                    served.export.silence();
                }
            }
            PlanAction::CloseExport(id) => self.close_export(*id, IN_FLIGHT_LIMIT),
            PlanAction::Examine(id) => self.examine(*id),
            PlanAction::Search(port, asked) => self.search(port.clone(), asked.clone()),
            PlanAction::FindUnused(port) => self.plan.search_again(port, &self.unused(), Instant::now()),
            PlanAction::ListLinks => self.list_links = true,
            PlanAction::OpenPort(id, link, view) => self.open_port(*id, link, view),
            PlanAction::Apply(id, view) => self.with_port(*id, |port| port.apply(self.port_view(view))),
            PlanAction::SetMac(id, mac) => self.with_port(*id, |port| port.set_mac(*mac)),
            PlanAction::Announce(id) => self.with_port(*id, PortHandle::announce_all),
            PlanAction::CheckPort(id) => self.with_port(*id, PortHandle::check),
            PlanAction::AnnounceExport(id) => self.ports.values().for_each(|port| port.changed(*id, false)),
            PlanAction::ClosePort(id) => self.with_port(*id, |port| port.close(Drain::Healthy)),
            PlanAction::Look(group) => self.look_for_owners(group),
            PlanAction::RunLock(run, config) => self.run_lock(*run, config),
        }
    }

    /// Exports of which nobody has read or written anything yet.
    fn unused(&self) -> Vec<ExportId> {
        let counted = self.metrics.snapshot();
        let is_unused = |served: &Served| {
            let totals = counted.export(served.export.address(), served.config.vlan, |_| true);
            totals.counts.is_unused()
        };
        let exports = self.exports.iter();
        exports
            .filter(|(_, served)| is_unused(served))
            .map(|(id, _)| *id)
            .collect()
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
        let shared = open::Shared {
            registry: self.store_registry.clone(),
            notices: Arc::clone(&self.notices),
            overlay_exports: Arc::clone(&self.overlay_exports),
            standing: self.standing_text(&config),
        };
        let takeover = self.plan.takeover(id);
        let work = move || {
            let opened = open::open(id, revision, config, lists, state, takeover, &shared);
            Event::Opened(id, opened.map(Box::new).map_err(OpenRefusal::from))
        };
        self.jobs
            .start(work, move |panic| Event::Opened(id, Err(panic.into())));
    }

    fn reconfigure(&mut self, id: ExportId) {
        let (Some((config, revision)), Some(served)) = (self.plan.config(id), self.exports.get(&id)) else {
            return;
        };
        let lists = self.made.of(&config.allow);
        let served = Arc::new(served.reconfigured(revision, config, lists));
        self.exports.insert(id, served);
    }

    /// Has an export closed; for `timeout` its requests may still be under way.
    pub(super) fn close_export(&mut self, id: ExportId, timeout: Duration) {
        let Some(served) = self.exports.remove(&id) else {
            return;
        };
        let (address, store) = (served.export.address(), Arc::clone(served.export.store()));
        let disks = served.disks.clone();
        self.closing.insert(id, (address, served.config.path.clone()));
        // The job alone holds the store from here on, apart from ports that have not let go of it.
        drop(served);
        let closed = move |result| Event::Closed(id, address, result);
        let close = move || {
            // Before the image that they lie on.
            if let Some(disks) = disks {
                disks.close();
            }
            open::close(&store, timeout)
        };
        self.jobs.start(
            move || closed(close().map_err(|error| error.to_string())),
            move |panic| closed(Err(panic)),
        );
    }

    fn examine(&mut self, id: ExportId) {
        let Some(served) = self.exports.get(&id) else {
            return;
        };
        let (path, file) = (served.config.path.clone(), served.file);
        self.jobs.start(
            move || Event::Examined(id, file.is_some_and(|file| file.is_replaced_at(&path))),
            move |_| Event::Examined(id, false),
        );
    }

    /// Has exports look at what is behind them; returns when the next do. Each is a job of its own: one that hangs keeps no other.
    pub(super) fn check_backings(&mut self, now: Instant) -> Option<Instant> {
        if self.exports.is_empty() {
            return None;
        }
        let (due, next) = self.backing_checks.due(self.exports.keys().copied(), now);
        for id in due {
            let store = self
                .exports
                .get(&id)
                .map(|served| Arc::downgrade(served.export.store()));
            let disks = self.exports.get(&id).and_then(|served| served.disks.as_ref());
            let disks = disks.map(Arc::downgrade);
            let look = move || {
                if let Some(store) = store.and_then(|store| store.upgrade()) {
                    store.look_at_backing();
                }
                if let Some(disks) = disks.and_then(|disks| disks.upgrade()) {
                    disks.look_for_room();
                }
                Event::BackingChecked(id)
            };
            self.jobs.start(look, move |_| Event::BackingChecked(id));
        }
        Some(next)
    }

    fn search(&mut self, port: String, asked: Vec<ExportId>) {
        let Some(index) = self.links.get(&port).map(|link| link.index) else {
            return;
        };
        let wanted = asked
            .iter()
            .filter_map(|id| Some((*id, open::probed(&self.plan.config(*id)?.0))));
        let wanted: Vec<(ExportId, ProbedExport)> = wanted.collect();
        let (again, name, own) = (asked.clone(), port.clone(), self.own.clone());
        let work = move || {
            let (found, warnings) = look_around(&port, index, &wanted, &own);
            Event::Searched(port, asked, found, warnings)
        };
        self.jobs.start(work, move |panic| {
            Event::Searched(name, again, Err(panic), Vec::new())
        });
    }

    fn open_port(&mut self, id: PortId, link: &Interface, view: &PortPlan) {
        let Some(nic) = Nic::of(link) else { return };
        let events = self.port_events.clone();
        // Fails only while the process ends.
        let report = move |event| drop(events.send((id, event)));
        let metrics = Arc::clone(&self.metrics);
        match PortHandle::open(nic, self.port_view(view), metrics, report) {
            Ok(port) => drop(self.ports.insert(id, port)),
            Err(error) => {
                let why = crate::store::limits::no_thread(&error);
                let reason = format!("cannot start a thread for {}: {why}", link.name);
                let _ = self.port_events.send((id, PortEvent::Failed(reason)));
            }
        }
    }

    fn port_view(&self, view: &PortPlan) -> PortView {
        let exports = view.exports.iter().filter_map(|(id, _)| self.exports.get(id));
        PortView {
            exports: exports.cloned().collect(),
            mode: view.mode,
            tuning: Tuning {
                spin: Duration::from_micros(u64::from(view.spin_us)),
                // What is missing has been warned of; who is pinned by turns goes to those that are there.
                cpus: host::cpus::online(&view.cpus),
            },
            version: view.version,
            dumps: Arc::clone(&self.dumps),
            own: self.own.clone(),
        }
    }
}

/// Which exports cannot be served on an interface, in words: because the tags of their VLAN do not reach XDP, or because another
/// target has their address. And what to warn of.
fn look_around(
    port: &str,
    index: u32,
    wanted: &[(ExportId, ProbedExport)],
    own: &OwnAddresses,
) -> (Result<HashMap<ExportId, String>, String>, Vec<String>) {
    let tags = TagPlace::on(port, index);
    let warning = |probed: &ProbedExport| {
        Some(format!(
            "{}: {}",
            probed.address,
            tags?.warning(port, probed.vlan)?
        ))
    };
    let warnings = wanted.iter().filter_map(|(_, probed)| warning(probed)).collect();
    let all: Vec<ProbedExport> = wanted.iter().map(|(_, probed)| *probed).collect();
    let found = other_targets::search(port, &all, own).map_err(|error| format!("{error:#}"));
    let refusal = |probed: &ProbedExport, found: &[OtherTarget]| {
        tags.and_then(|tags| tags.refusal(port, probed.vlan)).or_else(|| {
            let other = found.iter().find(|other| probed.is(other))?;
            Some(format!(
                "{} is already served by {} on {port}: two targets with one address corrupt data; choose another \
                 address, stop the other target, or use --force",
                probed.address, other.mac
            ))
        })
    };
    let refused = found.map(|found| {
        let of = |(id, probed): &(ExportId, ProbedExport)| Some((*id, refusal(probed, &found)?));
        wanted.iter().filter_map(of).collect()
    });
    (refused, warnings)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::plan::Progress;
    use super::*;
    use crate::config::{Config, ExportConfig};

    static PANICS: AtomicBool = AtomicBool::new(true);

    /// Has an image served, on no interface.
    fn serve_an_image(supervisor: &mut Supervisor, now: Instant) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 * 512).unwrap();
        let config = Config {
            sources: Vec::new(),
            exports: vec![ExportConfig::new(1, 1, image.path().into())],
            state_dir: None,
            state_required: false,
            cpus: Vec::new(),
            force: false,
        };
        supervisor.want(config, now);
        supervisor.handle(Event::Links(Ok(HashMap::new())), now);
        supervisor.turn(now);
        image
    }

    #[test]
    fn what_ends_in_a_panic_has_failed_and_is_tried_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (ends, mut results) = tokio::sync::mpsc::unbounded_channel();
            let (ports, _port_events) = tokio::sync::mpsc::unbounded_channel();
            let mut supervisor = Supervisor::new(ends, ports, Arc::default()).unwrap();
            supervisor.panics_in =
                |action| matches!(action, PlanAction::OpenExport(_)) && PANICS.load(Ordering::Relaxed);
            let now = Instant::now();
            let _image = serve_an_image(&mut supervisor, now);
            let Progress::Failed { reason, next_try, .. } = supervisor.plan.status().exports[0].state.clone()
            else {
                panic!("{:?}", supervisor.plan.status());
            };
            assert!(reason.contains("on purpose, for a test"), "{reason}");
            PANICS.store(false, Ordering::Relaxed);
            supervisor.turn(next_try);
            let event = results.recv().await.expect("the job has an end");
            supervisor.handle(event, next_try);
            assert_eq!(supervisor.plan.status().exports[0].state, Progress::Open);
        });
    }

    #[test]
    fn a_store_that_is_lost_while_its_opening_is_reported_is_not_kept() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (ends, mut results) = tokio::sync::mpsc::unbounded_channel();
            let (ports, _port_events) = tokio::sync::mpsc::unbounded_channel();
            let notices = Arc::new(super::super::notices::Notices::default());
            let mut supervisor = Supervisor::new(ends, ports, Arc::clone(&notices)).unwrap();
            let now = Instant::now();
            let _image = serve_an_image(&mut supervisor, now);
            let opened = results.recv().await.expect("the job has an end");
            let Event::Opened(id, Ok(_)) = &opened else {
                panic!("{opened:?}");
            };
            notices.fenced(*id, "another client has it");
            supervisor.changed(now);
            supervisor.handle(opened, now);
            let state = supervisor.plan.status().exports[0].state.clone();
            let Progress::Failed { reason, .. } = &state else {
                panic!("{state:?}");
            };
            assert_eq!(reason, "another client has it");
        });
    }
}
