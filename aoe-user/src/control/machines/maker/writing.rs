//! The one machine that changes the golden image itself, while no copy lies on it and nobody else gets one.
//!
//! It begins with the machine's first frame and ends with the operator's `xblade overlay commit`: a machine that says nothing may still
//! run. A file in the directory of the copies keeps that in mind, so that neither a restart nor a power cut shows others an image that is
//! half changed.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::super::content::Content;
use super::super::naming::DiskName;
use super::super::{Instance, golden};
use super::{Maker, SHORT_LIMIT};
use crate::config::Overlay;
use crate::control::store_options::store_options;
use crate::store::{Golden, StoreOptions};

/// Why there is nothing to reset or discard.
pub(super) const NO_COPY: &str =
    "it changes the image itself, and `xblade overlay commit` ends that; there is no copy to take away";
/// Behind the name of the machine.
const SUFFIX: &str = ".writes-image";

impl Maker {
    fn mark(&self, name: &DiskName) -> PathBuf {
        self.directory.join(format!("{}{SUFFIX}", name.file_stem()))
    }

    /// A machine begins to change the image, or goes on with it.
    ///
    /// # Errors
    /// While there are copies on the image, and when it cannot be opened; nobody else gets a copy then either, if it had begun.
    pub(super) fn begin_writing(&mut self, name: &DiskName) -> Result<()> {
        let copies = self.copies_on_image(name);
        if !copies.is_empty() {
            bail!(
                "it changes the image itself, and waits until the copies of {} are gone (`xblade overlay discard`)",
                copies.join(", ")
            );
        }
        let goes_on = self.writer.is_some();
        if !goes_on {
            self.make_mark(name)
                .with_context(|| format!("{}: cannot be made", self.mark(name).display()))?;
            self.set_writer(Some(name.clone()));
        }
        let opened = self.open_image(name);
        match &opened {
            Ok(()) => tracing::warn!(
                "{}: {name} {} the golden image itself: no other machine gets a disk until `xblade overlay commit e{} {name}`",
                self.address(),
                if goes_on { "goes on changing" } else { "changes" },
                self.address()
            ),
            Err(_) if !goes_on => self.forget(name)?,
            Err(_) => {}
        }
        opened
    }

    /// Whose copies would see the image change below them. One that is not served may be on it too.
    fn copies_on_image(&self, own: &DiskName) -> Vec<String> {
        let is_on_it = |(name, instance): &(DiskName, Option<Arc<Instance>>)| match instance {
            Some(instance) => instance.content.golden().is_current(),
            // What cannot be told may be there.
            None => self.copies.left(name).map_or(true, |left| left.is_some()),
        };
        let others = self.others(own).into_iter();
        others
            .filter(is_on_it)
            .map(|(name, _)| name.to_string())
            .collect()
    }

    /// All disks but this one. Whoever looks at files does it with these, and not while others wait for the disks.
    pub(super) fn others(&self, own: &DiskName) -> Vec<(DiskName, Option<Arc<Instance>>)> {
        let disks = self.shared.disks.lock();
        let others = disks.iter().filter(|(name, _)| *name != own);
        others
            .map(|(name, disk)| (name.clone(), disk.instance.clone()))
            .collect()
    }

    /// Refuses what would take a copy away before its machine can get another.
    pub(super) fn check_can_begin_anew(&self, name: &DiskName) -> Result<()> {
        let address = self.address();
        if let Some(writer) = &self.writer {
            bail!(
                "{address}: {name} would get no other copy: {writer} changes the image itself, and `xblade overlay commit` ends that"
            );
        }
        if matches!(name, DiskName::Machine(_)) && self.kind(name) == Overlay::None {
            bail!(
                "{address}: {name} would get no other copy: it is to change the image itself; `xblade overlay discard` takes away what it has"
            );
        }
        Ok(())
    }

    /// Opens what the configuration's path names now.
    pub(super) fn open_golden(&self) -> Result<Golden> {
        let registry = self.start.golden.get().registry().clone();
        golden(&self.start.settings.config, &registry, &self.losses())
    }

    /// The image for reading, in the place of one that was closed or is about to be.
    fn read_again(&self) {
        match self.open_golden() {
            Ok(image) => self.start.golden.set(image),
            // Tried again when somebody asks for a disk.
            Err(error) => tracing::error!("{}: {error:#}", self.address()),
        }
    }

