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
mod network;
mod overlay_exports;
#[cfg(test)]
mod tests;
mod told;
mod troubles;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use aoe_common::Mac;
use parking_lot::{Mutex, RwLock};

use crate::config::{ExportConfig, Overlay, OverlayReset, Unknown};
use crate::store::{CurrentGolden, Golden, Losses, MergedImage, OverlayFiles, OverlayStore, StoreRegistry};
use crate::target::{Export, Options};

use content::Content;
pub(in crate::control) use counts::MachineCounts;
use heard::Heard;
pub(super) use listed::ListedCopies;
pub(super) use maker::Start;
use moved::KeptDisk;
pub(crate) use naming::{DiskName, directory};
use network::Network;
use overlay_exports::ExportOnImage;
pub(super) use overlay_exports::OverlayExports;
pub(super) use told::DiskState;
use troubles::Room;
pub(super) use troubles::Troubles;

/// A disk that began anew this recently, and to which nothing was written, is what a machine that boots wants. iPXE asks for 16 s.
const FRESH: Duration = Duration::from_secs(20);
/// Machines that may wait for a disk at a time. What does not fit asks again.
const ASKING_MAX: usize = 1024;
/// Whoever was heard within this time may be running: a Linux machine looks for its disks once a minute.
const RECENT: Duration = Duration::from_secs(120);
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
    looked_at: Vec<ExportOnImage>,
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
    /// Where the machines are.
    network: Arc<Network>,
}

/// A disk as the thread left it.
#[derive(Debug)]
struct Disk {
    instance: Option<Arc<Instance>>,
    since: SystemTime,
    /// Of one that is not served: which kind it is, and whether it stays when its machine boots.
    kept: Kept,
    problem: Option<String>,
    /// It ended with the host, and its machine is silent until it boots: it may be running on what it had.
    ended: bool,
}

/// What a copy is, whether it is open or not.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    kind: Overlay,
    pinned: bool,
}

/// A machine has asked for a disk.
#[derive(Debug, Clone, Copy)]
struct Asked {
    since: Instant,
    /// When to ask for it again; `None`: it is next.
    until: Option<Instant>,
}

impl Asked {
    /// It is next.
    fn now() -> Asked {
        let (since, until) = (Instant::now(), None);
        Asked { since, until }
    }

    /// In vain.
    fn again() -> Asked {
        let since = Instant::now();
        let until = Some(since + RETRY);
        Asked { since, until }
    }
}

/// What the thread and everybody else share.
#[derive(Debug, Default)]
struct Shared {
    table: RwLock<Table>,
    disks: Mutex<BTreeMap<DiskName, Disk>>,
    /// Who waits for a disk.
    asking: Mutex<HashMap<Mac, Asked>>,
    /// When the thread began what it is at, or what it did last.
    moved_on: Mutex<Option<Instant>>,
    /// Who gets no disk although nothing is wrong with it, and why.
    waits: Mutex<HashMap<Mac, String>>,
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
    overlay_exports: Arc<OverlayExports>,
    shared: Arc<Shared>,
    orders: Sender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
    room: Room,
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
        let (golden, overlay_exports) = (Arc::downgrade(&start.golden), Arc::clone(&start.overlay_exports));
        let room = Room::of(config);
        let thread = maker::start(Arc::clone(&shared), received, start)?;
        let disks = Arc::new(Disks {
            address,
            directory,
            place: overlay_exports::place(&path).unwrap_or_else(|_| path.clone()),
            path,
            golden,
            overlay_exports,
            shared,
            orders,
            thread: Mutex::new(Some(thread)),
            room,
        });
        disks.overlay_exports.add(&disks);
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
        self.overlay_exports.remove(self);
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
