//! The file or block device under a store: opened, locked, measured, and plain blocking I/O on it for the paths
//! where nothing is gained by being quick.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};

use super::open::served_sectors;
use super::{Extent, Fault, FaultKind, SECTOR_BYTES, StoreError, StoreOptions, Traits, lock};

/// At most one line about trouble with a backing object in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Pieces that one system call writes.
const PIECES: usize = 16;

/// An opened backing object and the run of it that is served.
#[derive(Debug)]
pub(super) struct Backing {
    file: Arc<File>,
    path: PathBuf,
    /// First byte served.
    start: u64,
    /// Sectors to serve as configured; 0: to the end.
    length: u64,
    /// Sectors to serve now.
    sectors: AtomicU64,
    device: bool,
    read_only: bool,
    traits: Traits,
    faults: AtomicU64,
    /// The path leads elsewhere now.
    replaced: AtomicBool,
    last_log: Mutex<Option<(Instant, u64)>>,
    /// Keeps others off a block device.
    _claim: Option<Arc<File>>,
}

impl Backing {
    /// Opens, checks and locks.
    ///
    /// # Errors
    /// As [`super::open()`].
    pub(super) fn open(options: &StoreOptions) -> Result<Backing, StoreError> {
        Self::open_with(options, OFlags::empty())
    }

    /// The same with more flags for open(2).
    ///
    /// # Errors
    /// As [`super::open()`].
    pub(super) fn open_with(options: &StoreOptions, flags: OFlags) -> Result<Backing, StoreError> {
        let path = &options.path;
        let device = is_device(path)?;
        let (access, needed) = match options.read_only {
            true => (OFlags::RDONLY, "read"),
            false => (OFlags::RDWR, "read and write"),
        };
        let claim = match std::fs::metadata(path) {
            Ok(meta) if device && !options.read_only && !options.shared => {
                Some(lock::claim_device(path, meta.rdev())?)
            }
            _ => None,
        };
        let file = rustix::fs::open(path, access | flags | OFlags::CLOEXEC, Mode::empty())
            .map(File::from)
            .map_err(|error| open_error(path, needed, error.into()))?;
        let bytes = object_bytes(&file, device)
            .map_err(|error| StoreError::system(path, "finding its size", error))?;
        let sectors = served_sectors(path, bytes, options.offset, options.length)?;
        let start = options.offset * SECTOR_BYTES;
        if !options.shared {
            lock::lock_range(
                &file,
                path,
                start,
                options.length * SECTOR_BYTES,
                !options.read_only,
            )?;
        }
        if bytes % SECTOR_BYTES != 0 && options.length == 0 {
            tracing::warn!(
                "{}: the last {} bytes are less than a sector and are not exported",
                path.display(),
                bytes % SECTOR_BYTES
            );
        }
        if options.prealloc && !options.read_only && !device {
            let bytes = sectors * SECTOR_BYTES;
            preallocate(&file, start, bytes).map_err(|source| StoreError::Prealloc {
                path: path.clone(),
                bytes,
                source,
            })?;
        }
        let traits = find_traits(&file, device, options.read_only, bytes);
        Ok(Backing {
            file: Arc::new(file),
            path: path.clone(),
            start,
            length: options.length,
            sectors: AtomicU64::new(sectors),
            device,
            read_only: options.read_only,
            traits,
            faults: AtomicU64::new(0),
            replaced: AtomicBool::new(false),
            last_log: Mutex::new(None),
            _claim: claim,
        })
    }

    /// The open file.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// For messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether writes are impossible.
    pub(super) fn read_only(&self) -> bool {
        self.read_only
    }

    /// What IDENTIFY may claim.
    pub(super) fn traits(&self) -> Traits {
        self.traits
    }

    /// Sectors served now.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    /// Faults reported since the start.
    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Where a sector lies in the object, in bytes.
    pub(super) fn position(&self, lba: u64) -> u64 {
        self.start + lba * SECTOR_BYTES
    }

    /// Whether the file system keeps its pages in memory anyway.
    pub(super) fn in_memory(&self) -> bool {
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        const RAMFS_MAGIC: i64 = 0x8584_58f6;
        const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
        !self.device
            && rustix::fs::fstatfs(&self.file)
                .is_ok_and(|stat| [TMPFS_MAGIC, RAMFS_MAGIC, HUGETLBFS_MAGIC].contains(&stat.f_type))
    }

    /// Bytes that the object has now, all of it.
    ///
    /// # Errors
    /// Of fstat or lseek.
    pub(super) fn object_bytes(&self) -> io::Result<u64> {
        object_bytes(&self.file, self.device)
    }

