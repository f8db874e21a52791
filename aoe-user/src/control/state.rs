//! What initiators changed (config string, mask, reservation), kept across restarts and power cuts.
//!
//! One file for each export in the state directory, replaced as a whole: written beside the old one, synced, renamed
//! over it, the directory synced. Its name comes from the export alone ([`StateKey`]); [`index`] lists the exports that ever
//! had one.
//!
//! Mask and reservation shut others out. So an export whose state is damaged, gone, ambiguous or unreadable is not served
//! ([`Shut`]) until the operator decides ([`operator`]).

mod before;
pub(crate) mod bound;
mod claim;
mod copies;
mod directory;
mod files;
pub mod format;
pub(crate) mod image;
mod index;
pub(crate) mod key;
mod load;
pub(crate) mod lost;
pub(crate) mod operator;
mod operator_error;
mod sealed;
mod told;
mod unkept;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::store::{CompletionQueue, QueueHandle, Token};
use crate::target::{Address, DynStateStore, Persistent};
pub use before::Before;
use directory::Files;
use engine::StateStore;
use files::FoundFile;
use format::{Contents, FormatError};
use index::IndexFound;
use key::OldName;
pub use key::StateKey;
pub(crate) use load::Shut;
use told::completes;
use unkept::Unkept;
use writer::StateWriter;

/// Where `daemon` keeps config strings, masks and reservations unless it is told otherwise.
pub(crate) const STATE_DIR: &str = "/var/lib/xblade";
const EXTENSION: &str = "state";

/// A state directory or a file in it that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// A system call failed.
    #[error("cannot {what} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed. Part of the message, so no `source()`: that is said once, whoever prints it.
        cause: io::Error,
    },
    /// Another process uses the directory.
    #[error("the state directory {} is in use by {holder}; every xblade needs its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Whoever holds the lock.
        holder: String,
    },
    /// The directory is missing, and so is the one that it would be in.
    #[error(
        "there is no directory {} to make the state directory {} in: make it, mount its disk, or give another path by --state-dir",
        path.parent().unwrap_or(path).display(),
        path.display()
    )]
    NoParent {
        /// The state directory.
        path: PathBuf,
    },
    /// Something else has its name, or the name leads nowhere.
    #[error("{} is no directory, and --state-dir takes the one that states are kept in", path.display())]
    NoDirectory {
        /// The path.
        path: PathBuf,
    },
    /// There is nothing in a directory that was used before.
    #[error(
        "the state directory {} is empty, and --state-required says that it was used before: mount it, or bring back what it \
         kept; without --state-required every export starts without mask and reservation",
        path.display()
    )]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// The file is whole, but this program is too old for it.
    #[error("{} comes from a newer xblade: {reason}; use that one, or move the file away", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version and ours.
        reason: String,
    },
}

impl StateDirError {
    fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StateDirError + 'a {
        move |cause| StateDirError::Io {
            what,
            path: path.to_owned(),
            cause,
        }
    }
}

/// The state directory, locked, with its writer.
#[derive(Debug)]
pub struct StateDir {
    files: Arc<Files>,
    writer: StateWriter,
    /// Every export of the configuration, to see who else may own a file of an earlier release.
    configured: Mutex<Vec<StateKey>>,
    /// Files whose names only earlier releases gave.
    old: Mutex<Vec<(String, OldName)>>,
    /// Requests of the operator are carried out one at a time.
    obeying: Mutex<()>,
    unkept: Unkept,
    ended: AtomicBool,
}

impl StateDir {
    /// Opens the directory, which is made if need be (none above it), and keeps other processes out of it. One that can only be read gives what it
    /// keeps; what is to be kept is refused until it can be written.
    ///
    /// # Errors
    /// When it cannot be made or read, another process uses it, or it is empty and must not be.
    pub fn open(path: &Path, before: Before) -> Result<Arc<StateDir>, StateDirError> {
        if before == Before::Used && before::is_unused(path)? {
            return Err(StateDirError::Empty {
                path: path.to_owned(),
            });
        }
        files::make_durably(path)?;
        let lock = files::lock(path)?;
        let left = claim::remove_left(path);
        if lock.unwritable.is_none() {
            left?;
        }
        let files = Arc::new(Files::open(path, lock)?);
        let writer = StateWriter::start("xblade-state", Arc::clone(&files))
            .map_err(StateDirError::io("start a thread for", path))?;
        let dir = StateDir {
            old: Mutex::new(old_names(path)?),
            files,
            writer,
            configured: Mutex::default(),
            obeying: Mutex::default(),
            unkept: Unkept::new(path),
            ended: AtomicBool::new(false),
        };
        Ok(Arc::new(dir))
    }

    /// Names the state of an export to `xblade state`.
    pub(crate) fn arguments(&self, key: &StateKey) -> String {
        key.arguments_in(&self.files.dir)
    }

