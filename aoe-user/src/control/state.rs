//! What initiators changed (config string, mask, reservation), kept across restarts and power cuts.
//!
//! One file for each export in the state directory, replaced as a whole: written beside the old one, synced, renamed
//! over it, the directory synced. One thread writes for all exports, in the order of the requests, so that no worker
//! waits for a disk.

pub mod format;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::config::{Config, Vlan};
use engine::StateStore;

use crate::store::{Completion, CompletionHandle as _, Event, Fault, FaultKind, Lane, Mailbox, Token};
use crate::target::{Address, DynStateStore, Persistent};
use format::FormatError;

const LOCK_FILE: &str = "lock";
const EXTENSION: &str = "state";

/// A state directory or a file in it that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A system call failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process uses the directory.
    #[error("the state directory {} is in use by {holder}; every xblade needs its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Whoever holds the lock.
        holder: String,
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

impl StateError {
    fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StateError + 'a {
        move |source| StateError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// A state as found at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The state; empty when there was none, or a damaged one.
    pub state: Persistent,
    /// What the operator must know when the file was damaged: mask and reservation are no longer in force.
    pub damaged: Option<String>,
}

/// The names of the exports' state files, in the order of the config.
///
/// A name is the address alone, so that it survives changes of the config. Exports that share an address, on different
/// interfaces or VLANs, are told apart by these.
pub fn names(config: &Config) -> Vec<String> {
    let exports = &config.exports;
    let name = |export: &crate::config::ExportConfig| {
        let address = export.address();
        if exports
            .iter()
            .filter(|other| (other.shelf, other.slot) == (export.shelf, export.slot))
            .count()
            == 1
        {
            return address;
        }
        let interface = export.interfaces.first().map_or("", String::as_str);
        match export.vlan {
            Vlan::Untagged => format!("{address}@{interface}"),
            vlan => format!("{address}@{interface}-vlan-{vlan}"),
        }
    };
    exports.iter().map(name).collect()
}

/// The state directory, locked, with its writer.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Unlocked by closing.
    _lock: File,
    jobs: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

/// One file to replace.
#[derive(Debug)]
struct Job {
    path: PathBuf,
    bytes: Vec<u8>,
    mailbox: Mailbox,
    token: Token,
}

impl StateDir {
    /// Opens the directory, which is made if need be, and keeps other processes out of it.
    ///
    /// # Errors
    /// When it cannot be made or written, or another process uses it.
    pub fn open(path: &Path) -> Result<Arc<StateDir>, StateError> {
        make_durably(path).map_err(StateError::io("make the state directory", path))?;
        let lock = lock(path)?;
        let dir = File::open(path).map_err(StateError::io("open the state directory", path))?;
        let (jobs, queue) = channel();
        let writer = std::thread::Builder::new()
            .name("xblade-state".into())
            .spawn(move || write_all(&dir, &queue))
            .map_err(StateError::io("start a thread for", path))?;
        Ok(Arc::new(StateDir {
            path: path.to_owned(),
            _lock: lock,
            jobs: Some(jobs),
            writer: Some(writer),
        }))
    }

    /// Reads the state of an export, by its name in [`names`]. A damaged file is moved aside.
    ///
    /// # Errors
    /// When a file that is there cannot be read or moved, or comes from a newer xblade: serving without its mask and
    /// reservation would open what is closed.
    pub fn load(&self, name: &str) -> Result<Loaded, StateError> {
        let path = file_path(&self.path, name);
        match read(&path)? {
            Read::Absent => Ok(Loaded::default()),
            Read::State(state) => Ok(Loaded { state, damaged: None }),
            Read::Damaged(reason) => {
                let aside = move_aside(&path)?;
                let message = format!(
                    "the state file {} is damaged ({reason}) and was moved to {}: config string, MAC mask and \
                     reservation of {name} are empty now",
                    path.display(),
                    aside.display()
                );
                Ok(Loaded {
                    state: Persistent::default(),
                    damaged: Some(message),
                })
            }
        }
    }

    /// A keeper for one export, by its name in [`names`].
    pub fn keeper(self: &Arc<Self>, name: &str) -> Arc<DynStateStore> {
        Arc::new(FileKeeper {
            path: file_path(&self.path, name),
            dir: self.clone(),
        })
    }

    /// Replaces a state and waits until it is on the medium: for tools, not for workers.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, name: &str, state: &Persistent) -> Result<(), StateError> {
        let path = file_path(&self.path, name);
        let dir = File::open(&self.path).map_err(StateError::io("open the state directory", &self.path))?;
        replace(&dir, &path, &format::encode(state)).map_err(StateError::io("write", &path))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Without a sender the writer finishes what it has and ends.
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// A state file as [`list`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The export, as in [`names`].
    pub name: String,
    /// Its state, or why it cannot be read.
    pub state: Result<Persistent, String>,
}