    /// Sectors that could be served now; never fewer than before: a disk does not shrink under its initiators,
    /// what is missing reads as an error (docs/conformance.md).
    ///
    /// # Errors
    /// Of fstat or lseek.
    pub(super) fn measure(&self) -> io::Result<u64> {
        let end = self.object_bytes()?;
        self.warn_if_replaced();
        if self.length != 0 {
            return Ok(self.length);
        }
        Ok((end.saturating_sub(self.start) / SECTOR_BYTES).max(self.sectors()))
    }

    /// A file that was deleted or replaced lives on as long as it is open, so initiators notice nothing; its data goes
    /// when xblade ends, and the operator should know before that.
    fn warn_if_replaced(&self) {
        let (Ok(own), now) = (self.file.metadata(), std::fs::metadata(&self.path)) else {
            return;
        };
        let same = now.is_ok_and(|now| now.dev() == own.dev() && now.ino() == own.ino());
        if self.replaced.swap(!same, Ordering::Relaxed) || same {
            return;
        }
        tracing::error!(
            "{}: was deleted or replaced; the old one is served until xblade ends and is lost then (now: /proc/{}/fd/{})",
            self.path.display(),
            std::process::id(),
            self.file.as_raw_fd()
        );
    }

    /// Whether [`Backing::measure`] found another file, or none, at the path.
    pub(super) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Serves `sectors` from here on.
    pub(super) fn set_sectors(&self, sectors: u64) {
        self.sectors.fetch_max(sectors, Ordering::Release);
    }

    /// Refuses what is not all inside.
    ///
    /// # Errors
    /// A fault of `kind`.
    pub(super) fn check(&self, extent: Extent, kind: FaultKind) -> Result<(), Fault> {
        if extent.end() <= self.sectors() {
            return Ok(());
        }
        Err(Fault::outside(kind, extent))
    }

    /// Refuses writes to what is read-only; the second lock after `target`'s.
    ///
    /// # Errors
    /// A fault.
    pub(super) fn check_writable(&self, extent: Extent) -> Result<(), Fault> {
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
    pub(super) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Puts the file's dirty pages on the medium.
    ///
    /// # Errors
    /// Of fdatasync.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// Gives an extent's space back; it reads as zeros afterwards.
    ///
    /// # Errors
    /// Of fallocate.
    pub(super) fn punch(&self, extent: Extent) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let bytes = extent.count * SECTOR_BYTES;
        Ok(rustix::fs::fallocate(
            &self.file,
            flags,
            self.position(extent.lba),
            bytes,
        )?)
    }

    /// Reads by system call, blocking.
    ///
    /// # Errors
    /// [`FaultKind::Read`] with the first sector that did not come.
    pub(super) fn read_slices(&self, extent: Extent, into: &mut [&mut [u8]]) -> Result<(), Fault> {
        let mut at = self.position(extent.lba);
        for piece in into {
            let mut rest = &mut **piece;
            while !rest.is_empty() {
                match self.file.read_at(rest, at) {
                    Ok(0) => return Err(self.fault_at(FaultKind::Read, at, short_file())),
                    Ok(n) => {
                        at += n as u64;
                        rest = &mut rest[n..];
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(self.fault_at(FaultKind::Read, at, error)),
                }
            }
        }
        Ok(())
    }

    /// Writes by system call into the page cache; may block. Never makes a file longer that someone cut short.
    ///
    /// # Errors
    /// [`FaultKind::Write`] with the first sector that was not taken.
    pub(super) fn write_slices(&self, extent: Extent, from: &[&[u8]]) -> Result<(), Fault> {
        let mut at = self.position(extent.lba);
        let end = at + extent.count * SECTOR_BYTES;
        let object_end = self
            .object_bytes()
            .map_err(|error| self.fault_at(FaultKind::Write, at, error))?;
        if end > object_end {
            return Err(self.fault_at(FaultKind::Write, at.max(object_end), short_file()));
        }
        // One system call, nearly always: a frame's payload is in few pieces.
        for pieces in from.chunks(PIECES) {
            let mut slices: ArrayVec<IoSlice<'_>, PIECES> =
                pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut slices = &mut slices[..];
            IoSlice::advance_slices(&mut slices, 0);
            while !slices.is_empty() {
                match rustix::io::pwritev(&self.file, slices, at) {
                    Ok(0) => {
                        return Err(self.fault_at(FaultKind::Write, at, io::ErrorKind::WriteZero.into()));
                    }
                    Ok(n) => {
                        at += n as u64;
                        IoSlice::advance_slices(&mut slices, n);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(self.fault_at(FaultKind::Write, at, error.into())),
                }
            }
        }
        Ok(())
    }

    /// A fault at a byte of the object, logged.
    pub(super) fn fault_at(&self, kind: FaultKind, at: u64, source: io::Error) -> Fault {
        self.fault(kind, at.saturating_sub(self.start) / SECTOR_BYTES, source)
    }

    /// A fault at a sector, logged at most once in [`LOG_INTERVAL`].
    pub(super) fn fault(&self, kind: FaultKind, lba: u64, source: io::Error) -> Fault {
        // A device that was pulled out answers ENXIO or ENODEV from then on.
        let kind = match source.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => FaultKind::Gone,
            _ => kind,
        };
        let total = self.faults.fetch_add(1, Ordering::Relaxed) + 1;
        let mut last = self.last_log.lock();
        let (due, before) = match *last {
            None => (true, 0),
            Some((when, count)) => (when.elapsed() >= LOG_INTERVAL, count),
        };
        if due {
            *last = Some((Instant::now(), total));
            tracing::warn!(
                "{}: {kind} at sector {lba} (byte {}): {source} ({} faults since the last report)",
                self.path.display(),
                self.position(lba),
                total - before
            );
        }
        Fault { kind, lba, source }
    }
}

/// What a read beyond the end of a cut file means.
pub(super) fn short_file() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the backing file is shorter than the export",
    )
}

