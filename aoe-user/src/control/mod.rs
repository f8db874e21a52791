//! What is not data path: start and stop, signals, interfaces that come and go, advertisements, kept state.
//!
//! One thread decides ([`plan`]) and never waits for anything but the next event; what may block is a job or the thread of a
//! port. The workers never wait for it.

pub mod api;
mod backing_checks;
mod backoff;
mod carry_out;
mod commit_store;
mod denied;
mod failover;
mod guard;
mod jobs;
mod links;
mod lists;
mod machines;
mod notices;
mod notify;
mod open;
mod orders;
mod other_targets;
mod pauses;
mod plan;
mod port_targets;
mod port_thread;
mod port_view;
mod port_wishes;
pub(crate) mod preflight;
pub mod signals;
pub mod state;
mod stop;
mod store_options;
mod supervisor;
pub(crate) mod tags;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::host::{self, Interface};
use api::listening::Listening;
use api::reloads::{Reading, Settling};
use api::socket::ControlCall;
use api::types::LogLines;
use guard::guard;
use links::Links;
pub(crate) use machines::{DiskName, directory as directory_of_copies};
use notices::Notices;
use notify::Notify;
pub(crate) use other_targets::other_aoe_programs;
use plan::PortId;
use port_thread::PortEvent;
use signals::Signals;
use supervisor::{Event, Supervisor};

/// Interfaces change in bursts (a flap, a bond): look once the burst is over.
const SETTLE: Duration = Duration::from_millis(20);
/// When to list the interfaces again after that failed.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// When to decide again after that ended in a panic.
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// Events taken up before the next look at signals and interfaces.
const BATCH: usize = 128;

/// Reads the configuration: at the start and for each SIGHUP. May block.
pub(crate) type Load = Arc<dyn Fn() -> Result<Config> + Send + Sync>;

/// Changes what is logged; fails with what is wrong with the filter.
pub(crate) type SetLog = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The last lines of the log that came after one with this number.
pub(crate) type ReadLog = Arc<dyn Fn(u64) -> LogLines + Send + Sync>;

/// What to serve, and what to do about what cannot be served.
pub struct Service {
    /// Gives the configuration.
    pub load: Load,
    /// SIGHUP reads it again.
    pub reloads: bool,
    /// End with the first thing that fails, until all that is wanted is served; else it is tried again for ever.
    pub must_start: bool,
    /// Where to listen for `xblade status` and others.
    pub control: Option<PathBuf>,
    /// For `xblade log FILTER`.
    pub set_log: SetLog,
    /// For `xblade log` and `xblade top`.
    pub read_log: ReadLog,
}

/// Serves until SIGTERM or SIGINT, then commits everything and returns.
///
/// # Errors
/// When the first configuration cannot be read, when something must start and does not, when the last commit of an export
/// failed, or when one was left behind because its disk does not answer.
pub fn run(service: Service) -> Result<()> {
    preflight::enough_descriptors()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    let result = runtime.block_on(supervise(service));
    // Jobs that hang in the kernel end with the process.
    runtime.shutdown_background();
    result
}

/// The control thread's inputs and what it knows of them.
struct Control {
    service: Service,
    supervisor: Supervisor,
    notices: Arc<Notices>,
    signals: Signals,
    links: Links,
    ends: (UnboundedSender<Event>, UnboundedReceiver<Event>),
    port_events: UnboundedReceiver<(PortId, PortEvent)>,
    /// When to list the interfaces.
    list_at: Option<Instant>,
    is_listing: bool,
    has_listed: bool,
    /// Read and not yet taken over: the interfaces are not known yet.
    first: Option<Config>,
    has_config: bool,
    /// The configuration in force.
    current: Option<Config>,
    /// What is being read, and what is to be read after that.
    reading: Option<Reading>,
    next_reading: Reading,
    settling: Vec<Settling>,
    listening: Option<Listening>,
    calls: Option<mpsc::Receiver<ControlCall>>,
    notify: Notify,
}

async fn supervise(service: Service) -> Result<()> {
    let signals = Signals::new()?;
    let links = Links::open()?;
    let (ends, port_events) = (unbounded_channel(), unbounded_channel());
    let notices = Arc::new(Notices::default());
    let mut supervisor = Supervisor::new(ends.0.clone(), port_events.0, Arc::clone(&notices))
        .map_err(|error| anyhow!("cannot start: {}", crate::store::limits::no_thread(&error)))?;
    supervisor.plan.gives_up = service.must_start;
    let (listening, calls) = service.control.as_deref().map(Listening::new).unzip();
    let mut control = Control {
        service,
        supervisor,
        notices,
        signals,
        links,
        ends,
        port_events: port_events.1,
        list_at: Some(Instant::now()),
        is_listing: false,
        has_listed: false,
        first: None,
        has_config: false,
        current: None,
        reading: None,
        next_reading: Reading::default(),
        settling: Vec::new(),
        listening,
        calls,
        notify: Notify::new(Instant::now()),
    };
    control.load(Reading::to_apply());
    let end = control.serve().await;
    control.notify.stopping();
    let (timeout, failure) = match end {
        Ok(timeout) => (timeout, None),
        Err(failure) => (stop::TIMEOUT, Some(failure)),
    };
    let stopped = stop::stop(
        control.supervisor,
        control.signals,
        control.ends.1,
        control.port_events,
        timeout,
    )
    .await;
    failure.map_or(stopped, Err)
}

