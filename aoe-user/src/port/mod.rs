//! One network interface being served: the filter on it, and a worker thread for each of its receive queues.

mod arrivals;
mod cut;
mod ending;
mod hand_back;
mod link;
mod mend;
pub(crate) mod mode;
mod mtu;
mod open;
mod prove;
mod spin;
mod stations;
mod trace;
mod watch;
mod worker;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use aoe_common::Mac;
use aoe_common::rules::Counter;
use tracing::{debug, error, info, warn};

use crate::config::Mode;
use crate::dump::Hub;
use crate::filter::{Denied, Filter, FilterCounters, FilterError, Rules};
use crate::host::{AoeListener, Interface, driver, link_state};
use crate::metrics::{FilterRegistration, QueueTotals, Registry};
use crate::target::{Export, Exports, PortInfo};
use crate::xsk::{MAX_FRAME_BYTES, XskError};

pub(crate) use crate::xsk::QueueRelease;
pub use ending::Alarm;
pub use link::SocketLink;
use mend::Mend;
pub(crate) use mode::Obtained;
use mode::{Way, no_mode_left};
use open::pace;
use prove::Proof;
pub(crate) use prove::ProofDirection;
use stations::Stations;
use watch::{Finding, Sight, Watch};
pub(crate) use worker::Drain;
use worker::{Worker, WorkerCommand};

/// How long a worker may take to show that its frames get out; one that cannot takes a second.
const PROOF_TIMEOUT: Duration = Duration::from_secs(3);

/// What is said where opening the port again has never helped, after three times.
const IN_VAIN: &str = "It was opened again three times in vain, and is left as it is until the link comes back or the interface changes";

/// How to serve an interface.
#[derive(Debug, Clone)]
pub struct PortOptions {
    /// Attach and bind modes to try.
    pub mode: Mode,
    /// What can be changed while it is served.
    pub tuning: Tuning,
    /// Raised when a worker panics: its queue is served by nobody until [`Port::open_anew`].
    pub alarm: Alarm,
    /// Who wants to see frames.
    pub dumps: Arc<Hub>,
}

/// How the workers of a port use the CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    /// How long an idle worker spins before it sleeps.
    pub(crate) spin: Duration,
    /// CPUs for the workers, by turns; empty: the scheduler decides.
    pub(crate) cpus: Vec<usize>,
}

/// The interface as it is when a port is opened.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// Its address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu_bytes: u32,
    /// Active receive queues.
    pub rx_queues: u32,
    /// Active transmit queues, where the kernel tells.
    pub tx_queues: Option<u32>,
    /// The cable is in.
    pub carrier: bool,
    /// The interfaces whose frames native XDP of this one gets: itself, or its slaves (a bond's).
    pub xdp_runs_on: Vec<u32>,
    /// The driver says that it runs native programs and knows no redirect, so that none of it reaches a socket.
    pub lacks_redirect: bool,
}

impl Nic {
    /// As a port is opened on it; `None` for what is no Ethernet.
    pub(crate) fn of(link: &Interface) -> Option<Nic> {
        Some(Nic {
            name: link.name.clone(),
            index: link.index,
            mac: link.mac?,
            mtu_bytes: link.mtu_bytes,
            rx_queues: link.rx_queues,
            tx_queues: link.tx_queues,
            carrier: link.carrier,
            xdp_runs_on: link.xdp_runs_on.clone(),
            lacks_redirect: link.lacks_redirect,
        })
    }
}

