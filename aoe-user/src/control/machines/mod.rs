//! The disks of an export that gives each machine a private copy of one image: who has which, and when they begin anew.
//!
//! Workers look a machine up in a table and never wait; what is not there yet is asked for. One thread an export ([`maker`]) opens,
//! resets and closes disks, because all of that blocks. Until a disk is ready its machine hears nothing and asks again.

mod bound;
mod clone;
mod committing;
mod content;
mod counts;
mod heard;
mod listed;
mod lookup;
mod maker;
mod moved;
mod naming;
mod neighbours;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use aoe_common::Mac;
use parking_lot::{Mutex, RwLock};

use crate::config::{ExportConfig, Overlay, OverlayReset, Unknown};
use crate::store::{
    CurrentGolden, Golden, Health, Losses, MergedImage, OverlayFiles, OverlayStore, OverlayTotals,
    OverlayUsage, StoreRegistry,
};
use crate::target::{Export, Options};

use content::Content;
pub(in crate::control) use counts::MachineCounts;
use heard::Heard;
pub(super) use listed::ListedCopies;
pub(super) use maker::Start;
use moved::KeptDisk;
pub(super) use naming::DiskName;
use neighbours::Neighbour;
pub(super) use neighbours::Neighbours;

/// A disk that began anew this recently, and to which nothing was written, is what a machine that boots wants. iPXE asks for 16 s.
const FRESH: Duration = Duration::from_secs(20);
/// Machines that may wait for a disk at a time. What does not fit asks again.
const ASKING_MAX: usize = 1024;
/// Between two tries of a disk that could not be opened.
const RETRY: Duration = Duration::from_secs(2);

/// What is to be done by the thread.
#[derive(Debug)]
enum Order {
    /// Somebody has no disk yet.
    Open(Mac),
    /// Somebody boots.
    Boot(Mac),
    /// Somebody boots from another export.
    BootElsewhere(Mac),
    /// Other settings are in force.
    Configure(Box<MachineSettings>),
    /// The operator's: take a disk away.
    Reset(DiskName, Replaced, Sender<Result<(), String>>),
    /// The operator's: have a copy stay when its machine boots, or not any more.
    Pin(DiskName, bool, Sender<Result<(), String>>),
    /// Tell whose persistent copies lie on this image, but for one.
    Bound(Golden, Option<DiskName>, Sender<Result<Vec<String>, String>>),
    /// The operator's: take a disk out of service, for its merge; true: although its machine may be running.
    Leave(DiskName, bool, Sender<Result<Left, String>>),
    /// The merge of this copy is over: with a new image, which has all of it, or without one.
    Return(
        DiskName,
        Arc<OverlayStore>,
        Option<Replacement>,
        Sender<Result<(), String>>,
    ),
    /// Close everything.
    Stop,
}

/// How a disk is taken away.
#[derive(Debug, Clone, Copy)]
struct Replaced {
    /// Another one is made at once.
    again: bool,
    /// Although its machine may be running.
    force: bool,
}

/// A new image, and the exports whose copies do not lie on the old one, as they were looked at.
#[derive(Debug)]
struct Replacement {
    new: MergedImage,
    looked_at: Vec<Neighbour>,
}

/// A disk that is out of service.
#[derive(Debug)]
enum Left {
    /// A copy, to be merged.
    Copy(Arc<OverlayStore>, OverlayFiles),
    /// The image itself: it is the others' again.
    Image,
}

/// What disks are made by.
#[derive(Debug)]
pub(super) struct MachineSettings {
    /// The configuration.
    pub(crate) config: Arc<ExportConfig>,
    /// Of the export that everybody sees.
    pub(crate) options: Options,
}

/// A machine's disk, ready to be used.
#[derive(Debug)]
struct Instance {
    name: DiskName,
    export: Arc<Export>,
    content: Content,
    /// Since when it has been as it is for a machine that boots.
    ready: Instant,
    /// When its machine was, where its copy goes with its silence.
    heard: Heard,
}

/// What workers look at.
#[derive(Debug, Default)]
struct Table {
    by_mac: HashMap<Mac, Arc<Instance>>,
    /// The machines with names.
    named: HashMap<Mac, DiskName>,
    /// The addresses of disks that the configuration gave to other machines in part, by a reload or before a start: each keeps its disk
    /// until it boots, and meanwhile nobody else has that.
    kept: HashMap<Mac, KeptDisk>,
    unknown: Unknown,
    reset: OverlayReset,
    /// There is no room for another unknown machine.
    full: bool,
    /// Machines without a name that have a disk, whether it can be served or not.
    known: HashSet<Mac>,
    /// At most so many.
    unknown_max: usize,
    /// Disks that ended with the host, and on which machines may run all the same.
    ended: HashSet<DiskName>,
    /// A machine changes the image itself, and nobody gets a disk.
    is_written: bool,
    paused: bool,
}