/// The states in a directory by name, without a lock: files are replaced as a whole, so that reading is always safe.
///
/// # Errors
/// When the directory cannot be read. A file that cannot be read is an entry with its reason.
pub fn list(dir: &Path) -> Result<Vec<Entry>, StateError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(StateError::io("read the state directory", dir))? {
        let path = entry
            .map_err(StateError::io("read the state directory", dir))?
            .path();
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else {
            continue;
        };
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let state = match read(&path) {
            Ok(Read::State(state)) => Ok(state),
            Ok(Read::Absent) => continue,
            Ok(Read::Damaged(reason)) => Err(format!("damaged: {reason}")),
            Err(error) => Err(error.to_string()),
        };
        found.push(Entry {
            name: name.to_owned(),
            state,
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Saves one export's state in its file.
#[derive(Debug)]
struct FileKeeper {
    path: PathBuf,
    dir: Arc<StateDir>,
}

impl StateStore<Lane> for FileKeeper {
    fn save(&self, _address: Address, state: &Persistent, mailbox: Mailbox, token: Token) {
        let job = Job {
            path: self.path.clone(),
            bytes: format::encode(state),
            mailbox,
            token,
        };
        let jobs = self
            .dir
            .jobs
            .as_ref()
            .expect("the sender lives as long as the directory");
        if let Err(unsent) = jobs.send(job) {
            // Only a panic ends the writer early; its initiators get no answer, as after any failed save.
            finish(&unsent.0, Err(io::Error::other("the state writer has ended")));
        }
    }
}

fn write_all(dir: &File, queue: &Receiver<Job>) {
    for job in queue {
        let result = replace(dir, &job.path, &job.bytes);
        if let Err(error) = &result {
            tracing::error!(
                "cannot write {}: {error}; the initiator's change is not in force",
                job.path.display()
            );
        }
        finish(&job, result);
    }
}

fn finish(job: &Job, result: io::Result<()>) {
    let fault = |source| Fault {
        kind: FaultKind::Write,
        lba: 0,
        source,
    };
    let event = Event::Finished(result.map(|()| None).map_err(fault));
    job.mailbox.post(Completion {
        token: job.token,
        event,
    });
}

/// Makes `bytes` the contents of the file, wholly or not at all, whenever the power goes.
fn replace(dir: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
        return written;
    }
    dir.sync_all()
}

enum Read {
    Absent,
    State(Persistent),
    Damaged(String),
}

fn read(path: &Path) -> Result<Read, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::Absent),
        Err(error) => return Err(StateError::io("open the state file", path)(error)),
    };
    let mut bytes = Vec::new();
    let limit = format::FILE_BYTES_MAX + 1;
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(StateError::io("read the state file", path))?;
    if bytes.len() as u64 == limit {
        return Ok(Read::Damaged(format!(
            "it has more than {} bytes",
            format::FILE_BYTES_MAX
        )));
    }
    match format::decode(&bytes) {
        Ok(state) => Ok(Read::State(state)),
        Err(FormatError::Damaged(reason)) => Ok(Read::Damaged(reason)),
        Err(newer @ FormatError::Newer(_)) => Err(StateError::Newer {
            path: path.to_owned(),
            reason: newer.to_string(),
        }),
    }
}

/// Gives a damaged file a name of its own, never over an earlier one.
fn move_aside(path: &Path) -> Result<PathBuf, StateError> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let mut number = 0;
    loop {
        let aside = path.with_extension(format!("damaged-{seconds}-{number}"));
        match renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(aside),
            Err(rustix::io::Errno::EXIST) => number += 1,
            Err(error) => {
                return Err(StateError::io("move aside the damaged state file", path)(
                    error.into(),
                ));
            }
        }
    }
}

/// Makes a directory and all above it, each synced in its parent: what is saved in it must not vanish with it.
fn make_durably(path: &Path) -> io::Result<()> {
    let missing = path
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .count();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let path = fs::canonicalize(path)?;
    path.ancestors()
        .skip(1)
        .take(missing)
        .try_for_each(|parent| File::open(parent)?.sync_all())
}

fn file_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.{EXTENSION}"))
}

fn lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = options.open(&path).map_err(StateError::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let holder = match pid.trim().parse::<u32>() {
                Ok(pid) => format!("process {pid}"),
                Err(_) => "another process".into(),
            };
            return Err(StateError::InUse {
                path: dir.to_owned(),
                holder,
            });
        }
        Err(error) => return Err(StateError::io("lock", &path)(error.into())),
    }
    let write = file
        .set_len(0)
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    write.map_err(StateError::io("write", &path))?;
    Ok(file)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