/// Why an interface cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The XDP program could not be attached or configured.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// An AF_XDP socket could not be set up.
    #[error(transparent)]
    Socket(#[from] XskError),
    /// No frame with a sector in it fits.
    #[error(
        "{nic}: its MTU of {mtu_bytes} has no room for a sector, 548 are needed: `ip link set {nic} mtu 1500`"
    )]
    MtuTooSmall {
        /// Nic.
        nic: String,
        /// Its MTU.
        mtu_bytes: u32,
    },
    /// The kernel took everything, and frames get lost.
    #[error("{nic}: {obtained} carries no frames: {direction}")]
    Silent {
        /// Nic.
        nic: String,
        /// What was tried.
        obtained: Obtained,
        /// Where they get lost.
        direction: ProofDirection,
    },
    /// What arrives on some queue could not be answered.
    #[error(
        "{nic} has {rx_queues} receive queues and {tx_queues} transmit queues, and in copy mode a queue answers on the transmit \
         queue of its own number: {remedy}"
    )]
    TooFewTransmit {
        /// Nic.
        nic: String,
        /// Receive queues.
        rx_queues: u32,
        /// Transmit queues.
        tx_queues: u32,
        /// What to do.
        remedy: String,
    },
    /// The system refused a thread or its eventfd.
    #[error("cannot start the worker of queue {queue} on {nic}: {cause}")]
    Worker {
        /// Nic.
        nic: String,
        /// Receive queue.
        queue: usize,
        /// Cause.
        cause: std::io::Error,
    },
}

/// A served interface. Dropping it stops the workers and detaches the program.
#[derive(Debug)]
pub struct Port {
    nic: Nic,
    options: PortOptions,
    way: Way,
    obtained: Obtained,
    filter: Filter,
    _counted: FilterRegistration,
    workers: Vec<Worker>,
    watch: Watch,
    /// Listens behind the filter while the card receives frames and the filter sees none.
    listener: Option<AoeListener>,
    /// What changes while workers turn, at the last look.
    progress: Vec<Option<u64>>,
    mend: Mend,
    /// Frames were seen to leave, on every queue.
    proved: bool,
    /// It was said that frames arrive cut.
    told_cut: bool,
    stations: Stations,
    /// Workers that panicked since the port was opened first.
    lost: u64,
    // For when the port must be opened in another mode.
    exports: Arc<Exports>,
    rules: Rules,
    metrics: Arc<Registry>,
}

impl PortError {
    /// Whether the rules have outgrown the filter: [`Port::reopen`] makes one with larger maps.
    pub(crate) const fn is_outgrown(&self) -> bool {
        matches!(self, PortError::Filter(FilterError::Full { .. }))
    }
}

impl Port {
    /// The modes obtained.
    pub(crate) fn obtained(&self) -> Obtained {
        self.obtained
    }

    /// Looks whether what the card receives arrives and, where there was no carrier so far, whether frames get out; opens the port again
    /// where nothing does, in the next mode if this one has never worked: then returns what was obtained. To be called every second or so;
    /// takes as long as opening when it acts.
    ///
    /// # Errors
    /// When nothing gets through and no other mode works either: the port is closed.
    pub(crate) fn watch(&mut self) -> Result<Option<Obtained>, PortError> {
        self.tell_of_cut_frames();
        let link = link_state(self.nic.index);
        let changes = link.map_or(0, |link| link.carrier_changes);
        if let Some(link) = link {
            self.mend.link(link.carrier, changes);
        }
        if !self.proved && link.is_some_and(|link| link.carrier) {
            match self.prove_sending() {
                Ok(proved) => self.proved = proved,
                Err(silent) => {
                    let fallen_back = self.fall_back(&silent)?;
                    if fallen_back.is_none() {
                        error!("{silent}{}", no_mode_left(self.options.mode));
                        self.proved = true;
                    }
                    return Ok(fallen_back);
                }
            }
        }
        let finding = self.look(link.and_then(|link| link.received))?;
        self.listen_past_filter(finding);
        let name = &self.nic.name;
        match finding {
            Finding::Works | Finding::Sees if self.mend.looks_well(finding == Finding::Works) => {
                info!("{name}: its frames arrive again");
            }
            Finding::Works | Finding::Sees | Finding::Quiet | Finding::Listen => {
                if self.mend.is_forgiven(self.watch.missed(), Instant::now()) {
                    info!("{name}: no frame got lost for five minutes");
                }
            }
            Finding::Past(frames) => return self.mend(ProofDirection::Past { frames }, changes),
            Finding::Lost(redirected) => return self.mend(ProofDirection::Arriving { redirected }, changes),
        }
        Ok(None)
    }