/// A disk, for the operator.
#[derive(Debug, Clone)]
pub(super) struct DiskState {
    pub(crate) name: DiskName,
    pub(crate) macs: Vec<Mac>,
    /// Those of them that the configuration gives to other machines.
    pub(crate) kept_by: Vec<Mac>,
    /// When it began.
    pub(crate) since: SystemTime,
    pub(crate) usage: OverlayUsage,
    /// What its machine does; `None`: it has no copy that is open.
    pub(crate) totals: Option<OverlayTotals>,
    /// The copy stays when its machine boots.
    pub(crate) pinned: bool,
    /// Which kind; none: it is the image itself.
    pub(crate) kind: Overlay,
    /// Its image was replaced; it gets the new one when it begins anew.
    pub(crate) old_image: bool,
    pub(crate) in_flight: usize,
    /// Why it is not served.
    pub(crate) problem: Option<String>,
    /// That is because it ended with the host.
    pub(crate) ended: bool,
}

/// A disk as the thread left it.
#[derive(Debug)]
struct Disk {
    instance: Option<Arc<Instance>>,
    since: SystemTime,
    problem: Option<String>,
    /// It ended with the host, and its machine is silent until it boots: it may be running on what it had.
    ended: bool,
}

/// What is wrong with what a machine is served.
fn problem(content: &Content) -> Option<String> {
    match content.health() {
        Health::Healthy => None,
        Health::LostWrites(lost) => {
            let until = match content.writes_image() {
                true => "accepted (`xblade state clear`, --lost-writes)",
                false if content.is_unknown() => "it is reset (`xblade overlay reset`)",
                false => "it is reset, or the loss accepted (`xblade state clear`, --lost-writes)",
            };
            let what = if lost.stopped {
                "no writes are taken"
            } else {
                "flushes fail"
            };
            Some(format!("{lost}; {what} until {until}"))
        }
        Health::Silent(why) | Health::Degraded(why) => Some(why),
    }
}

/// What the thread and everybody else share.
#[derive(Debug, Default)]
struct Shared {
    table: RwLock<Table>,
    disks: Mutex<BTreeMap<DiskName, Disk>>,
    /// Who waits for a disk, and until when not to ask for it again.
    asking: Mutex<HashMap<Mac, Option<Instant>>>,
    /// Held while copies are paused or resumed, so that none goes on after all. No worker takes it.
    pausing: Mutex<()>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Disks {
    address: String,
    /// Of the copies.
    directory: PathBuf,
    /// The image's path, and where it led when this was opened.
    path: PathBuf,
    place: PathBuf,
    golden: Weak<CurrentGolden>,
    neighbours: Arc<Neighbours>,
    shared: Arc<Shared>,
    orders: Sender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Disks {
    /// Opens what is left of the machines' disks, and starts the thread. Blocks.
    ///
    /// # Errors
    /// When their directory cannot be made.
    pub(super) fn open(start: Start) -> anyhow::Result<Arc<Disks>> {
        let shared = Arc::new(Shared::default());
        let (orders, received): (_, Receiver<Order>) = mpsc::channel();
        let config = &start.settings.config;
        let path = config.path.clone();
        let (address, directory) = (config.address(), naming::directory(config).unwrap_or_default());
        let (golden, neighbours) = (Arc::downgrade(&start.golden), Arc::clone(&start.neighbours));
        let thread = maker::start(Arc::clone(&shared), received, start)?;
        let disks = Arc::new(Disks {
            address,
            directory,
            place: neighbours::place(&path).unwrap_or_else(|_| path.clone()),
            path,
            golden,
            neighbours,
            shared,
            orders,
            thread: Mutex::new(Some(thread)),
        });
        disks.neighbours.add(&disks);
        Ok(disks)
    }

    /// Whether copies may lie on this image, which is at `place`. Waits for nothing.
    fn are_on(&self, image: &Golden, place: &Path) -> bool {
        let is_on = |instance: &Arc<Instance>| instance.content.golden().is_same_file(image);
        let has_one = || {
            let disks = self.shared.disks.lock();
            disks
                .values()
                .filter_map(|disk| disk.instance.as_ref())
                .any(is_on)
        };
        let golden = self.golden.upgrade().map(|golden| golden.get());
        self.place == place || golden.is_some_and(|golden| golden.is_same_file(image)) || has_one()
    }

    fn order(&self, order: Order) {
        // Fails only when the export has been closed.
        let _ = self.orders.send(order);
    }

    /// Other settings with the same image and directory.
    pub(super) fn configure(&self, settings: MachineSettings) {
        self.order(Order::Configure(Box::new(settings)));
    }

    /// All disks, by name. Looks at files, which may block.
    pub(super) fn states(&self) -> Vec<DiskState> {
        let seen: Vec<_> = {
            let disks = self.shared.disks.lock();
            let state = |(name, disk): (&DiskName, &Disk)| {
                let state = DiskState {
                    name: name.clone(),
                    macs: Vec::new(),
                    kept_by: Vec::new(),
                    since: disk.since,
                    usage: OverlayUsage::default(),
                    totals: None,
                    pinned: false,
                    kind: Overlay::Volatile,
                    old_image: false,
                    in_flight: 0,
                    problem: disk.problem.clone(),
                    ended: disk.ended,
                };
                (state, disk.instance.clone())
            };
            disks.iter().map(state).collect()
        };
        let complete = |(mut state, instance): (DiskState, Option<Arc<Instance>>)| {
            // Workers need the table: nothing is waited for or looked at while it is held.
            {
                let table = self.shared.table.read();
                state.macs = table.macs_of(&state.name);
                state.kept_by = table.kept_by(&state.name);
            }
            if let Some(instance) = instance {
                let content = &instance.content;
                state.usage = content.usage();
                state.kind = content.kind();
                state.totals = content.totals();
                state.pinned = content.is_pinned();
                state.problem = problem(content).or(state.problem);
                state.old_image = content.is_old();
                state.in_flight = instance.export.in_flight();
            }
            state
        };
        seen.into_iter().map(complete).collect()
    }

    /// Has a disk begin anew, or only takes it away; waits for that. `force`: although its machine may be running.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn reset(&self, name: DiskName, discard: bool, force: bool) -> Result<(), String> {
        let how = Replaced {
            again: !discard,
            force,
        };
        self.have(|answer| Order::Reset(name, how, answer))
    }

    /// Has a volatile copy stay when its machine boots, or not any more; waits for that.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn pin(&self, name: DiskName, pinned: bool) -> Result<(), String> {
        self.have(|answer| Order::Pin(name, pinned, answer))
    }

