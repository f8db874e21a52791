//! Opens a machine's disk: its copy, or the image itself.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};

use super::super::clone::CloneDisk;
use super::super::content::Content;
use super::super::heard::Heard;
use super::super::naming::DiskName;
use super::super::{Disk, Instance, Kept, golden};
use super::Maker;
use super::copies::Copies;
use crate::config::{Overlay, OverlayReset};
use crate::host::descriptors::leave_room;
use crate::store::{self, Golden, Losses, OverlayOptions, OverlayStore, RbdClone, RbdClones};
use crate::target::{Export, Identity, Options, Persistent, WireAdmin};

/// Why a machine is silent whose copy was volatile.
pub(super) const ENDED: &str = "its copy ended with this host, which was started since: it gets another when it boots by iPXE, from this export or another one with overlays on its network (or by `xblade overlay reset`)";

impl Maker {
    /// Opens a disk, on the image as it is now where it begins anew.
    pub(super) fn open(&mut self, name: &DiskName) -> Result<()> {
        if let Some(writer) = self.writer.as_ref().filter(|writer| *writer != name) {
            bail!("{writer} changes the image itself (`xblade overlay commit` ends that)");
        }
        leave_room()?;
        self.discard_merged(name)?;
        let left = self.copies.left(name)?;
        // One that is listed as persistent and lies there without its records has lost them: it would be made anew over what it holds.
        let is_whole = left
            .as_ref()
            .is_some_and(|left| left.persistent || !self.start.listed.has(name));
        let is_left = left.is_some();
        let kind = self.kind(name);
        if !is_whole {
            self.start.listed.may_begin(name, kind == Overlay::Persistent)?;
        }
        if !is_left {
            self.check_ended(name)?;
        }
        if !is_left && kind == Overlay::None && matches!(name, DiskName::Machine(_)) {
            return self.begin_writing(name);
        }
        if !is_left || !self.start.golden.get().is_open() {
            self.look_for_new_image()?;
        }
        let image = self.start.golden.get();
        if left.map_or(kind == Overlay::Persistent, |left| left.persistent) {
            self.check_image_stays(name, &image, !is_left)
                .inspect_err(|_| self.again.add(name))?;
        }
        if !is_left && kind == Overlay::None {
            return self.serve(name, Content::Image(image), SystemTime::now());
        }
        let persistent = kind == Overlay::Persistent;
        match &self.copies {
            Copies::Files { .. } => self.open_files(name, &image, persistent),
            Copies::Clones(clones, _) => {
                let clone = self.open_clone(clones, name, image, persistent)?;
                let opened = clone.opened;
                if clone.persistent {
                    self.list(name);
                }
                self.serve(name, Content::Clone(Arc::new(clone)), opened)
            }
        }
    }

    /// A machine may still run on a copy that ended with this host: it would find the image below a file system that it has written to. Its
    /// boot is known where copies begin anew with it, and takes away what is left before it comes here; so does the operator's reset.
    fn check_ended(&self, name: &DiskName) -> Result<()> {
        if self.ended_with_the_host(name)? {
            self.note_as_ended(name);
            bail!(ENDED);
        }
        Ok(())
    }

    /// # Errors
    /// When that cannot be told.
    pub(super) fn ended_with_the_host(&self, name: &DiskName) -> Result<bool> {
        let at_boot = self.start.settings.config.overlay_reset == OverlayReset::Boot;
        match &self.copies {
            Copies::Files { .. } if at_boot => {
                let files = self.copies.files(name);
                let ended = files.ended_with_the_host();
                ended.with_context(|| format!("{}: what is there cannot be told", files.base().display()))
            }
            Copies::Files { .. } | Copies::Clones(..) => Ok(false),
        }
    }

    /// Whether a machine without a name may still run on a copy that ended with this host. What it wrote is given back; what tells of the
    /// copy stays for a month from the first start on that found it, after which nobody knows whether the machine ever comes again.
    pub(super) fn may_run_on(&self, name: &DiskName) -> bool {
        const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
        let since = match self.ended_with_the_host(name) {
            Ok(false) => return false,
            Ok(true) => self.copies.files(name).cut_ended().map_err(Into::into),
            Err(error) => Err(error),
        };
        match since {
            Ok(since) => since.elapsed().map_or(true, |age| age < LONGEST),
            Err(error) => {
                tracing::warn!("{}: the disk of {name}: {error:#}", self.address());
                true
            }
        }
    }

    /// Lists a persistent copy, before its machine has it. Where that fails the copy is served all the same.
    fn list(&self, name: &DiskName) {
        if let Err(error) = self.start.listed.add(name) {
            tracing::error!(
                "{}: {error:#}: nobody would miss the copy of {name} if it vanished",
                self.address()
            );
        }
    }

    fn open_files(&self, name: &DiskName, image: &Golden, persistent: bool) -> Result<()> {
        let config = &self.start.settings.config;
        let options = OverlayOptions {
            files: self.copies.files(name),
            persistent,
            limit_bytes: config.overlay_limit.unwrap_or(0),
            flush_interval: config.flush_interval,
        };
        let store = Arc::new(OverlayStore::open(image, &options)?);
        self.start.golden.watch(name.to_string(), &store);
        let oldest = match store.is_persistent() {
            true => options.files.records(),
            false => options.files.map(),
        };
        if store.is_persistent() {
            self.list(name);
        }
        let began = std::fs::metadata(oldest).and_then(|file| file.created());
        self.serve(
            name,
            Content::Copy(store),
            began.unwrap_or_else(|_| SystemTime::now()),
        )
    }

