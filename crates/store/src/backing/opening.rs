//! Opening a backing object: checked, locked, measured, and asked what it can do.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::Backing;
use super::condition::BackingFileId;
use super::size::Size;
use crate::disks::Disks;
use crate::format::{self, ImageFormat};
use crate::io::device::Device;
use crate::lock;
use crate::options::served_sectors;
use crate::options::{StoreError, StoreOptions};
use crate::pace::FaultPace;
use engine::{SECTOR_BYTES, Traits};

impl Backing {
    /// Opens, checks and locks.
    ///
    /// # Errors
    /// As [`crate::open()`].
    pub(crate) fn open(options: &StoreOptions, disks: &Disks) -> Result<Backing, StoreError> {
        Self::open_with(options, disks, OFlags::empty())
    }

    /// The same with more flags for open(2).
    ///
    /// # Errors
    /// As [`crate::open()`].
    pub(crate) fn open_with(
        options: &StoreOptions,
        disks: &Disks,
        flags: OFlags,
    ) -> Result<Backing, StoreError> {
        let path = &options.path;
        let device = is_device(path)?;
        let (access, needed) = match options.read_only {
            true => (OFlags::RDONLY, "read"),
            false => (OFlags::RDWR, "read and write"),
        };
        let claim = match std::fs::metadata(path) {
            Ok(meta) if device && !options.read_only && !options.shared => {
                Some(lock::claim_device(&disks.claims, path, meta.rdev())?)
            }
            _ => None,
        };
        let file = open_file(path, access | flags).map_err(|error| match error {
            Errno::INVAL if flags.contains(OFlags::DIRECT) => StoreError::NoDirect(path.clone()),
            _ => open_error(path, needed, error.into()),
        })?;
        let identity = BackingFileId::of(&file)
            .map_err(|error| StoreError::system(path, "finding what it is", error))?;
        let size = Size::of(&file, device);
        let bytes = size
            .ask(&file)
            .map_err(|error| StoreError::system(path, "finding its size", error))?;
        let sectors = served_sectors(path, bytes, options.offset, options.length)?;
        let start = options.offset * SECTOR_BYTES;
        refuse_foreign(&file, options, bytes)?;
        let locks_below = lock_all(&file, options)?;
        warn_of_part_sector(options, bytes);
        if options.prealloc && !options.read_only && !device {
            let bytes = sectors * SECTOR_BYTES;
            preallocate(&file, start, bytes).map_err(|cause| StoreError::Prealloc {
                path: path.clone(),
                bytes,
                cause,
            })?;
        }
        let disk = Device::of(&file, &disks.gates, &super::name_of(path))
            .map_err(|error| StoreError::system(path, "starting a thread for it", error))?;
        let traits = find_traits(&file, device, options.read_only, bytes);
        Ok(Backing {
            path: path.clone(),
            start,
            length: options.length,
            sectors: AtomicU64::new(sectors),
            device,
            size,
            no_nowait: AtomicBool::new(!disk.writes_nowait),
            disk,
            read_only: options.read_only,
            traits,
            faults: AtomicU64::new(0),
            shortest: AtomicU64::new(u64::MAX),
            identity,
            degradation: Mutex::default(),
            pace: FaultPace::default(),
            block: match device {
                true => rustix::fs::ioctl_blksszget(&file).map_or(SECTOR_BYTES, u64::from),
                false => SECTOR_BYTES,
            },
            file: Arc::new(file),
            claim: Mutex::new(claim),
            locks_below: Mutex::new(locks_below),
        })
    }
}

fn warn_of_part_sector(options: &StoreOptions, bytes: u64) {
    if !bytes.is_multiple_of(SECTOR_BYTES) && options.length == 0 {
        tracing::warn!(
            "{}: the last {} bytes are less than a sector and are not exported",
            options.path.display(),
            bytes % SECTOR_BYTES
        );
    }
}

/// Opens so that reads do not note their time, which would wait for the file system's journal; where that is not this process's right
/// (CAP_FOWNER, or to own the file) as usual.
fn open_file(path: &Path, flags: OFlags) -> rustix::io::Result<File> {
    let open = |more| rustix::fs::open(path, flags | more | OFlags::CLOEXEC, Mode::empty());
    let file = open(OFlags::NOATIME).or_else(|error| match error {
        Errno::PERM => open(OFlags::empty()),
        _ => Err(error),
    });
    file.map(File::from)
}

/// Locks the served range, and what leads to the same bytes by another way; the files that come back hold the locks of those.
fn lock_all(file: &File, options: &StoreOptions) -> Result<Vec<File>, StoreError> {
    if options.shared {
        return Ok(Vec::new());
    }
    let path = &options.path;
    let exclusive = !options.read_only;
    let start = options.offset * SECTOR_BYTES;
    let bytes = options.length * SECTOR_BYTES;
    lock::lock_range(file, path, start, bytes, exclusive)?;
    let meta = file
        .metadata()
        .map_err(|error| StoreError::system(path, "finding what it is", error))?;
    let end = match bytes {
        0 => u64::MAX,
        bytes => start + bytes,
    };
    lock::lock_other_ways(path, &meta, start..end, exclusive)
}

/// Refuses an image whose first or last bytes say that it is no plain run of sectors. A range inside it is somebody's who knows.
fn refuse_foreign(file: &File, options: &StoreOptions, bytes: u64) -> Result<(), StoreError> {
    if options.format == ImageFormat::Raw || options.offset != 0 {
        return Ok(());
    }
    // Not by its path: there may be another file by now. And without O_DIRECT, for reads of any length.
    let plain = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let found = plain.and_then(|plain| format::recognise(&plain, bytes));
    match found.map_err(|error| StoreError::system(&options.path, "reading", error))? {
        None => Ok(()),
        Some(foreign) => Err(StoreError::Foreign {
            path: options.path.clone(),
            format: foreign.name,
            convert: foreign.convert(&options.path),
        }),
    }
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

/// Whether devices are found there; /dev/shm has files.
fn is_of_device(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

fn open_error(path: &Path, access: &'static str, error: io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound if is_of_device(&path) => StoreError::NoDevice(path),
        io::ErrorKind::NotFound => StoreError::Missing(path),
        io::ErrorKind::IsADirectory => StoreError::Directory(path),
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnlyFileSystem(path),
        _ if lock::is_permission(&error) => StoreError::Permission { path, access },
        _ => StoreError::System {
            path,
            doing: "opening",
            cause: error,
        },
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