    /// Has the thread do something, and waits for that.
    fn have<T>(&self, order: impl FnOnce(Sender<Result<T, String>>) -> Order) -> Result<T, String> {
        let (answer, answered) = mpsc::channel();
        self.order(order(answer));
        answered
            .recv()
            .unwrap_or_else(|_| Err("the export is being closed".into()))
    }

    /// The same, for so long at most: the thread may be waiting for a disk.
    fn have_within<T>(
        &self,
        limit: Duration,
        order: impl FnOnce(Sender<Result<T, String>>) -> Order,
    ) -> Result<T, String> {
        let (answer, answered) = mpsc::channel();
        self.order(order(answer));
        match answered.recv_timeout(limit) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(format!(
                "e{}, which has overlays on the same image, does not answer: its disk or a machine's copy is waited for; try again, or look \
                 at `xblade status`",
                self.address
            )),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(format!("e{} is being closed", self.address)),
        }
    }

    /// What the machines have read and written.
    pub(in crate::control) fn counts(&self) -> Vec<MachineCounts> {
        let disks = self.shared.disks.lock();
        let counted = disks.iter().filter_map(|(name, disk)| {
            let totals = disk.instance.as_ref()?.content.totals()?;
            Some((name.to_string(), totals))
        });
        counts::rows(counted)
    }

    /// The disks that have to be committed for everything to be on the medium.
    pub(super) fn persistent(&self) -> Vec<Arc<Export>> {
        let disks = self.shared.disks.lock();
        let instances = disks.values().filter_map(|disk| disk.instance.as_ref());
        let persistent = instances.filter(|instance| instance.content.is_kept());
        persistent.map(|instance| Arc::clone(&instance.export)).collect()
    }

    /// For how many microseconds the oldest acknowledged write of a persistent disk has been waiting; `None`: there is no such disk.
    pub(in crate::control) fn uncommitted_us(&self) -> Option<u64> {
        let disks = self.shared.disks.lock();
        let instances = disks.values().filter_map(|disk| disk.instance.as_ref());
        instances
            .filter_map(|instance| instance.content.uncommitted_us())
            .max()
    }

    /// Commits and closes all disks and lets go of the image. Blocks.
    pub(super) fn close(&self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looks after machines' disks panicked");
        }
        self.neighbours.remove(self);
    }
}

fn pause(export: &Export, paused: bool) {
    match paused {
        true => export.pause(),
        false => export.resume(),
    }
}

/// The image as the export that everybody sees has it, with what is known to be lost of it.
pub(super) fn golden(
    config: &ExportConfig,
    registry: &StoreRegistry,
    losses: &Losses,
) -> anyhow::Result<Golden> {
    Ok(Golden::open(
        &super::store_options::store_options(config),
        registry,
        losses,
    )?)
}
