//! The thread that opens, resets and closes the machines' disks of one export.

mod again;
mod bound;
mod calls;
mod copies;
mod keeping;
mod merging;
mod moved;
mod opening;
mod orders;
mod room;
mod running;
mod writing;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use aoe_common::Mac;
use rustix::fs::FlockOperation;

use super::bound::BoundAddresses;
use super::content::Content;
use super::heard::Heard;
use super::naming::{DiskName, directory};
use super::{
    ASKING_MAX, Asked, Disk, Instance, ListedCopies, MachineSettings, Network, Order, OverlayExports,
    Replaced, Shared, pause,
};
use crate::config::{Overlay, OverlayReset, Unknown};
use crate::store::{CurrentGolden, Losses};
use crate::target::Observer;
use again::Again;
use copies::Copies;
pub(super) use merging::MERGING;

/// How long requests of a machine that is gone may take to end before its disk goes by the operator's order, or with the export.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// The same where it goes by itself, and is tried again: a disk that does not answer is not to keep other machines from theirs.
const SHORT_LIMIT: Duration = Duration::from_millis(200);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// What disks are made from.
pub(in crate::control) struct Start {
    pub(crate) settings: MachineSettings,
    pub(crate) golden: Arc<CurrentGolden>,
    /// What an earlier process lost of the image, and who keeps a new loss in mind.
    pub(crate) losses: Losses,
    /// Who has persistent copies.
    pub(crate) listed: ListedCopies,
    /// It is noted in memory what copies hold, where there is a place for it.
    pub(crate) in_memory: bool,
    /// Other exports with overlays.
    pub(crate) overlay_exports: Arc<OverlayExports>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Has the export advertised: a machine that got no answer need not wait until it asks again.
    pub(crate) announce: Box<dyn Fn() + Send>,
}

struct Maker {
    shared: Arc<Shared>,
    directory: PathBuf,
    copies: Copies,
    bound: BoundAddresses,
    /// Keeps other processes from the directory.
    _lock: File,
    start: Start,
    /// When it began to serve.
    began: Instant,
    /// Disks that are being merged into a new image.
    leaving: HashSet<DiskName>,
    /// Those whose new image is in place, and which could not be taken away yet.
    merged: HashSet<DiskName>,
    /// The machine that changes the image itself: nobody else gets a disk on it.
    writer: Option<DiskName>,
    /// What is to be opened when there is no new image in the making.
    again: Again,
    /// The last message about a disk, so that it is logged once.
    said: HashMap<DiskName, String>,
}

/// Opens what is left and starts the thread.
pub(super) fn start(shared: Arc<Shared>, orders: Receiver<Order>, start: Start) -> Result<JoinHandle<()>> {
    let config = &start.settings.config;
    let directory = directory(config).context("there is no overlay_dir")?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("{}: cannot be made", directory.display()))?;
    let lock =
        File::open(&directory).with_context(|| format!("{}: cannot be opened", directory.display()))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!(
            "{}: in use by another xblade; give each its own overlay_dir",
            directory.display()
        )
    })?;
    let name = format!("overlay {}", config.address());
    let mut maker = Maker {
        shared,
        copies: Copies::new(
            config,
            directory.clone(),
            start.in_memory,
            start.golden.get().registry(),
        )?,
        bound: BoundAddresses::new(directory.clone()),
        directory,
        _lock: lock,
        start,
        began: Instant::now(),
        leaving: HashSet::new(),
        merged: HashSet::new(),
        writer: None,
        again: Again::new(),
        said: HashMap::new(),
    };
    if matches!(maker.copies, Copies::Files { .. }) {
        merging::clean_up(&maker.address(), &maker.start.settings.config.path);
    }
    let left = maker.what_is_left()?;
    let ended = maker.what_ended(&left)?;
    // Machines may be running on these, too.
    let in_use = &left | &ended;
    maker.take_bound(&in_use);
    maker.take_settings(&in_use);
    maker.note_ended(ended);
    // Once, and before anybody is served.
    maker.write_bound(&in_use.into_iter().collect());
    maker.open_what_is_left(&left);
    Ok(std::thread::Builder::new()
        .name(name)
        .spawn(move || maker.run(&orders))?)
}

