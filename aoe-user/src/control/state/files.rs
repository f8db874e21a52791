//! Files of a state directory: read without trust, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};

use super::{STATE_DIR, StateDirError};

const LOCK_FILE: &str = "lock";

/// What is at a path.
pub(super) enum FoundFile {
    Absent,
    Bytes(Vec<u8>),
    /// Something that was never written by xblade: no regular file, or too large.
    NoFile(String),
    /// The system could not read it.
    Failed(io::Error),
}

/// Reads a regular file of at most `limit` bytes. Nothing else is waited for: opening a FIFO or a device is.
pub(super) fn read(path: &Path, limit: u64) -> FoundFile {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    // A socket cannot be opened, and a device should not be.
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(metadata) => {
            return FoundFile::NoFile(format!("it is {}, not a file", kind(metadata.file_type())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return FoundFile::Absent,
        Err(error) => return FoundFile::Failed(error),
    }
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return FoundFile::Absent,
        Err(error) => return FoundFile::Failed(error),
    };
    match file.metadata() {
        Ok(metadata) if !metadata.is_file() => return FoundFile::NoFile("it is not a file".into()),
        Err(error) => return FoundFile::Failed(error),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    match file.take(limit + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > limit => FoundFile::NoFile(format!("it has more than {limit} bytes")),
        Ok(_) => FoundFile::Bytes(bytes),
        Err(error) => FoundFile::Failed(error),
    }
}

fn kind(file: fs::FileType) -> &'static str {
    match file {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// Makes `bytes` the contents of the file, wholly or not at all, whenever the power goes.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes)?;
    sync_parent(path)
}

/// The same, but for the last step: it is durable after [`sync_parent`].
pub(super) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_with(path, bytes, File::sync_all)
}

/// Makes `bytes` the contents of the file, wholly or not at all, as long as the host runs.
pub(super) fn put_for_this_boot(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_with(path, bytes, |_| Ok(()))
}

fn put_with(path: &Path, bytes: &[u8], sync: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let written = (|| {
        // What an earlier attempt left, or whatever else has the name.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        sync(&file)?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Makes names in the directory of `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Gives a file a name of its own that says why, never over an earlier one.
pub(super) fn move_aside(path: &Path, why: &str) -> Result<PathBuf, StateDirError> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let mut number = 0;
    loop {
        let aside = path.with_extension(format!("{why}-{seconds}-{number}"));
        match renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(aside),
            Err(rustix::io::Errno::EXIST) => number += 1,
            Err(error) => return Err(StateDirError::io("move aside", path)(error.into())),
        }
    }
}

/// Makes a directory, synced in its parent: what is saved in it must not vanish with it. None above it is made: where that is missing
/// the path is mistyped, or its disk is not mounted, and what was kept would look as if it had never been.
pub(super) fn make_durably(path: &Path) -> Result<(), StateDirError> {
    let failed = || StateDirError::io("make the state directory", path);
    if path == Path::new(STATE_DIR)
        && let Some(parent) = path.parent()
        && !parent.exists()
    {
        // The usual place is not mistyped: a small system may have no /var/lib yet.
        fs::create_dir_all(parent).map_err(failed())?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(_) if path.is_dir() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StateDirError::NoParent {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(StateDirError::NoDirectory {
                path: path.to_owned(),
            });
        }
        made => made.map_err(failed())?,
    }
    let made = fs::canonicalize(path).map_err(failed())?;
    sync_parent(&made).map_err(failed())?;
    tracing::info!("made the state directory {}: nothing is kept yet", made.display());
    Ok(())
}

/// The right to use a directory, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Why nothing can be written, as far as that is known.
    pub(super) unwritable: Option<io::Error>,
    /// There was no file to lock and none could be made: somebody who can make one finds the directory free.
    pub(super) is_partial: bool,
}

/// Whether what cannot be written now can be read all the same, and perhaps be written later.
pub(super) fn may_be_read(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
    )
}

/// Opens the file to be locked: to read it only where more is not possible, or the directory itself where there is no such file.
fn open_lock(dir: &Path, path: &Path) -> io::Result<Lock> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags);
    let whole = |file, unwritable| Lock {
        file,
        unwritable,
        is_partial: false,
    };
    let to_write = options
        .clone()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    let error = match to_write {
        Ok(file) => return Ok(whole(file, None)),
        Err(error) if may_be_read(&error) => error,
        Err(error) => return Err(error),
    };
    if let Ok(file) = options.open(path) {
        return Ok(whole(file, Some(error)));
    }
    match File::open(dir) {
        Ok(file) => Ok(Lock {
            file,
            unwritable: Some(error),
            is_partial: true,
        }),
        Err(_) => Err(error),
    }
}

/// Keeps other processes out of a directory for as long as the lock lives.
pub(super) fn lock(dir: &Path) -> Result<Lock, StateDirError> {
    let path = dir.join(LOCK_FILE);
    let lock = open_lock(dir, &path).map_err(StateDirError::io("open", &path))?;
    take(lock, dir, &path)
}

/// The whole of a lock that was partial.
///
/// # Errors
/// Where there is still no file to lock, or somebody else has it.
pub(super) fn lock_whole(dir: &Path) -> io::Result<Lock> {
    let path = dir.join(LOCK_FILE);
    let lock = open_lock(dir, &path)?;
    if lock.is_partial {
        return Err(lock
            .unwritable
            .unwrap_or_else(|| io::ErrorKind::PermissionDenied.into()));
    }
    take(lock, dir, &path).map_err(|error| match error {
        StateDirError::Io { cause, .. } => cause,
        other => io::Error::other(other.to_string()),
    })
}

fn take(mut lock: Lock, dir: &Path, path: &Path) -> Result<Lock, StateDirError> {
    match flock(&lock.file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = (&lock.file).take(32).read_to_string(&mut pid);
            let holder = match pid.trim().parse::<u32>() {
                Ok(pid) => format!("process {pid}"),
                Err(_) => "another process".into(),
            };
            return Err(StateDirError::InUse {
                path: dir.to_owned(),
                holder,
            });
        }
        Err(error) => return Err(StateDirError::io("lock", path)(error.into())),
    }
    if lock.unwritable.is_none() {
        // Who holds it is for a message only; a full disk does not keep anybody from being served.
        let _ = lock.file.set_len(0).and_then(|()| {
            lock.file
                .write_all(format!("{}\n", std::process::id()).as_bytes())
        });
    }
    Ok(lock)
}

/// Gives up what [`lock`] got, whoever holds the file.
pub(super) fn unlock(lock: &Lock) {
    // It fails only for what is no file.
    let _ = flock(&lock.file, FlockOperation::Unlock);
}
