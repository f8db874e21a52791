//! The file or block device under a store, as operations see it: where its sectors lie, how many there are now, and
//! what goes wrong with it.

mod blocking;
pub(crate) mod condition;
mod nowait;
mod opening;
mod size;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::lock;
use crate::file_system::{self, HUGETLBFS, RAMFS, TMPFS};
use crate::io::device::Device;
use crate::pace::FaultPace;
use condition::{AtPath, BackingFileId, Degradation};
use engine::{Extent, Fault, FaultKind, Health, SECTOR_BYTES, Traits};
use size::Size;

pub use size::device_bytes;
pub(crate) use size::file_bytes;

/// An opened backing object and the run of it that is served.
#[derive(Debug)]
pub(crate) struct Backing {
    file: Arc<File>,
    path: PathBuf,
    /// First byte served.
    start: u64,
    /// Sectors to serve as configured; 0: to the end.
    length: u64,
    /// Sectors to serve now.
    sectors: AtomicU64,
    /// A block device.
    device: bool,
    size: Size,
    /// What those know of its disk who do not want to wait for it.
    disk: Arc<Device>,
    /// The file system cannot be asked to write without waiting.
    no_nowait: AtomicBool,
    read_only: bool,
    traits: Traits,
    faults: AtomicU64,
    /// The object's bytes when it was seen to be shorter than what is served, the fewest; `u64::MAX`: it was not.
    shortest: AtomicU64,
    identity: BackingFileId,
    /// What the last look at it found.
    degradation: Mutex<Option<Degradation>>,
    pace: FaultPace,
    /// The medium's logical block: what it discards, it discards by.
    block: u64,
    /// Keeps others off a block device.
    claim: Mutex<Option<Arc<File>>>,
    /// Keep others off the files below a loop device.
    locks_below: Mutex<Vec<File>>,
}

