//! One writer at a time: open file description locks on files, exclusive opens of block devices, and who is in the
//! way.
//!
//! The lock covers the served byte range, so disjoint ranges of one file can be exported side by side, from one
//! process or several. Readers share. The kernel drops the lock with the file descriptor, however the process ends.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Weak};

use nix::fcntl::{FcntlArg, fcntl};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use crate::file_identity::FileIdentity;
use crate::options::StoreError;
use crate::users;

/// Locks `[start, start + length)` bytes of `file` (`length` 0: to the end, wherever that will be).
///
/// # Errors
/// [`StoreError::InUse`] with the holder's name and pid where /proc tells them.
pub(crate) fn lock_range(
    file: &File,
    path: &Path,
    start: u64,
    length: u64,
    exclusive: bool,
) -> Result<(), StoreError> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    let request = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as libc::off_t,
        l_len: length as libc::off_t,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&request)) {
        Ok(_) => Ok(()),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Err(StoreError::InUse {
            path: path.to_owned(),
            holder: lock_holder(file).unwrap_or_else(|| "another process".to_owned()),
        }),
        Err(error) => Err(StoreError::system(path, "locking", error)),
    }
}

/// Gives up what [`lock_range`] got of this file.
pub(super) fn unlock(file: &File) {
    let request = libc::flock {
        l_type: libc::F_UNLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // It fails only for what is no file.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&request));
}

/// Keeps off, and keeps away from, everybody who uses the same bytes by another way: loop devices over the object, and the files
/// below it where it is made of loop devices. The files that come back hold the locks.
///
/// # Errors
/// [`StoreError::InUse`] with who it is.
pub(super) fn lock_other_ways(
    path: &Path,
    meta: &Metadata,
    bytes: Range<u64>,
    exclusive: bool,
) -> Result<Vec<File>, StoreError> {
    let in_use = |holder| StoreError::InUse {
        path: path.to_owned(),
        holder,
    };
    if let Some(holder) = users::HERE.other_user(meta, &bytes, exclusive, None) {
        return Err(in_use(holder));
    }
    if !meta.file_type().is_block_device() {
        return Ok(Vec::new());
    }
    let mut locks = Vec::new();
    for below in users::HERE.files_below(meta.rdev(), bytes) {
        let Some((file, writable)) = users::open_below(&below.path, exclusive) else {
            continue;
        };
        let user = |meta_below: Metadata| users::HERE.other_user_below(&below, &meta_below, exclusive);
        if let Some(holder) = file.metadata().ok().and_then(user) {
            return Err(in_use(holder));
        }
        let length = match below.bytes.end {
            u64::MAX => 0,
            end => end.saturating_sub(below.bytes.start),
        };
        lock_range(&file, path, below.bytes.start, length, exclusive && writable)?;
        locks.push(file);
    }
    Ok(locks)
}

/// Exclusive opens of block devices, by number. For each a lock of its own: opening one may hang.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<BTreeMap<u64, Arc<Mutex<Weak<File>>>>>);

/// The exclusive open that keeps mounts and other exclusive users away from a block device.
///
/// The kernel grants one per device, so all exports of a target that write to it hold the same one.
///
/// # Errors
/// [`StoreError::InUse`] when the device is mounted or opened exclusively elsewhere.
pub(crate) fn claim_device(claims: &Claims, path: &Path, device: u64) -> Result<Arc<File>, StoreError> {
    let claim = Arc::clone(claims.0.lock().entry(device).or_default());
    let mut known = claim.lock();
    if let Some(claim) = known.upgrade() {
        return Ok(claim);
    }
    match rustix::fs::open(path, OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => {
            let claim = Arc::new(File::from(fd));
            *known = Arc::downgrade(&claim);
            Ok(claim)
        }
        Err(rustix::io::Errno::BUSY) => Err(StoreError::InUse {
            path: path.to_owned(),
            holder: device_holder(path, device),
        }),
        Err(error) => Err(StoreError::system(path, "opening exclusively", error)),
    }
}

/// Finds a process with a lock on the same inode; the kernel shows such locks in the holder's fdinfo only.
fn lock_holder(file: &File) -> Option<String> {
    let own = FileIdentity::of(&file.metadata().ok()?);
    let same = |fd: &Path| FileIdentity::at(fd).is_ok_and(|other| other == own);
    for_each_open_file(|pid, fd_number, fd| {
        if !same(fd) {
            return None;
        }
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd_number}")).ok()?;
        info.lines()
            .any(|line| line.starts_with("lock:"))
            .then(|| describe(pid))
    })
}

/// Who keeps a block device busy: what the kernel tells, else a process that has it open.
fn device_holder(path: &Path, device: u64) -> String {
    if let Some(user) = users::HERE.kernel_user(device) {
        return user;
    }
    let own = std::process::id();
    for_each_open_file(|pid, _, fd| {
        let open = fs::metadata(fd).is_ok_and(|meta| meta.rdev() == device);
        (open && pid != own).then(|| describe(pid))
    })
    .unwrap_or_else(|| format!("another user of {} (a mount, RAID, LVM or swap)", path.display()))
}

fn for_each_open_file<T>(mut look: impl FnMut(u32, &str, &Path) -> Option<T>) -> Option<T> {
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // Processes come and go, and others' files may be hidden: skip what cannot be read.
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for file in files.flatten() {
            let name = file.file_name();
            if let Some(found) = look(pid, &name.to_string_lossy(), &file.path()) {
                return Some(found);
            }
        }
    }
    None
}

fn describe(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim();
    if pid == std::process::id() {
        format!("another export of this process ({name}, pid {pid})")
    } else {
        format!("{name} (pid {pid})")
    }
}

/// Whether `error` means that nobody may open the object this way.
pub(crate) fn is_permission(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}
