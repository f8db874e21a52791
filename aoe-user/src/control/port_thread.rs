//! A served interface and the thread that opens it, changes it and ends it: all of that may wait, for the kernel, for a worker
//! or for a disk. What is wished of it lies in slots, the newest only, so that nothing piles up however slow it is.

mod looks;
mod reopening;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aoe_common::Mac;
use tracing::{error, info, warn};

use super::denied::{DeniedReport, DeniedSource};
use super::guard::caught;
use super::other_targets::OtherTarget;
use super::other_targets::own::OwnAddress;
use super::other_targets::watch::TargetWatch;
use super::plan::ExportId;
use super::port_targets::listen;
use super::port_view::PortView;
use super::port_wishes::{About, PortShared, PortWishes};
use crate::metrics::Registry;
use crate::port::{Alarm, Drain, Nic, Port, PortError, PortOptions};
use crate::target::Export;

/// Denied sources are asked for and workers looked after this often.
const TICK: Duration = Duration::from_secs(2);
/// Least time between two changes of the filter's rules because of masks: a host may send any number of them.
const MASK_PACE: Duration = Duration::from_millis(20);
/// A port that loses another worker sooner than this after it was opened again is closed, and tried again with back-off.
const WORKER_PACE: Duration = Duration::from_secs(10);

/// What became of a port.
#[derive(Debug)]
pub(super) enum PortEvent {
    /// It serves the view of this version.
    Opened(u64),
    /// It serves the view of this version from now on.
    Applied(u64),
    /// The address of an export on it belongs to another target, for this reason.
    Lost(ExportId, String),
    /// It could not be opened or does not work any more; it is closed.
    Failed(String),
    /// It was closed, as was wished.
    Closed,
    /// Its interface has another number of receive queues.
    OtherQueues,
}

/// Control's handle of a port.
#[derive(Debug)]
pub(super) struct PortHandle {
    pub(crate) name: String,
    shared: Arc<PortShared>,
}

impl PortHandle {
    /// Starts a thread that opens the port and tells `report` what becomes of it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn open(
        nic: Nic,
        view: PortView,
        metrics: Arc<Registry>,
        report: impl Fn(PortEvent) + Send + 'static,
    ) -> std::io::Result<PortHandle> {
        let shared = Arc::new(PortShared::default());
        let (name, theirs) = (nic.name.clone(), Arc::clone(&shared));
        std::thread::Builder::new()
            .name(format!("port {name}"))
            .spawn(move || {
                let end = caught(|| run(&nic, view, &metrics, &theirs, &report));
                report(end.unwrap_or_else(PortEvent::Failed));
            })?;
        Ok(PortHandle { name, shared })
    }

    /// Wishes another view.
    pub(super) fn apply(&self, view: PortView) {
        self.wish(|wishes| wishes.view = Some(view));
    }

    /// The interface has another address.
    pub(super) fn set_mac(&self, mac: Mac) {
        self.wish(|wishes| wishes.mac = Some(mac));
    }

    /// Wishes all exports advertised.
    pub(super) fn announce_all(&self) {
        self.wish(|wishes| wishes.announce_all = true);
    }

    /// An export changed: it is advertised, and with its mask the filter's rules change.
    pub(super) fn changed(&self, id: ExportId, mask: bool) {
        self.wish(|wishes| {
            wishes.masks |= mask;
            wishes.announce.insert(id);
        });
    }

    /// Wishes the counters logged.
    pub(super) fn log_counters(&self) {
        self.wish(|wishes| wishes.counters = true);
    }

    /// Something happened to the interface: wishes it checked that it still has the port's queues and program.
    pub(super) fn check(&self) {
        self.wish(|wishes| wishes.check = true);
    }

    /// What it is; `None` while it is not open.
    pub(super) fn about(&self) -> Option<About> {
        self.shared.about.lock().clone()
    }

    /// Sources that were turned away lately.
    pub(super) fn denied(&self) -> Vec<DeniedSource> {
        self.shared.denied.lock().clone()
    }

    /// Wishes the port closed.
    pub(super) fn close(&self, drain: Drain) {
        self.wish(|wishes| wishes.close = Some(drain));
    }

    /// For the end of the process: frees the queues although workers hang.
    pub(super) fn release_queues(&self) {
        for queue in self.shared.queues.lock().iter() {
            queue.release();
        }
    }

    fn wish(&self, change: impl FnOnce(&mut PortWishes)) {
        self.shared.wish(change);
    }
}