impl Control {
    /// Serves until a signal ends it; returns how long the end may take.
    async fn serve(&mut self) -> Result<Duration> {
        let mut batch = Vec::new();
        let mut port_batch = Vec::new();
        loop {
            let now = Instant::now();
            let next = match guard("deciding what to do", || self.turn(now)) {
                Some(next) => next?,
                None => Some(now + AFTER_PANIC),
            };
            tokio::select! {
                signal = self.signals.next() => match signal {
                    signals::SignalEvent::Stop(name) => {
                        info!("{name}: finishing what is in flight");
                        return Ok(stop::TIMEOUT);
                    }
                    signals::SignalEvent::Quit => {
                        warn!("SIGQUIT: ending at once");
                        return Ok(Duration::ZERO);
                    }
                    signals::SignalEvent::Reload => drop(guard("reading the configuration", || self.reload())),
                    signals::SignalEvent::Report => drop(guard("reporting", || self.supervisor.report())),
                },
                () = self.links.changed() => {
                    self.list_at.get_or_insert(Instant::now() + SETTLE);
                }
                _ = self.port_events.recv_many(&mut port_batch, BATCH) => {}
                _ = self.ends.1.recv_many(&mut batch, BATCH) => {}
                Some(call) = next_call(&mut self.calls) => {
                    guard("answering a request", || self.call(call, Instant::now()));
                }
                () = self.notices.arrived() => {
                    guard("following what initiators changed", || self.supervisor.changed(Instant::now()));
                }
                () = until(next) => {}
            }
            let now = Instant::now();
            for (port, event) in port_batch.drain(..) {
                guard("following a port", || {
                    self.supervisor.handle(Event::Port(port, event), now);
                });
            }
            for event in batch.drain(..) {
                self.take_up(event, now)?;
            }
        }
    }

    /// Decides what to do and has it done; returns when to look again although nothing happens.
    fn turn(&mut self, now: Instant) -> Result<Option<Instant>> {
        self.list_links(now);
        let next = self.supervisor.turn(now);
        self.check_start()?;
        self.answer_settled(now);
        let plan = &self.supervisor.plan;
        let is_ready = self.has_config && !plan.is_reloading();
        let workers = || self.supervisor.metrics.progress();
        let notify = self.notify.turn(plan, is_ready, workers, now);
        if self.supervisor.list_links {
            self.list_at.get_or_insert(now);
        }
        let settling = self.settling.first().map(|settling| settling.until);
        let list = self.list_at.filter(|_| !self.is_listing);
        Ok([next, settling, notify, list].into_iter().flatten().min())
    }

    fn take_up(&mut self, event: Event, now: Instant) -> Result<()> {
        match event {
            Event::Config(config) => {
                guard("taking over a configuration", || self.loaded(config, now)).unwrap_or(Ok(()))
            }
            Event::Links(links) => {
                self.is_listing = false;
                if links.is_err() {
                    self.list_at = Some(now + LIST_AGAIN);
                }
                self.has_listed |= links.is_ok();
                guard("following the interfaces", || {
                    self.supervisor.handle(Event::Links(links), now);
                });
                self.take_over_first(now);
                Ok(())
            }
            event => {
                guard("taking up a result", || self.supervisor.handle(event, now));
                Ok(())
            }
        }
    }

    /// Has the configuration read, once at a time.
    fn load(&mut self, reading: Reading) {
        self.next_reading.add(reading);
        if self.reading.is_some() || !self.next_reading.is_wanted() {
            return;
        }
        self.reading = Some(std::mem::take(&mut self.next_reading));
        let load = Arc::clone(&self.service.load);
        let text = |error: anyhow::Error| format!("{error:#}");
        self.supervisor.jobs.start(
            move || Event::Config(load().map(Box::new).map_err(text)),
            |panic| Event::Config(Err(panic)),
        );
    }

    fn reload(&mut self) {
        if let Some(listening) = &self.listening {
            listening.hasten();
        }
        if self.service.reloads {
            self.load(Reading::to_apply());
        } else {
            warn!("SIGHUP: nothing to reload without a configuration file");
        }
    }

    fn loaded(&mut self, config: Result<Box<Config>, String>, now: Instant) -> Result<()> {
        let reading = self.reading.take().unwrap_or_default();
        match config {
            Ok(config) => self.read(reading, *config, now),
            Err(reason) if !self.has_config => return Err(anyhow!(reason)),
            Err(reason) => {
                if reading.apply {
                    error!("the configuration stays as it was: {reason}");
                }
                self.not_read(reading, &reason);
            }
        }
        self.load(Reading::default());
        Ok(())
    }

    fn take_over_first(&mut self, now: Instant) {
        if self.has_listed
            && let Some(config) = self.first.take()
        {
            guard("taking over a configuration", || {
                self.current = Some(config.clone());
                self.supervisor.want(config, now);
            });
            self.has_config = true;
        }
    }

    fn list_links(&mut self, now: Instant) {
        if self.is_listing || self.list_at.is_none_or(|at| at > now) {
            return;
        }
        self.list_at = None;
        self.supervisor.list_links = false;
        self.is_listing = true;
        self.supervisor.jobs.start(
            || {
                let by_name =
                    |all: Vec<Interface>| all.into_iter().map(|one| (one.name.clone(), one)).collect();
                let listed = host::interfaces().map(by_name);
                Event::Links(listed.map_err(|error| format!("cannot list the interfaces: {error}")))
            },
            |panic| Event::Links(Err(panic)),
        );
    }

    /// Whoever starts an export by hand is watching: what fails before it is served ends the process.
    fn check_start(&mut self) -> Result<()> {
        if !self.service.must_start || !self.has_config {
            return Ok(());
        }
        if let Some(reason) = self.supervisor.plan.first_failure() {
            bail!("{reason}");
        }
        if self.supervisor.plan.is_settled() {
            self.service.must_start = false;
            self.supervisor.plan.gives_up = false;
        }
        Ok(())
    }
}

async fn next_call(calls: &mut Option<mpsc::Receiver<ControlCall>>) -> Option<ControlCall> {
    match calls {
        Some(calls) => calls.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