    /// The exports of the configuration. To be told at start and at each reload, before any is loaded.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn set_exports(&self, keys: Vec<StateKey>) -> Result<(), StateDirError> {
        *self.configured.lock() = keys;
        self.look_for_old_names()
    }

    fn look_for_old_names(&self) -> Result<(), StateDirError> {
        *self.old.lock() = old_names(&self.files.dir)?;
        Ok(())
    }

    /// A keeper for one export.
    pub(crate) fn keeper(self: &Arc<Self>, key: &StateKey) -> Arc<DynStateStore> {
        Arc::new(FileKeeper {
            key: key.clone(),
            dir: self.clone(),
        })
    }

    /// Why nothing can be kept now, for people; `None`: everything can. Does not wait.
    pub(crate) fn problem(&self) -> Option<String> {
        self.files.problem()
    }

    /// Looks again whether what could not be kept can be. May block.
    pub(crate) fn look_again(self: &Arc<Self>) {
        if self.files.look_again() {
            self.unkept.reserve_room();
        }
        self.look_after_losses();
    }

    /// Replaces a state and waits until it is on the medium: for tools, not for workers.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, key: &StateKey, state: &Persistent) -> Result<(), StateDirError> {
        self.files.store(key, state)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        self.end();
    }
}

impl StateDir {
    /// For the end of the process: has everything written that waits, and lets others have the directory although somebody still holds
    /// this value. Waits for the directory's disk for a while.
    pub(crate) fn end(&self) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        self.keep_losses();
        if !self.writer.close() {
            tracing::error!(
                "the disk of the state directory does not answer: the last changes by initiators are lost \
                 (none of them was acknowledged)"
            );
        }
        // The writer's thread may hold the files a moment longer.
        self.files.unlock();
    }
}

/// Files of the directory by name.
fn names_in(dir: &Path) -> Result<Vec<(PathBuf, String)>, StateDirError> {
    let failed = || StateDirError::io("read the state directory", dir);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push((entry.path(), name));
        }
    }
    names.sort();
    Ok(names)
}

/// State files whose names say that an earlier release made them.
fn old_names(dir: &Path) -> Result<Vec<(String, OldName)>, StateDirError> {
    let old = |(_, name): (PathBuf, String)| {
        let name = name.strip_suffix(".state")?;
        let old = name.contains('@').then(|| OldName::parse(name))??;
        Some((name.to_owned(), old))
    };
    Ok(names_in(dir)?.into_iter().filter_map(old).collect())
}

/// Why a file gives no state.
#[derive(Debug)]
enum ReadError {
    Absent,
    Damaged(String),
    Newer(String),
    Io(io::Error),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Absent => f.write_str("it is gone"),
            ReadError::Damaged(reason) => write!(f, "damaged: {reason}"),
            ReadError::Newer(reason) => write!(f, "from a newer xblade: {reason}"),
            ReadError::Io(error) => write!(f, "cannot read it: {error}"),
        }
    }
}

fn read(path: &Path) -> Result<Contents, ReadError> {
    match files::read(path, format::FILE_BYTES_MAX) {
        FoundFile::Absent => Err(ReadError::Absent),
        FoundFile::NoFile(reason) => Err(ReadError::Damaged(reason)),
        FoundFile::Failed(error) => Err(ReadError::Io(error)),
        FoundFile::Bytes(bytes) => format::decode(&bytes).map_err(|error| match error {
            FormatError::Damaged(reason) => ReadError::Damaged(reason),
            newer @ FormatError::Newer { .. } => ReadError::Newer(newer.to_string()),
        }),
    }
}

/// A state file as [`list`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateEntry {
    /// Its name without the extension: a [`StateKey`], or what an earlier release made.
    pub(crate) name: String,
    /// The state, or why there is none.
    pub(crate) state: Result<Persistent, String>,
}

/// What a directory keeps, by name, without a lock: files are replaced as a whole, so that reading is always safe. An export
/// whose file is gone although it had one is an entry, too.
///
/// # Errors
/// When the directory cannot be read. A file that cannot be read is an entry with its reason.
pub(crate) fn list(dir: &Path) -> Result<Vec<StateEntry>, StateDirError> {
    let listed = match index::read(dir)? {
        IndexFound::Index(index) => index.exports,
        IndexFound::Absent | IndexFound::Unusable(_) => Default::default(),
    };
    let mut found: Vec<StateEntry> = Vec::new();
    for (path, name) in names_in(dir)? {
        let Some(name) = name.strip_suffix(".state") else {
            continue;
        };
        let state = match read(&path) {
            Err(ReadError::Absent) => continue,
            Ok(Contents {
                export: Some(owner), ..
            }) if owner.to_string() != name => Err(format!("it holds the state of {owner}")),
            other => other
                .map(|contents| contents.state)
                .map_err(|error| error.to_string()),
        };
        found.push(StateEntry {
            name: name.to_owned(),
            state,
        });
    }
    for key in listed {
        let name = key.to_string();
        if !found.iter().any(|entry| entry.name == name) {
            let state = Err("its file is gone".to_owned());
            found.push(StateEntry { name, state });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn file_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.{EXTENSION}"))
}

/// Saves one export's state in its file.
#[derive(Debug)]
struct FileKeeper {
    key: StateKey,
    dir: Arc<StateDir>,
}

impl StateStore<CompletionQueue> for FileKeeper {
    fn save(&self, _address: Address, state: &Persistent, handle: QueueHandle, token: Token) {
        self.dir.writer.save(&self.key, state, completes(handle, token));
    }
}

#[cfg(test)]
mod tests;