impl Backing {
    /// The open file.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Its disk.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.disk
    }

    /// For messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether writes are impossible.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// What IDENTIFY may claim.
    pub(crate) fn traits(&self) -> Traits {
        self.traits
    }

    /// Sectors served now.
    pub(crate) fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    /// Faults reported since the start.
    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Where a sector lies in the object, in bytes.
    pub(crate) fn position(&self, lba: u64) -> u64 {
        self.start + lba * SECTOR_BYTES
    }

    /// The bytes of the object that are served, also those that it may grow by.
    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        let end = match self.length {
            0 => u64::MAX,
            sectors => self.position(sectors),
        };
        self.start..end
    }

    /// Whether the file system keeps its pages in memory anyway.
    pub(crate) fn in_memory(&self) -> bool {
        self.is_on(&[TMPFS, RAMFS, HUGETLBFS])
    }

    /// Whether a page fault fills a hole for good, and a system call reads it without.
    pub(crate) fn has_costly_holes(&self) -> bool {
        self.is_on(&[TMPFS])
    }

    /// Whether it is a file on a file system of one of these kinds.
    fn is_on(&self, kinds: &[i64]) -> bool {
        !self.device && file_system::is_on(&self.file, kinds)
    }

    /// Whether mincore(2) tells the truth: it says "resident" of everything to who neither owns the file nor may write to it.
    pub(crate) fn may_ask_residency(&self) -> bool {
        let owner = |meta: std::fs::Metadata| meta.uid() == rustix::process::geteuid().as_raw();
        !self.read_only || self.file.metadata().is_ok_and(owner)
    }

    /// Bytes that the object has now as far as this host knows, all of it. Does not wait for the disk.
    ///
    /// # Errors
    /// Of statx, or of reading what sysfs says.
    pub(crate) fn object_bytes(&self) -> io::Result<u64> {
        self.size.known(&self.file)
    }

    /// Sectors that could be served now; never fewer than before: a disk does not shrink under its initiators,
    /// what is missing reads as an error (docs/conformance.md).
    ///
    /// # Errors
    /// Of statx or lseek.
    pub(crate) fn measure(&self) -> io::Result<u64> {
        let end = self.size.ask(&self.file)?;
        self.look_for_cut();
        if self.length != 0 {
            return Ok(self.length);
        }
        Ok((end.saturating_sub(self.start) / SECTOR_BYTES).max(self.sectors()))
    }

    /// Looks whether the object is still what its path leads to, and as long as what is served; what is wrong is told once, and part of
    /// [`Backing::health`]. A file that was deleted or replaced lives on as long as it is open, so initiators notice nothing; its data
    /// goes when xblade ends, and the operator should know before that. May wait for a disk.
    pub(crate) fn look(&self) {
        let now = self.find_degradation();
        let before = std::mem::replace(&mut *self.degradation.lock(), now);
        let path = self.path.display();
        match now {
            _ if now == before || self.sectors() == 0 => {}
            Some(degradation) if degradation.is_of_path() => tracing::error!(
                "{path}: {degradation} (it is /proc/{}/fd/{})",
                std::process::id(),
                self.file.as_raw_fd()
            ),
            Some(degradation) => tracing::error!("{path}: {degradation}"),
            None => tracing::info!("{path}: is there again, and whole"),
        }
    }

    fn find_degradation(&self) -> Option<Degradation> {
        if self.device || self.read_only {
            // Of a file that is written to a cut is a loss.
            match self.object_bytes() {
                Ok(0) if self.device => return Some(Degradation::Unplugged),
                Ok(bytes) if bytes < self.position(self.sectors()) => return Some(Degradation::Short(bytes)),
                _ => {}
            }
        }
        match self.identity.look(&self.path) {
            AtPath::Same => None,
            AtPath::Other => Some(Degradation::Replaced),
            AtPath::Nothing => Some(Degradation::Deleted),
        }
    }

    /// Whether the last look found nothing wrong.
    pub(crate) fn health(&self) -> Health {
        match &*self.degradation.lock() {
            None => Health::Healthy,
            Some(degradation) => Health::Degraded(format!("{}: {degradation}", self.path.display())),
        }
    }

    /// Whether [`Backing::look`] found another file, or none, at the path.
    pub(crate) fn is_replaced(&self) -> bool {
        self.degradation.lock().is_some_and(Degradation::is_of_path)
    }

    /// Whether a file that is written to was seen to be cut, and nobody has been told.
    pub(crate) fn is_cut(&self) -> bool {
        self.look_for_cut();
        self.shortest.load(Ordering::Acquire) != u64::MAX
    }

    /// Notes it when a file that is written to is shorter than what is served.
    fn look_for_cut(&self) {
        if self.device || self.read_only {
            return;
        }
        if let Ok(bytes) = self.object_bytes()
            && bytes < self.position(self.sectors())
        {
            self.shortest.fetch_min(bytes, Ordering::AcqRel);
        }
    }

    /// The sectors that somebody cut off a file that is written to, also where the file is whole again; once for each time it was seen.
    pub(crate) fn take_cut(&self) -> Option<Extent> {
        self.look_for_cut();
        let bytes = self.shortest.swap(u64::MAX, Ordering::AcqRel);
        let lba = bytes.saturating_sub(self.start) / SECTOR_BYTES;
        let count = self.sectors().checked_sub(lba).filter(|count| *count > 0)?;
        Some(Extent { lba, count })
    }

    /// A cut within these sectors was accepted. A file that is still short is found again.
    pub(crate) fn forget_cut(&self, accepted: Extent) {
        let begin = self.position(accepted.lba);
        let _ = self
            .shortest
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |bytes| {
                (accepted.lba == 0 || bytes >= begin).then_some(u64::MAX)
            });
    }

    /// Lets others have the object; nothing is served any more.
    pub(super) fn unlock(&self) {
        self.sectors.store(0, Ordering::Release);
        lock::unlock(&self.file);
        self.claim.lock().take();
        self.locks_below.lock().clear();
    }

    /// Serves `sectors` from here on.
    pub(crate) fn set_sectors(&self, sectors: u64) {
        self.sectors.fetch_max(sectors, Ordering::Release);
    }

    /// Refuses what is not all inside.
    ///
    /// # Errors
    /// A fault of `kind`.
    pub(crate) fn check(&self, extent: Extent, kind: FaultKind) -> Result<(), Fault> {
        if extent.end() <= self.sectors() {
            return Ok(());
        }
        Err(Fault::outside(kind, extent))
    }

    /// Refuses writes to what is read-only; the second lock after `target`'s.
    ///
    /// # Errors
    /// A fault.
    pub(crate) fn check_writable(&self, extent: Extent) -> Result<(), Fault> {
        if !self.read_only {
            return Ok(());
        }
        Err(Fault {
            kind: FaultKind::Write,
            lba: extent.lba,
            source: io::Error::from_raw_os_error(libc::EROFS),
        })
    }

    /// The file's name, for a thread's.
    pub(crate) fn name(&self) -> String {
        name_of(&self.path)
    }

    /// A fault at a byte of the object, logged.
    pub(crate) fn fault_at(&self, kind: FaultKind, at: u64, source: io::Error) -> Fault {
        self.fault(kind, at.saturating_sub(self.start) / SECTOR_BYTES, source)
    }

    /// A fault at a sector, logged less and less often while they go on.
    pub(crate) fn fault(&self, kind: FaultKind, lba: u64, source: io::Error) -> Fault {
        let (kind, source) = match source.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => (FaultKind::Gone, source),
            // More often a device that was pulled out has no size from then on, so that reads end and writes find no space.
            _ if self.device && matches!(self.object_bytes(), Ok(0)) => {
                (FaultKind::Gone, io::Error::from_raw_os_error(libc::ENODEV))
            }
            _ => (kind, source),
        };
        self.faults.fetch_add(1, Ordering::Relaxed);
        self.look_for_cut();
        if let Some(count) = self.pace.happened(kind) {
            tracing::warn!(
                "{}: {kind} at sector {lba} (byte {}): {source} ({count} such faults since the last report)",
                self.path.display(),
                self.position(lba),
            );
        }
        Fault { kind, lba, source }
    }
}

/// A path's last part, for a thread's name.
fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What a read beyond the end of a cut file means.
pub(crate) fn short_file() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the backing file is shorter than the export",
    )
}
