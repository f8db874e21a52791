//! What is not data path: start and stop, signals, interfaces that come and go, advertisements, kept state.
//!
//! One thread runs all of it on a small async runtime. The workers never wait for it.

mod estate;
pub(crate) mod genetlink;
pub(crate) mod links;
mod lists;
mod neighbours;
pub mod preflight;
pub mod state;
mod supervisor;
pub(crate) mod tags;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::Config;
use links::Links;
use supervisor::Supervisor;

/// Interfaces change in bursts (a flap, a bond): look once the burst is over.
const SETTLE: Duration = Duration::from_millis(20);
/// Denied sources are reported and failed interfaces tried again this often.
const TICK: Duration = Duration::from_secs(2);

/// Reads the configuration again, for SIGHUP.
pub type Reload = Box<dyn Fn() -> Result<Config>>;

/// Serves `config` until SIGTERM or SIGINT, then commits everything and returns. SIGHUP applies what `reload` gives, where there
/// is one.
///
/// # Errors
/// When nothing can be served, or when the last commit failed.
pub fn run(config: Config, reload: Option<Reload>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    runtime.block_on(supervise(config, reload))
}

async fn supervise(config: Config, reload: Option<Reload>) -> Result<()> {
    let mut signals = Signals::new()?;
    let mut links = Links::open()?;
    let (notify, mut changes) = mpsc::unbounded_channel();
    let mut supervisor = Supervisor::new(config, notify)?;
    supervisor.start(&links.list().await?)?;
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            event = signals.next() => match event {
                Event::Stop(name) => {
                    info!("{name}: finishing what is in flight");
                    return supervisor.stop();
                }
                Event::Reload => match &reload {
                    Some(reload) => match reload() {
                        Ok(config) => supervisor.reload(config, &links.list().await?),
                        Err(error) => error!("the configuration stays as it was: {error:#}"),
                    },
                    None => warn!("SIGHUP: nothing to reload without a configuration file"),
                },
            },
            () = links.changed() => {
                tokio::time::sleep(SETTLE).await;
                supervisor.reconcile(&links.list().await?);
            }
            Some((address, change)) = changes.recv() => supervisor.changed(address, change),
            _ = tick.tick() => {
                supervisor.report();
                supervisor.watch();
                if supervisor.has_failed_ports() {
                    supervisor.reconcile(&links.list().await?);
                }
            }
        }
    }
}

enum Event {
    Stop(&'static str),
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let listen = |kind| signal(kind).context("cannot install a signal handler");
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Event::Stop("SIGINT"),
            _ = self.hangup.recv() => Event::Reload,
        }
    }
}