impl Maker {
    fn address(&self) -> String {
        self.start.settings.config.address()
    }

    /// Who has a name, and what is done with others. Machines may be running on these disks.
    fn take_settings(&mut self, in_use: &BTreeSet<DiskName>) {
        let config = &self.start.settings.config;
        let named = config.machines.iter().flat_map(|machine| {
            let name = DiskName::Machine(machine.name.clone());
            machine.macs.iter().map(move |mac| (*mac, name.clone()))
        });
        let mut table = self.shared.table.write();
        table.reset = config.overlay_reset;
        table.full = false;
        table.unknown_max = config.unknown_max as usize;
        table.network = Arc::new(Network::of(config));
        let moved = table.rename(named.collect(), config.unknown, in_use.iter());
        drop(table);
        self.shared.waits.lock().clear();
        self.tell_moved(moved);
    }

    /// Persistent disks go on, and others of this boot of the host: whoever runs on one of them notices nothing of a restart.
    fn what_is_left(&self) -> Result<BTreeSet<DiskName>> {
        let mut left: BTreeSet<DiskName> = self.start.listed.names().into_iter().collect();
        for name in self.copies.names()? {
            match &name {
                _ if left.contains(&name) => {}
                // What cannot be told may be there.
                _ if self.copies.left(&name).map_or(true, |left| left.is_some()) => drop(left.insert(name)),
                DiskName::Unknown(_) if self.may_run_on(&name) => {}
                // Nobody knows whether it ever comes again.
                DiskName::Unknown(_) => drop(self.copies.discard(&name, None).inspect_err(|error| {
                    tracing::warn!("{}: the disk of {name}: {error:#}", self.address());
                })),
                DiskName::Machine(_) => {}
            }
        }
        Ok(left)
    }

    fn open_what_is_left(&mut self, left: &BTreeSet<DiskName>) {
        for name in left {
            if let Err(error) = self.open(name) {
                self.failed(name, &error);
            }
        }
        self.go_on_writing();
    }

    /// What a disk is that begins anew.
    fn kind(&self, name: &DiskName) -> Overlay {
        let config = &self.start.settings.config;
        let DiskName::Machine(name) = name else {
            return match config.unknown {
                Unknown::None => Overlay::None,
                Unknown::Volatile | Unknown::Refuse => Overlay::Volatile,
            };
        };
        let machine = config.machines.iter().find(|machine| machine.name == *name);
        machine.map_or(Overlay::Volatile, |machine| machine.overlay_on(config))
    }

    /// Tells who asked that there is something new, and lets it ask again.
    fn answer(&mut self, mac: Mac, result: Result<Option<DiskName>>) {
        match result {
            Ok(Some(name)) => {
                if let Some(instance) = self.instance(&name) {
                    instance.heard.note(Instant::now());
                }
                self.said.remove(&name);
                self.shared.waits.lock().remove(&mac);
                self.shared.asking.lock().remove(&mac);
                (self.start.announce)();
                return;
            }
            Ok(None) => {}
            Err(error) => {
                let name = self.shared.table.read().name_of(mac);
                if let Some(name) = name {
                    self.failed(&name, &error);
                }
            }
        }
        self.shared.asking.lock().insert(mac, Asked::again());
    }

    fn failed(&mut self, name: &DiskName, error: &anyhow::Error) {
        self.report(name, "no disk for", error);
    }

    /// Keeps a problem of a disk in mind, and logs it once.
    fn report(&mut self, name: &DiskName, what: &str, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        if self.said.insert(name.clone(), reason.clone()).as_ref() != Some(&reason) {
            tracing::error!("{}: {what} {name}: {reason}", self.address());
        }
        let kept = self.kept(name);
        {
            let mut disks = self.shared.disks.lock();
            let disk = disks.entry(name.clone()).or_insert_with(|| Disk {
                instance: None,
                since: SystemTime::now(),
                kept,
                problem: None,
                ended: false,
            });
            (disk.kept, disk.problem) = (kept, Some(reason));
            if disk.ended {
                return;
            }
        }
        self.note_known(name);
    }

