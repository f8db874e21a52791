//! The image that overlays share: opened once, for reading only; or by the one who changes it, while no overlay lies on it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use engine::{Health, LostWrites, SECTOR_BYTES, Store};
use parking_lot::Mutex;

use super::device::DeviceState;
use super::fingerprint::{self, GoldenFingerprint};
use super::merge;
use crate::commit::Losses;
use crate::completion_queue::CompletionQueue;
use crate::file_identity::FileIdentity;
use crate::open::{Context, open_with};
use crate::options::{StoreError, StoreKind, StoreOptions};
use crate::registry::StoreRegistry;

/// An image that overlays lie on. Clones are the same opening.
#[derive(Clone, Debug)]
pub struct Golden {
    shared: Arc<Opened>,
}

#[derive(Debug)]
struct Opened {
    store: Arc<dyn Store<CompletionQueue>>,
    registry: StoreRegistry,
    /// `None`: it is no file.
    file: Option<File>,
    path: PathBuf,
    /// First sector served.
    offset: u64,
    /// Sectors served, as configured; 0: all that there are.
    length: u64,
    identity: GoldenIdentity,
    /// A block device, as it was when it was opened.
    device: Option<DeviceState>,
    /// What has changed of it, as the last look found.
    change: Mutex<String>,
    fingerprint: OnceLock<GoldenFingerprint>,
    /// It was changed in place.
    changed: AtomicBool,
    /// Another image lies at its path: that is how machines are given a new one.
    superseded: AtomicBool,
    writable: bool,
}

/// Which image, and which content of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GoldenIdentity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub sectors: u64,
    /// Seconds and nanoseconds; zero for a block device, which has no such time.
    pub modified: (i64, i64),
    /// What was written to a block device since the host was started; `None`: it is none, or that is not known.
    pub(crate) written: Option<u64>,
}

impl Golden {
    /// Opens what `options` name, for reading only, whatever they say. What was lost of it before stands until it is accepted.
    ///
    /// # Errors
    /// As [`crate::open()`].
    pub fn open(
        options: &StoreOptions,
        registry: &StoreRegistry,
        losses: &Losses,
    ) -> Result<Golden, StoreError> {
        Golden::open_as(options, registry, losses, true)
    }

    /// Opens what `options` name for whoever changes the image itself: no overlay may lie on it.
    ///
    /// # Errors
    /// As [`crate::open()`].
    pub fn open_to_write(
        options: &StoreOptions,
        registry: &StoreRegistry,
        losses: &Losses,
    ) -> Result<Golden, StoreError> {
        Golden::open_as(options, registry, losses, false)
    }

    fn open_as(
        options: &StoreOptions,
        registry: &StoreRegistry,
        losses: &Losses,
        read_only: bool,
    ) -> Result<Golden, StoreError> {
        let options = StoreOptions {
            read_only,
            prealloc: false,
            ..options.clone()
        };
        if options.kind == StoreKind::Rbd {
            return Golden::open_snapshot(&options, registry, losses);
        }
        let path = &options.path;
        let looking = |error| StoreError::system(path, "looking at it", error);
        // Its own opening first: where another file is put in the place of this one meanwhile, the store may have that.
        let mut file = File::open(path).map_err(looking)?;
        let (store, meta) = loop {
            let context = Context {
                registry: registry.clone(),
                losses: losses.clone(),
                fenced: None,
            };
            let store = open_with(&options, context)?.store;
            let (before, now) = (file.metadata(), File::open(path).map_err(looking)?);
            let (before, meta) = (before.map_err(looking)?, now.metadata().map_err(looking)?);
            if FileIdentity::of(&before) == FileIdentity::of(&meta) {
                break (store, meta);
            }
            store.unlock();
            file = now;
        };
        let device = DeviceState::of(&meta, (options.offset, options.length));
        let identity = GoldenIdentity::of(&meta, store.sectors(), device);
        Ok(Golden {
            shared: Arc::new(Opened {
                store,
                registry: registry.clone(),
                file: Some(file),
                path: path.clone(),
                offset: options.offset,
                length: options.length,
                identity,
                device,
                change: Mutex::default(),
                fingerprint: OnceLock::new(),
                changed: AtomicBool::new(false),
                superseded: AtomicBool::new(false),
                writable: !read_only,
            }),
        })
    }