/// A port that is open.
struct Running<'a> {
    name: String,
    nic: Nic,
    port: Port,
    /// Its address is one of the process's own.
    own: OwnAddress,
    view: PortView,
    by_id: HashMap<ExportId, Arc<Export>>,
    /// Listens for other targets; `None` where the system gave no thread.
    watch: Option<TargetWatch>,
    denied: DeniedReport,
    /// When rules were changed because of masks.
    rules_made: Option<Instant>,
    /// When the port was opened again because a worker had panicked.
    reopened: Option<Instant>,
    shared: &'a Arc<PortShared>,
}

/// Opens the port of a view. Keeps nothing of the view: an export closes only when nobody holds it any more.
fn open(
    nic: &Nic,
    view: &PortView,
    metrics: &Arc<Registry>,
    shared: &Arc<PortShared>,
) -> Result<Port, PortError> {
    let options = PortOptions {
        mode: view.mode,
        tuning: view.tuning.clone(),
        alarm: Alarm::new({
            let shared = Arc::clone(shared);
            move || shared.wish(|wishes| wishes.lost_worker = true)
        }),
        dumps: Arc::clone(&view.dumps),
    };
    let (exports, rules) = view.halves();
    Port::open(nic, &options, &exports, &rules, metrics)
}

/// The thread, from the opening to the end; returns what the end is.
fn run(
    nic: &Nic,
    view: PortView,
    metrics: &Arc<Registry>,
    shared: &Arc<PortShared>,
    report: &dyn Fn(PortEvent),
) -> PortEvent {
    // Before it answers.
    let own = view.own.add(nic.mac);
    let port = match open(nic, &view, metrics, shared) {
        Ok(port) => port,
        Err(error) => return PortEvent::Failed(reason_of(error)),
    };
    *shared.queues.lock() = port.queue_releases();
    let mut running = Running {
        name: nic.name.clone(),
        nic: nic.clone(),
        port,
        own,
        by_id: view.by_id(),
        watch: listen(&nic.name, &view, shared)
            .inspect_err(|error| warn!("{}: cannot listen for other targets yet: {error}", nic.name))
            .ok(),
        view: PortView {
            exports: Vec::new(),
            ..view.clone()
        },
        denied: DeniedReport::new(Instant::now()),
        rules_made: None,
        reopened: None,
        shared,
    };
    running.tell_about();
    running.greet(&view);
    running.view = view;
    report(PortEvent::Opened(running.view.version));
    running.serve(report)
}