    /// Whether a machine's address may have a disk now.
    fn may_have(&mut self, name: &DiskName, mac: Mac) -> bool {
        self.stop_writing_by_settings();
        let image_is_free = match &self.writer {
            None => true,
            // It is not to write any more, and the image is not the others' yet: it goes on if it can.
            Some(writer) if self.is_to_stop(writer) => writer == name && self.instance(name).is_some(),
            Some(writer) => writer == name,
        };
        if !image_is_free {
            let writer = self.writer.as_ref().map(ToString::to_string).unwrap_or_default();
            let why = format!(
                "{writer} changes the image itself, which `xblade overlay commit e{} {writer}` ends",
                self.address()
            );
            self.waits_because(mac, why);
        }
        image_is_free && !self.leaving.contains(name) && self.has_room(name) && !self.is_kept_from(name, mac)
    }

    /// A machine asks for its disk.
    fn open_for(&mut self, mac: Mac) -> Result<Option<DiskName>> {
        let Some(name) = self.shared.table.read().name_of(mac) else {
            return Ok(None);
        };
        if !self.may_have(&name, mac) {
            return Ok(None);
        }
        if self
            .instance(&name)
            .is_some_and(|instance| instance.export.store().is_silenced())
        {
            // It was shut out, and is opened anew.
            let content = self.take_out(&name, SHORT_LIMIT)?;
            self.copies.about(&name.to_string(), move || {
                drop(content);
                Ok(())
            })?;
        }
        let is_open = self.instance(&name).is_some();
        match is_open {
            true => self.put_back(&name),
            false => self.open(&name)?,
        }
        Ok(Some(name))
    }

    /// A machine boots: its disk begins anew, unless it is persistent or as new.
    fn boot(&mut self, mac: Mac) -> Result<Option<DiskName>> {
        // A reload may have come after its question.
        self.shared.table.write().stop_keeping(mac);
        self.discard_ended_of_nobody();
        let Some(name) = self.shared.table.read().name_of(mac) else {
            return Ok(None);
        };
        if !self.may_have(&name, mac) {
            return Ok(None);
        }
        let at_boot = self.start.settings.config.overlay_reset == OverlayReset::Boot;
        let left = self.copies.left(&name)?.unwrap_or_default();
        let persistent = left.persistent || self.start.listed.has(&name);
        if !at_boot || self.writer.is_some() || persistent || left.pinned {
            return self.open_for(mac);
        }
        let kind = self.kind(&name);
        let as_new = self.instance(&name).is_some_and(|instance| {
            let (content, golden) = (&instance.content, instance.content.golden());
            content.kind() == kind && content.is_untouched() && !content.is_old() && golden.check_unchanged()
        });
        match as_new {
            true => self.put_back(&name),
            false => {
                self.discard(&name, SHORT_LIMIT)?;
                self.open(&name)?;
                tracing::info!("{}: {name} boots, its disk begins anew", self.address());
            }
        }
        Ok(Some(name))
    }

    /// The operator has a disk begin anew, or go: its machine gets another when it asks the next time.
    fn reset(&mut self, name: &DiskName, how: Replaced) -> Result<()> {
        let Replaced { again, force } = how;
        let known = self.shared.disks.lock().contains_key(name);
        if !known && !self.copies.has_any(name)? {
            bail!("{}: {name} has no disk", self.address());
        }
        if self.leaving.contains(name) {
            bail!("{}: {}: {name}", self.address(), merging::MERGING);
        }
        if self.writer.as_ref() == Some(name) {
            bail!("{}: {}: {name}", self.address(), writing::NO_COPY);
        }
        if again {
            self.check_can_begin_anew(name)?;
        }
        self.check_is_off(name, force)?;
        self.discard(name, DRAIN_LIMIT)?;
        self.forget_disk(name);
        tracing::info!(
            "{}: the disk of {name} was discarded by the operator",
            self.address()
        );
        match again {
            true => self.open(name),
            false => Ok(()),
        }
    }

    /// A machine gets no disk, although nothing is wrong with it; false: that was known.
    fn waits_because(&self, mac: Mac, why: String) -> bool {
        let mut waits = self.shared.waits.lock();
        if waits.len() >= ASKING_MAX && !waits.contains_key(&mac) {
            return false;
        }
        waits.insert(mac, why).is_none()
    }