    /// A snapshot of an image in Ceph, which does not change.
    fn open_snapshot(
        options: &StoreOptions,
        registry: &StoreRegistry,
        losses: &Losses,
    ) -> Result<Golden, StoreError> {
        let context = Context {
            registry: registry.clone(),
            losses: losses.clone(),
            fenced: None,
        };
        let store = open_with(options, context)?.store;
        let identity = GoldenIdentity {
            sectors: store.sectors(),
            ..GoldenIdentity::default()
        };
        Ok(Golden {
            shared: Arc::new(Opened {
                store,
                registry: registry.clone(),
                file: None,
                path: options.path.clone(),
                offset: options.offset,
                length: options.length,
                identity,
                device: None,
                change: Mutex::default(),
                fingerprint: OnceLock::new(),
                changed: AtomicBool::new(false),
                superseded: AtomicBool::new(false),
                writable: false,
            }),
        })
    }

    /// Acknowledged writes of it that are lost, and not accepted.
    pub fn lost(&self) -> Option<LostWrites> {
        match self.shared.store.health() {
            Health::LostWrites(lost) => Some(lost),
            Health::Healthy | Health::Silent(_) | Health::Degraded(_) => None,
        }
    }

    /// Whether there is anything to be read: what was closed has no sectors, and what Ceph has shut out is silent.
    pub fn is_open(&self) -> bool {
        self.shared.store.sectors() > 0 && !self.shared.store.is_silenced()
    }

    /// The other stores of its target.
    pub fn registry(&self) -> &StoreRegistry {
        &self.shared.registry
    }

    /// Its sectors.
    pub fn store(&self) -> &Arc<dyn Store<CompletionQueue>> {
        &self.shared.store
    }