    /// Opens what is left of a clone, or makes one.
    fn open_clone(
        &self,
        clones: &Arc<RbdClones>,
        name: &DiskName,
        golden: Golden,
        persistent: bool,
    ) -> Result<CloneDisk> {
        let (clones, stem) = (Arc::clone(clones), name.file_stem());
        let fenced: Arc<dyn Fn(&str) + Send + Sync> = Arc::new({
            // Its machine asks for it, and gets it opened anew.
            let (shared, name, address) = (Arc::clone(&self.shared), name.clone(), self.address());
            move |reason: &str| {
                tracing::error!("{address}: the clone of {name} is opened anew: {reason}");
                shared.table.write().remove(&name);
            }
        });
        self.copies.about(&name.to_string(), move || {
            let left = clones.find(&stem)?;
            let new = left.is_none();
            let found = match left {
                Some(found) => found,
                None => {
                    clones.make(&stem, persistent)?;
                    RbdClone {
                        persistent,
                        pinned: false,
                        current: true,
                    }
                }
            };
            let context = store::Context {
                registry: golden.registry().clone(),
                losses: Losses::default(),
                fenced: Some(fenced),
            };
            let opened = store::open_with(&clones.options(&stem), context)?;
            Ok(CloneDisk {
                store: opened.store,
                metadata: opened.metadata,
                golden,
                persistent: found.persistent,
                pinned: AtomicBool::new(found.pinned),
                old: !found.current,
                new,
                opened: SystemTime::now(),
            })
        })
    }

    /// Takes the image that lies at the path now for disks that begin anew.
    ///
    /// # Errors
    /// When it cannot be opened, and the one before it was closed.
    pub(super) fn look_for_new_image(&self) -> Result<()> {
        let held = self.start.golden.get();
        if held.is_open() && held.is_current() && held.check_unchanged() {
            return Ok(());
        }
        let opened = {
            let (config, losses) = (Arc::clone(&self.start.settings.config), self.losses());
            let registry = held.registry().clone();
            self.copies
                .about("the image", move || golden(&config, &registry, &losses))
        };
        match opened {
            Ok(new) => {
                if held.is_open() {
                    tracing::info!(
                        "{}: {} is a new image: machines that boot from here on get it",
                        self.address(),
                        new.path().display()
                    );
                }
                self.start.golden.set(new);
                Ok(())
            }
            Err(error) if !held.is_open() => Err(error.context("the image cannot be opened")),
            Err(error) => {
                tracing::error!("{}: the image before it is served on: {error:#}", self.address());
                Ok(())
            }
        }
    }

    /// What is known to be lost of the image, for its next opening.
    pub(super) fn losses(&self) -> Losses {
        Losses {
            known: self.start.golden.get().lost(),
            ..self.start.losses.clone()
        }
    }

    /// What a disk is that is not served.
    pub(super) fn kept(&self, name: &DiskName) -> Kept {
        let left = match &self.copies {
            Copies::Files { .. } => self.copies.left(name).ok().flatten(),
            // It would have to be asked for, and may be what has just failed.
            Copies::Clones(..) => None,
        };
        let is_persistent = left.is_some_and(|left| left.persistent) || self.start.listed.has(name);
        let is_volatile = left.is_some() || self.ended_with_the_host(name).unwrap_or(false);
        let kind = match (is_persistent, is_volatile) {
            (true, _) => Overlay::Persistent,
            (false, true) => Overlay::Volatile,
            (false, false) => self.kind(name),
        };
        Kept {
            kind,
            pinned: left.is_some_and(|left| left.pinned),
        }
    }

    /// A disk is ready.
    pub(super) fn serve(&self, name: &DiskName, content: Content, since: SystemTime) -> Result<()> {
        let export = Export::new(
            own_options(&self.start.settings.options, name, &content),
            content.store(),
            None,
            Arc::clone(&self.start.observer),
            Persistent::default(),
        )
        .map_err(|error| anyhow!(error))?;
        let disk = Disk {
            instance: Some(Arc::new(Instance {
                name: name.clone(),
                export: Arc::new(export),
                content,
                ready: Instant::now(),
                heard: Heard::now(),
            })),
            since,
            kept: Kept::default(),
            problem: None,
            ended: false,
        };
        self.shared.disks.lock().insert(name.clone(), disk);
        self.note_known(name);
        self.enter(name);
        Ok(())
    }
}

/// A disk's own options: its name in IDENTIFY; what is the address's stays with the export that everybody sees.
pub(super) fn own_options(shared: &Options, name: &DiskName, content: &Content) -> Options {
    Options {
        read_only: content.kind() == Overlay::None && !content.writes_image(),
        // What ends with the host anyway is not waited for.
        sync: shared.sync && content.is_kept(),
        identity: Identity {
            serial: name.serial(shared.address),
            ..shared.identity.clone()
        },
        wire_admin: WireAdmin::Nothing,
        ..shared.clone()
    }
}