    fn instance(&self, name: &DiskName) -> Option<Arc<Instance>> {
        self.shared.disks.lock().get(name)?.instance.clone()
    }

    /// Takes a disk away, with all that was written, when requests to it have ended within this time.
    fn discard(&mut self, name: &DiskName, limit: Duration) -> Result<()> {
        let content = self.take_out(name, limit)?;
        // First: a copy that is left after all is listed again when it is opened.
        self.start.listed.remove(name)?;
        self.copies.discard(name, content)?;
        self.forget_ended(name);
        self.merged.remove(name);
        Ok(())
    }

    /// Takes a disk out of service: nobody has it when this returns. Requests to it may take so long to end.
    fn take_out(&mut self, name: &DiskName, limit: Duration) -> Result<Option<Content>> {
        self.shared.table.write().remove(name);
        let Some(instance) = self.instance(name) else {
            return Ok(None);
        };
        let end = Instant::now() + limit;
        // Here and among the disks, and nowhere else; an export under earlier settings has the store, too.
        while Arc::strong_count(&instance) > 2
            || Arc::strong_count(&instance.export) > 1
            || instance.content.is_held()
        {
            if Instant::now() >= end {
                bail!("requests of its machine are still in flight: its disk does not answer");
            }
            std::thread::sleep(PAUSE);
        }
        if let Some(disk) = self.shared.disks.lock().get_mut(name) {
            disk.instance = None;
        }
        Ok(Some(instance.content.clone()))
    }

    /// A disk that goes on as it is, for a machine that boots.
    fn put_back(&mut self, name: &DiskName) {
        if let Some(disk) = self.shared.disks.lock().get_mut(name)
            && let Some(instance) = &disk.instance
        {
            disk.instance = Some(Arc::new(Instance {
                name: name.clone(),
                export: Arc::clone(&instance.export),
                content: instance.content.clone(),
                ready: Instant::now(),
                heard: Heard::now(),
            }));
            disk.problem = None;
        }
        self.enter(name);
    }

    /// Serves a disk to the addresses of its machine.
    fn enter(&self, name: &DiskName) {
        let Some(instance) = self.instance(name) else {
            return;
        };
        self.note_bound_to(name, &instance.content);
        // No pause comes or ends meanwhile.
        let _alone = self.shared.pausing.lock();
        // It may have to wait for a worker, which may wait for a disk: not with the table that all others need.
        let paused = self.shared.table.read().paused;
        pause(&instance.export, paused);
        let mut table = self.shared.table.write();
        table.remove(name);
        for mac in table.served(name) {
            table.by_mac.insert(mac, Arc::clone(&instance));
        }
    }

    /// Open disks under the settings of now.
    fn reconfigure(&mut self) {
        let limit = self.start.settings.config.overlay_limit.unwrap_or(0);
        let names: Vec<DiskName> = self.shared.disks.lock().keys().cloned().collect();
        for name in names {
            if let Some(disk) = self.shared.disks.lock().get_mut(&name)
                && let Some(instance) = &disk.instance
            {
                instance.content.set_limit(limit);
                let options = opening::own_options(&self.start.settings.options, &name, &instance.content);
                disk.instance = Some(Arc::new(Instance {
                    name: name.clone(),
                    export: Arc::new(instance.export.reconfigured(options)),
                    content: instance.content.clone(),
                    ready: instance.ready,
                    heard: instance.heard.counted_anew(),
                }));
            }
            self.enter(&name);
        }
        self.stop_writing_by_settings();
    }

    fn close_all(&mut self) {
        let names: Vec<DiskName> = self.shared.disks.lock().keys().cloned().collect();
        // For all of them together.
        let end = Instant::now() + DRAIN_LIMIT;
        for name in names {
            match self.take_out(&name, end.saturating_duration_since(Instant::now())) {
                Ok(Some(content)) => {
                    if let Err(error) = content.close() {
                        tracing::error!("{}: {name}: the last commit failed: {error}", self.address());
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::error!("{}: {name}: {error:#}", self.address()),
            }
        }
        self.copies.finish();
        // They close files when they go.
        let left = std::mem::take(&mut *self.shared.disks.lock());
        drop(left);
    }
}