    /// What is wrong with the way in, until frames are seen to arrive again.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.mend.fault()
    }

    /// Nothing arrives: opens the port again, unless that was tried a moment ago or has never helped.
    fn mend(
        &mut self,
        direction: ProofDirection,
        carrier_changes: u32,
    ) -> Result<Option<Obtained>, PortError> {
        let now = Instant::now();
        if !self.mend.is_due(now) {
            return Ok(None);
        }
        let silent = PortError::Silent {
            nic: self.nic.name.clone(),
            obtained: self.obtained,
            direction,
        };
        let fault = format!("{} carries no frames: {direction}", self.obtained);
        let asked = no_mode_left(self.options.mode);
        if self.mend.is_in_vain() && !self.has_mode_after(&silent) {
            error!("{silent}{asked}. {IN_VAIN}");
            self.mend.rest(format!("{fault}. {IN_VAIN}"), carrier_changes);
            return Ok(None);
        }
        let past_filter = matches!(direction, ProofDirection::Past { .. });
        let (is_new, has_failed) = (self.mend.is_new(), self.mend.has_failed(past_filter));
        let leaves_mode = self.mend.leaves_mode(past_filter);
        self.mend.tried(fault, past_filter, now);
        self.metrics.deaf(&self.nic.name);
        if leaves_mode && let Some(obtained) = self.fall_back(&silent)? {
            return Ok(Some(obtained));
        }
        match (is_new, has_failed) {
            (true, true) => error!("{silent}{asked}. The port is opened again"),
            (true, false) => warn!("{silent}. The port is opened again"),
            (false, _) => debug!("{silent}, still. The port is opened again"),
        }
        self.open_anew()?;
        Ok(Some(self.obtained))
    }

    /// Says once that frames arrive with less than their headers say: no mode is left for it, since a sender alone can be to blame.
    fn tell_of_cut_frames(&mut self) {
        let cut = self.totals().engine.cut;
        if cut > 0 && !std::mem::replace(&mut self.told_cut, true) {
            let driver = driver(&self.nic.name, self.nic.index);
            error!(
                "{}",
                cut::report(&self.nic, driver.as_deref(), self.obtained, cut)
            );
        }
    }

    fn look(&mut self, received: Option<u64>) -> Result<Finding, PortError> {
        let progress: Vec<Option<u64>> = self.workers.iter().map(Worker::progress).collect();
        let hangs = |(now, before): (&Option<u64>, &Option<u64>)| now.is_some() && now == before;
        let workers_turn = !progress.iter().zip(&self.progress).any(hangs);
        self.progress = progress;
        // Whatever was heard, the filter has counted before if it saw it.
        let heard = self.listener.as_mut().map(AoeListener::heard);
        let counters = self.filter.counters()?;
        let totals = self.totals();
        Ok(self.watch.look(Sight {
            received,
            heard,
            seen: counters
                .iter()
                .fold(0, |sum, (_, frames)| sum.wrapping_add(frames)),
            redirected: counters[Counter::Redirected],
            arrived: totals.engine.frames.saturating_add(totals.dropped),
            workers_turn,
        }))
    }

    /// Only while there is a reason to: whoever listens costs each frame that is heard a copy.
    fn listen_past_filter(&mut self, finding: Finding) {
        match finding {
            Finding::Listen if self.listener.is_none() => self.listener = AoeListener::open(&self.nic.name),
            Finding::Listen | Finding::Past(_) => {}
            Finding::Works | Finding::Sees | Finding::Quiet | Finding::Lost(_) => self.listener = None,
        }
    }

    /// Has every worker show that its frames get out; false where that cannot be told now.
    fn prove_sending(&self) -> Result<bool, PortError> {
        let (answer, answers) = channel();
        self.tell(|| {
            WorkerCommand::Prove(Proof {
                nic: self.nic.clone(),
                obtained: self.obtained,
                answer: answer.clone(),
            })
        });
        let mut all = true;
        for _ in &self.workers {
            // A worker that waits for a disk answers later.
            all &= answers.recv_timeout(PROOF_TIMEOUT).unwrap_or(Ok(false))?;
        }
        Ok(all)
    }

    /// Serves another set of exports from here on; requests being worked on are finished with the old one.
    ///
    /// # Errors
    /// When the filter's rules could not be replaced; the old ones stay in force, with the old exports.
    pub(crate) fn set_exports(&mut self, exports: &Arc<Exports>, rules: &Rules) -> Result<(), PortError> {
        self.set_rules(rules)?;
        self.exports = Arc::clone(exports);
        self.tell(|| WorkerCommand::Exports(Arc::clone(exports)));
        Ok(())
    }

    /// Replaces the filter's rules.
    ///
    /// # Errors
    /// When the maps could not be written; the old rules stay in force.
    pub(crate) fn set_rules(&mut self, rules: &Rules) -> Result<(), PortError> {
        self.filter.set_rules(rules)?;
        self.rules = rules.clone();
        self.stations.follow(&rules.stations, &self.nic);
        Ok(())
    }

    /// Changes how the workers use the CPU; requests notice nothing.
    pub(crate) fn set_tuning(&mut self, tuning: &Tuning) {
        for (queue, worker) in self.workers.iter().enumerate() {
            worker.tell(WorkerCommand::Pace(pace(tuning, queue)));
        }
        self.options.tuning = tuning.clone();
    }

    /// Whether a worker has panicked: its queue is served by nobody.
    pub fn has_lost_worker(&self) -> bool {
        self.workers.iter().any(Worker::has_panicked)
    }

    /// For the end of the process: what frees the queues of workers that hang.
    pub(crate) fn queue_releases(&self) -> Vec<QueueRelease> {
        self.workers.iter().map(Worker::queue_release).collect()
    }

    /// Takes over a changed MAC.
    ///
    /// # Errors
    /// When the filter could not be told.
    pub(crate) fn set_mac(&mut self, mac: Mac) -> Result<(), PortError> {
        self.filter.set_mac(mac)?;
        self.nic.mac = mac;
        let info = port_info(&self.nic);
        self.tell(|| WorkerCommand::Port(info));
        Ok(())
    }

    /// Has the first worker advertise these exports.
    ///
    /// They go out at once, or as soon as one a second for each export allows.
    pub(crate) fn advertise(&self, exports: Vec<Arc<Export>>) {
        if let Some(worker) = self.workers.first() {
            worker.tell(WorkerCommand::Advertise(exports));
        }
    }

    /// What the filter counted.
    ///
    /// # Errors
    /// When the map could not be read.
    pub(crate) fn filter_counters(&self) -> Result<FilterCounters, PortError> {
        Ok(self.filter.counters()?)
    }

    /// Sources denied since the last call.
    ///
    /// # Errors
    /// When the map could not be read.
    pub(crate) fn denied(&mut self) -> Result<Vec<Denied>, PortError> {
        Ok(self.filter.denied()?)
    }

    /// What the workers have done, all together.
    pub fn totals(&self) -> QueueTotals {
        let mut totals = QueueTotals {
            workers_lost: self.lost,
            ..QueueTotals::default()
        };
        self.workers
            .iter()
            .for_each(|worker| totals.add(&worker.totals()));
        totals
    }

    /// Ends the port: the interface becomes an ordinary one at once, then the workers answer what they have
    /// received and free their queues. What the disks still owe them then is waited for elsewhere.
    pub(crate) fn close(&mut self, drain: Drain) {
        // The program goes first, so that the workers' rings run dry.
        self.filter.detach();
        for worker in &self.workers {
            worker.tell(WorkerCommand::Stop(drain));
        }
        for worker in &mut self.workers {
            worker.join();
        }
    }

    fn tell(&self, command: impl Fn() -> WorkerCommand) {
        for worker in &self.workers {
            worker.tell(command());
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close(Drain::Healthy);
    }
}

fn port_info(nic: &Nic) -> PortInfo {
    PortInfo {
        mac: nic.mac,
        // More than a frame can have here is not promised to initiators.
        mtu_bytes: nic.mtu_bytes.min(MAX_FRAME_BYTES),
    }
}