/// Whether `path` is a block device, or why it can be none of ours.
fn is_device(path: &Path) -> Result<bool, StoreError> {
    let meta = std::fs::metadata(path).map_err(|error| open_error(path, "read", error))?;
    let kind = meta.file_type();
    if kind.is_dir() {
        return Err(StoreError::Directory(path.to_owned()));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(StoreError::NotAnImage(path.to_owned()));
    }
    Ok(kind.is_block_device())
}

fn open_error(path: &Path, access: &'static str, error: io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::Missing(path),
        io::ErrorKind::IsADirectory => StoreError::Directory(path),
        _ if lock::is_permission(&error) => StoreError::Permission { path, access },
        _ => StoreError::System {
            path,
            doing: "opening",
            source: error,
        },
    }
}

fn object_bytes(file: &File, device: bool) -> io::Result<u64> {
    match device {
        // fstat says 0 for devices. The file's position is used by nobody.
        true => Ok(rustix::fs::seek(file, SeekFrom::End(0))?),
        false => Ok(file.metadata()?.len()),
    }
}

fn find_traits(file: &File, device: bool, read_only: bool, bytes: u64) -> Traits {
    let trim = !read_only
        && if device {
            device_trims(file)
        } else {
            file_trims(file, bytes)
        };
    let physical_bytes = match device {
        true => rustix::fs::ioctl_blkpbszget(file).unwrap_or(SECTOR_BYTES as u32),
        false => 4096,
    };
    Traits {
        trim,
        // Both fallocate on a file and on a device zero what they do not free.
        zeroes_after_trim: trim,
        physical_exponent: (physical_bytes / SECTOR_BYTES as u32).max(1).ilog2() as u8,
    }
}

/// Allocates the range, if it can fit: a fallocate that runs out of space keeps what it got, and would leave the
/// whole file system full.
fn preallocate(file: &File, start: u64, bytes: u64) -> io::Result<()> {
    let system = rustix::fs::fstatvfs(file)?;
    let present = file.metadata()?.blocks() * 512;
    if bytes.saturating_sub(present) > system.f_bavail.saturating_mul(system.f_frsize) {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    Ok(rustix::fs::fallocate(
        file,
        FallocateFlags::KEEP_SIZE,
        start,
        bytes,
    )?)
}

/// Tries a hole beyond the end of the file, where it changes nothing.
fn file_trims(file: &File, bytes: u64) -> bool {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let beyond = bytes.next_multiple_of(1 << 21);
    rustix::fs::fallocate(file, flags, beyond, 4096).is_ok()
}

/// A device takes a hole punch as "write zeroes, unmapping": possible when its queue says so.
fn device_trims(file: &File) -> bool {
    let Ok(meta) = file.metadata() else { return false };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let sys = format!("/sys/dev/block/{major}:{minor}");
    let limit = |name: &str| {
        // A partition's queue is its disk's.
        [format!("{sys}/queue/{name}"), format!("{sys}/../queue/{name}")]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .and_then(|text| text.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    limit("discard_max_bytes") > 0 && limit("write_zeroes_max_bytes") > 0
}