    /// Whether it was opened to be changed.
    pub fn is_writable(&self) -> bool {
        self.shared.writable
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Whether its path still leads to it. An image that is gone without another in its place counts as current: there is no other.
    pub fn is_current(&self) -> bool {
        let GoldenIdentity { device, inode, .. } = self.shared.identity;
        !FileIdentity { device, inode }.is_replaced_at(&self.shared.path)
    }

    /// Whether both are openings of one file.
    pub fn is_same_file(&self, other: &Golden) -> bool {
        let file = |golden: &Golden| (golden.shared.identity.device, golden.shared.identity.inode);
        file(self) == file(other)
    }

    /// Whether a merge is making a new image that is to take its place, by this process or another one.
    pub fn is_being_replaced(&self) -> bool {
        merge::is_under_way(&self.shared.path)
    }

    /// Whether it still has the content that overlays were made on; says once when it has not.
    pub fn check_unchanged(&self) -> bool {
        let Opened { file, identity, .. } = &*self.shared;
        let Some(Ok(now)) = file.as_ref().map(File::metadata) else {
            return true;
        };
        let device = DeviceState::of(&now, (self.shared.offset, self.shared.length));
        let of_device = self.shared.device.zip(device);
        let of_device = of_device.and_then(|(before, now)| before.changes(now));
        let same =
            of_device.is_none() && GoldenIdentity::of(&now, identity.sectors, device).is_same(identity);
        *self.shared.change.lock() = of_device.map_or_else(String::new, |change| format!(" ({change})"));
        // Who writes it is not told that it was written.
        let changed = !same && !self.is_writable();
        let known = self.shared.changed.swap(changed, Ordering::Relaxed);
        if changed && !known {
            tracing::error!("{}", self.changed_in_place());
        }
        same
    }

    fn changed_in_place(&self) -> String {
        format!(
            "{}: the golden image was changed in place{}; the machines that run on it see other sectors under their file systems. Boot \
             them anew, and next time put a new image in its place by rename",
            self.shared.path.display(),
            self.shared.change.lock()
        )
    }

    /// Looks whether it is still there and as it was. May wait for a disk.
    pub(crate) fn look(&self) {
        let superseded = !self.is_writable() && !self.is_current();
        self.shared.superseded.store(superseded, Ordering::Relaxed);
        if !superseded {
            self.shared.store.look_at_backing();
        }
        self.check_unchanged();
    }

    /// What the last look found.
    pub fn health(&self) -> Health {
        let changed = || match self.shared.changed.load(Ordering::Relaxed) {
            true => Health::Degraded(self.changed_in_place()),
            false => Health::Healthy,
        };
        match self.shared.store.health() {
            Health::Healthy => changed(),
            // From before there was another.
            Health::Degraded(_) if self.shared.superseded.load(Ordering::Relaxed) => changed(),
            unwell => unwell,
        }
    }

    /// What it is known by after a restart of the host. The first call reads samples of it.
    ///
    /// # Errors
    /// Of the reads.
    pub(crate) fn fingerprint(&self) -> io::Result<GoldenFingerprint> {
        let opened = &*self.shared;
        if let Some(known) = opened.fingerprint.get() {
            return Ok(*known);
        }
        let sectors = opened.store.sectors();
        let (start, bytes) = (opened.offset * SECTOR_BYTES, sectors * SECTOR_BYTES);
        let found = GoldenFingerprint {
            sectors,
            modified: opened.identity.modified,
            samples: fingerprint::samples(self.file()?, start, bytes)?,
        };
        Ok(*opened.fingerprint.get_or_init(|| found))
    }

    /// Whether the part of its file from sector `offset` on is known by this, whatever part of it this is.
    ///
    /// # Errors
    /// Of the reads.
    pub(crate) fn has_part(&self, offset: u64, known: &GoldenFingerprint) -> io::Result<bool> {
        if known.modified != self.shared.identity.modified {
            return Ok(false);
        }
        let (start, bytes) = (offset * SECTOR_BYTES, known.sectors * SECTOR_BYTES);
        match fingerprint::samples(self.file()?, start, bytes) {
            // It is shorter.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            samples => Ok(samples? == known.samples),
        }
    }

    /// The file, opened for reading.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn file(&self) -> io::Result<&File> {
        let file = self.shared.file.as_ref();
        file.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the image is no file"))
    }

    /// First sector served of it.
    pub(crate) fn offset(&self) -> u64 {
        self.shared.offset
    }

    pub(crate) fn identity(&self) -> &GoldenIdentity {
        &self.shared.identity
    }
}

impl GoldenIdentity {
    /// Whether both are of one image with one content, as far as that is known of both.
    pub(crate) fn is_same(&self, other: &GoldenIdentity) -> bool {
        let both = self.written.zip(other.written);
        let but_that = |identity: &GoldenIdentity| GoldenIdentity {
            written: None,
            ..*identity
        };
        but_that(self) == but_that(other) && both.is_none_or(|(one, other)| one == other)
    }

    fn of(meta: &Metadata, sectors: u64, device: Option<DeviceState>) -> GoldenIdentity {
        GoldenIdentity {
            device: meta.dev(),
            inode: meta.ino(),
            sectors: match device {
                Some(_) => sectors,
                None => meta.len() / SECTOR_BYTES,
            },
            modified: GoldenIdentity::modified(meta),
            written: device.and_then(|device| device.written),
        }
    }

    /// When a file was written to, as far as that tells its content: seconds and nanoseconds; zeros of a block device.
    pub(super) fn modified(meta: &Metadata) -> (i64, i64) {
        match meta.file_type().is_block_device() {
            true => (0, 0),
            false => (meta.mtime(), meta.mtime_nsec()),
        }
    }
}