    fn open_image(&self, name: &DiskName) -> Result<()> {
        self.look_for_new_image()?;
        // Nobody has a copy on it. Its lock is in the way of who writes.
        let golden = self.start.golden.get();
        golden.store().unlock();
        let options = StoreOptions {
            read_only: false,
            ..store_options(&self.start.settings.config)
        };
        match Golden::open_to_write(&options, golden.registry(), &self.losses()) {
            Ok(image) => {
                self.start.golden.set(image.clone());
                self.serve(name, Content::Image(image), SystemTime::now())
            }
            Err(error) => {
                self.read_again();
                Err(error.into())
            }
        }
    }

    /// What the machine changed is everybody's from here on; it must be off.
    ///
    /// # Errors
    /// When that is not all on the medium: it goes on then. What is lost stands until the operator accepts it, also on an image that was
    /// opened anew.
    pub(super) fn end_writing(&mut self, name: &DiskName, limit: Duration) -> Result<()> {
        if let Some(lost) = self.start.golden.get().lost() {
            bail!(
                "{lost}; look whether the image is whole, then accept the loss (`xblade state clear`, --lost-writes), and try again"
            );
        }
        if self.instance(name).is_none() {
            // Of an earlier process, which may have left what is not on the medium.
            self.open_image(name)?;
        }
        let content = match self.take_out(name, limit) {
            Ok(content) => content,
            Err(error) => {
                self.enter(name);
                return Err(error);
            }
        };
        if let Some(content) = content {
            if let Err(error) = content.close() {
                let again = self.open_image(name);
                return again.and(Err(error).context("the last commit of the image failed"));
            }
            if !content.golden().is_current() {
                tracing::error!(
                    "{}: the image was replaced while {name} changed it: what {name} wrote is in the one that was replaced",
                    self.address()
                );
            }
        }
        let image = self.open_golden()?;
        self.forget(name)?;
        self.start.golden.set(image);
        self.forget_disk(name);
        self.shared.asking.lock().clear();
        tracing::info!(
            "{}: what {name} changed of the image is everybody's",
            self.address()
        );
        (self.start.announce)();
        Ok(())
    }

    /// At the start: who was changing the image goes on with it.
    pub(super) fn go_on_writing(&mut self) {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| {
            let file = entry.file_name();
            DiskName::of_stem(file.to_str()?.strip_suffix(SUFFIX)?)
        });
        for name in names.collect::<Vec<_>>() {
            let of_image = std::fs::read(self.mark(&name)).unwrap_or_default();
            let is_same = of_image.is_empty() || of_image == self.image_name();
            if self.writer.is_some() || !is_same {
                tracing::warn!("{}: {name} does not change the image any more", self.address());
                if let Err(error) = self.remove_mark(&name) {
                    tracing::error!("{}: {error}", self.mark(&name).display());
                }
                continue;
            }
            self.set_writer(Some(name.clone()));
            if self.is_to_stop(&name) {
                self.stop_writing_by_settings();
            } else if let Err(error) = self.begin_writing(&name) {
                self.failed(&name, &error);
            }
        }
    }

    /// After a reload: who is to have a copy does not change the image any more. What fails is tried again when somebody asks for a disk.
    pub(super) fn stop_writing_by_settings(&mut self) {
        let Some(name) = self.writer.clone() else { return };
        if self.is_to_stop(&name)
            && let Err(error) = self.end_writing(&name, SHORT_LIMIT)
        {
            self.report(&name, "the image is not everybody's again, because of", &error);
        }
    }

    /// Whether a machine that changes the image is to have a copy by the settings of now.
    pub(super) fn is_to_stop(&self, writer: &DiskName) -> bool {
        self.kind(writer) != Overlay::None
    }

    fn forget(&mut self, name: &DiskName) -> Result<()> {
        self.remove_mark(name)
            .with_context(|| format!("{}: cannot be removed", self.mark(name).display()))?;
        self.set_writer(None);
        Ok(())
    }

    /// Who is told that there is a disk, and has none yet, would get one in vain meanwhile.
    fn set_writer(&mut self, writer: Option<DiskName>) {
        self.shared.table.write().is_written = writer.is_some();
        self.writer = writer;
    }

    /// Which image is being changed, for the mark.
    fn image_name(&self) -> Vec<u8> {
        let config = &self.start.settings.config;
        format!("{} {} {}", config.path.display(), config.offset, config.length).into_bytes()
    }

    /// On the medium before the first change is.
    fn make_mark(&self, name: &DiskName) -> io::Result<()> {
        let mut file = File::create(self.mark(name))?;
        file.write_all(&self.image_name())?;
        file.sync_all()?;
        File::open(&self.directory)?.sync_all()
    }

    fn remove_mark(&self, name: &DiskName) -> io::Result<()> {
        match std::fs::remove_file(self.mark(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(&self.directory)?.sync_all()
    }
}