impl Running<'_> {
    fn serve(&mut self, report: &dyn Fn(PortEvent)) -> PortEvent {
        let mut tick = Instant::now() + TICK;
        loop {
            let wishes = self.wait(tick);
            if let Some(drain) = wishes.close {
                self.close(drain);
                return PortEvent::Closed;
            }
            let (lost_worker, check) = (wishes.lost_worker, wishes.check);
            let mut fulfilled = self.fulfil(wishes, report);
            if lost_worker && fulfilled.is_ok() {
                fulfilled = self.replace_workers();
            }
            if check && fulfilled.is_ok() {
                fulfilled = self.check_attachments();
            }
            if let Err(reason) = fulfilled {
                return PortEvent::Failed(reason);
            }
            if Instant::now() >= tick {
                tick = Instant::now() + TICK;
                self.report_denied();
                self.listen_again();
                let looked = self
                    .check_attachments()
                    .and_then(|()| self.look_whether_frames_arrive());
                self.look_at_queues(report);
                if let Err(reason) = looked {
                    return PortEvent::Failed(reason);
                }
            }
        }
    }

    /// Listens for other targets where that failed so far.
    fn listen_again(&mut self) {
        if self.watch.is_none() {
            self.watch = listen(&self.name, &self.view, self.shared).ok();
        }
    }

    /// Waits for wishes until the tick.
    fn wait(&self, tick: Instant) -> PortWishes {
        let mut wishes = self.shared.wishes.lock();
        while wishes.is_empty() {
            if self.shared.wake.wait_until(&mut wishes, tick).timed_out() {
                break;
            }
        }
        std::mem::take(&mut wishes)
    }

    /// # Errors
    /// Why the port had to be closed.
    fn fulfil(&mut self, wishes: PortWishes, report: &dyn Fn(PortEvent)) -> Result<(), String> {
        if let Some(mac) = wishes.mac {
            self.nic.mac = mac;
            self.own = self.view.own.add(mac);
            self.tell_about();
            if let Err(error) = self.port.set_mac(mac) {
                error!(
                    "{}: the filter could not be told of the new address: {error}",
                    self.name
                );
            }
        }
        if let Some(view) = wishes.view {
            self.apply(view)?;
            report(PortEvent::Applied(self.view.version));
        } else if wishes.masks {
            self.renew_rules()?;
        }
        for other in wishes.lost {
            self.tell_lost(other, report);
        }
        if wishes.announce_all {
            self.port.advertise(self.by_id.values().cloned().collect());
        } else if !wishes.announce.is_empty() {
            let known = wishes.announce.iter().filter_map(|id| self.by_id.get(id));
            self.port.advertise(known.cloned().collect());
        }
        if wishes.counters {
            self.log_counters();
        }
        Ok(())
    }

    fn apply(&mut self, view: PortView) -> Result<(), String> {
        if view.tuning != self.view.tuning {
            self.port.set_tuning(&view.tuning);
        }
        let (exports, rules) = view.halves();
        match self.port.set_exports(&exports, &rules) {
            Err(error) if error.is_outgrown() => self.make_room(&error, &exports, &rules)?,
            Err(error) => error!("{}: the filter keeps its old rules: {error}", self.name),
            Ok(()) => {}
        }
        self.by_id = view.by_id();
        if let Some(watch) = &self.watch {
            watch.want(view.probed());
        }
        self.greet(&view);
        self.view = view;
        Ok(())
    }

    fn tell_lost(&self, other: OtherTarget, report: &dyn Fn(PortEvent)) {
        for served in self
            .view
            .exports
            .iter()
            .filter(|served| served.probed().is(&other))
        {
            let reason = format!(
                "{} was started by {} on {} at the same time, and is left to it: two targets with one address corrupt data; stop \
                 one of them or give it another address",
                other.address, other.mac, self.name
            );
            report(PortEvent::Lost(served.id, reason));
        }
    }

    /// Says which exports of a view are served from now on, and advertises them and those that changed.
    fn greet(&self, view: &PortView) {
        let nic = &self.nic;
        let before: HashMap<ExportId, u64> = self
            .view
            .exports
            .iter()
            .map(|served| (served.id, served.revision))
            .collect();
        let queues = if nic.rx_queues == 1 { "queue" } else { "queues" };
        let mut news = Vec::new();
        for served in &view.exports {
            match before.get(&served.id) {
                Some(revision) if *revision == served.revision => continue,
                Some(_) => {}
                // Not "ready" after it was said that it goes.
                None if self.shared.wishes.lock().gives_up(served.id) => continue,
                None => info!(
                    "{} ready on {} ({}): {}, {} {queues}, MTU {}, {}",
                    served.export.address(),
                    self.name,
                    nic.mac,
                    self.port.obtained(),
                    nic.rx_queues,
                    nic.mtu_bytes,
                    served.describe()
                ),
            }
            news.push(Arc::clone(&served.export));
        }
        if !news.is_empty() {
            self.port.advertise(news);
        }
    }

    fn tell_about(&self) {
        *self.shared.about.lock() = Some(About {
            mode: self.port.obtained().to_string(),
            mac: self.nic.mac,
            mtu_bytes: self.nic.mtu_bytes,
            fault: self.port.fault().map(str::to_owned),
        });
    }

    fn report_denied(&mut self) {
        match self.port.denied() {
            Ok(denied) => {
                for line in self.denied.report(&denied, Instant::now()) {
                    warn!("{}: dropped {line}", self.name);
                }
                *self.shared.denied.lock() = self.denied.sources();
            }
            Err(error) => error!("{}: {error}", self.name),
        }
    }

    fn log_counters(&self) {
        match self.port.filter_counters() {
            Ok(counters) => info!("{}: filter: {counters}", self.name),
            Err(error) => error!("{}: {error}", self.name),
        }
        info!("{}: served: {}", self.name, self.port.totals());
    }

    fn close(&mut self, drain: Drain) {
        // Of the time since the last tick.
        self.report_denied();
        self.port.close(drain);
        self.shared.queues.lock().clear();
        self.log_counters();
    }
}

/// An error with its causes.
fn reason_of(error: PortError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}
