//! The state files of a directory that this process has locked, and the list of those there are.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::files::Lock;
use super::format::{self, Contents};
use super::index::{self, Index, IndexFound};
use super::key::{OldName, StateKey};
use super::writer::Medium;
use super::{StateDirError, file_path, files, names_in, read};
use crate::target::Persistent;

/// A write that takes longer is told as one that the disk does not answer.
const SLOWEST_WRITE: Duration = Duration::from_secs(5);

/// The files of a directory that this process has locked.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) dir: PathBuf,
    /// Never held while anything waits for a disk.
    pub(super) index: Mutex<IndexFile>,
    /// Held while the index is written. Locked before `index`.
    writing_index: Mutex<()>,
    lock: Mutex<Lock>,
    /// Why the last write failed. Never held while anything waits for a disk.
    problem: Mutex<Option<String>>,
    /// Since when states have been written that are not on the medium yet. Never held while anything waits for a disk.
    writing_since: Mutex<Option<Instant>>,
}

/// The index, and whether it is on the medium as it is here.
#[derive(Debug)]
pub(super) struct IndexFile {
    pub(super) index: Index,
    is_stored: bool,
}

impl Files {
    pub(super) fn open(dir: &Path, lock: Lock) -> Result<Files, StateDirError> {
        let (index, is_stored) = match index::read(dir)? {
            IndexFound::Index(index) => (index, true),
            IndexFound::Absent => (rebuilt(dir, None)?, false),
            IndexFound::Unusable(reason) => {
                let moved = files::move_aside(&dir.join(index::FILE), "damaged");
                if lock.unwritable.is_none() {
                    moved?;
                }
                (rebuilt(dir, Some(&reason))?, false)
            }
        };
        let files = Files {
            dir: dir.to_owned(),
            index: Mutex::new(IndexFile { index, is_stored }),
            writing_index: Mutex::default(),
            problem: Mutex::new(lock.unwritable.as_ref().map(io::Error::to_string)),
            writing_since: Mutex::default(),
            lock: Mutex::new(lock),
        };
        // A full disk keeps nobody from being served: before the first change it is tried again.
        if let Err(error) = files.store_index() {
            files.wrote(&Err(error));
        }
        if let Some(problem) = files.problem() {
            tracing::warn!("{problem}; exports are served with what it keeps");
        }
        Ok(files)
    }

    /// Lets others have the directory.
    pub(super) fn unlock(&self) {
        files::unlock(&self.lock.lock());
    }

    /// To be asked before anything is written: whether nobody else writes.
    pub(super) fn own(&self) -> io::Result<()> {
        let mut lock = self.lock.lock();
        if !lock.is_partial {
            return Ok(());
        }
        *lock = files::lock_whole(&self.dir)?;
        Ok(())
    }

    /// Why nothing can be written, for people.
    pub(super) fn problem(&self) -> Option<String> {
        let waited = self.writing_since.lock().map(|since| since.elapsed());
        let cause = match waited.filter(|waited| *waited >= SLOWEST_WRITE) {
            Some(waited) => format!("its disk has not answered for {} s", waited.as_secs()),
            None => self.problem.lock().clone()?,
        };
        Some(format!(
            "the state directory {} cannot be written ({cause}): masks, reservations and config strings cannot be changed until it can",
            self.dir.display()
        ))
    }

    /// Notes what came of a write.
    fn wrote(&self, result: &io::Result<()>) {
        *self.problem.lock() = result.as_ref().err().map(io::Error::to_string);
    }

    /// Writes something again where that failed the last time; true: it can be written again.
    pub(super) fn look_again(&self) -> bool {
        if self.problem.lock().is_none() {
            return false;
        }
        self.index.lock().is_stored = false;
        let stored = self.store_index();
        self.wrote(&stored);
        if stored.is_ok() {
            tracing::info!("the state directory {} can be written again", self.dir.display());
        }
        stored.is_ok()
    }

    pub(super) fn path(&self, key: &StateKey) -> PathBuf {
        file_path(&self.dir, &key.to_string())
    }

    /// True when the export has had a state.
    pub(super) fn is_listed(&self, key: &StateKey) -> bool {
        self.index.lock().index.exports.contains(key)
    }

    pub(super) fn index_is_complete(&self) -> bool {
        self.index.lock().index.complete
    }

    /// Returns when all that was entered before is on the medium.
    pub(super) fn store_index(&self) -> io::Result<()> {
        if self.index.lock().is_stored {
            return Ok(());
        }
        self.own()?;
        let _writing = self.writing_index.lock();
        let index = self.index.lock().index.clone();
        index::write(&self.dir, &index)?;
        let mut file = self.index.lock();
        // Whoever has entered more meanwhile stores it next.
        file.is_stored = file.index == index;
        Ok(())
    }

    /// Enters exports in the index, durably. Their files must be.
    pub(super) fn enlist<'a>(&self, keys: impl Iterator<Item = &'a StateKey>) -> io::Result<()> {
        {
            let mut file = self.index.lock();
            for key in keys {
                if file.index.exports.insert(key.clone()) {
                    file.is_stored = false;
                }
            }
        }
        self.store_index()
    }

    /// Notes, durably, that one export is about to take over this file of an earlier release.
    pub(super) fn note_taking_over(&self, file: &str) -> io::Result<()> {
        {
            let mut index = self.index.lock();
            if index.index.taken_over.insert(file.to_owned()) {
                index.is_stored = false;
            }
        }
        self.store_index()
    }

    /// The file of an earlier release by which another export may have got this one's state.
    pub(super) fn taken_over_by_another(&self, key: &StateKey) -> Option<String> {
        let index = self.index.lock();
        let is_own = |name: &&String| OldName::parse(name).is_some_and(|old| key.may_have_been(&old));
        index.index.taken_over.iter().find(is_own).cloned()
    }

    pub(super) fn store(&self, key: &StateKey, state: &Persistent) -> Result<(), StateDirError> {
        let result = self
            .store_all(&[(key, state)])
            .pop()
            .expect("one result for each");
        result.map_err(StateDirError::io("write", &self.path(key)))
    }

    /// Puts states on the medium; one result for each.
    fn store_all(&self, states: &[(&StateKey, &Persistent)]) -> Vec<io::Result<()>> {
        // The index comes first once, or a directory with states would look as if its index were lost.
        if let Err(error) = self.own().and_then(|()| self.store_index()) {
            let all_failed = |_: &_| Err(io::Error::new(error.kind(), error.to_string()));
            return states.iter().map(all_failed).collect();
        }
        let put = |&(key, state): &(&StateKey, &Persistent)| {
            let contents = Contents {
                export: Some(key.clone()),
                state: state.clone(),
            };
            files::put(&self.path(key), &format::encode(&contents))
        };
        let mut results: Vec<io::Result<()>> = states.iter().map(put).collect();
        let stored = states
            .iter()
            .zip(&results)
            .filter(|(_, result)| result.is_ok())
            .map(|((key, _), _)| *key);
        let durable = files::sync_parent(&self.dir.join(index::FILE)).and_then(|()| self.enlist(stored));
        if let Err(error) = durable {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(io::Error::new(error.kind(), error.to_string()));
            }
        }
        results
    }
}

/// States are being written, until this is dropped.
struct Writing<'a>(&'a Mutex<Option<Instant>>);

impl Writing<'_> {
    fn begin(since: &Mutex<Option<Instant>>) -> Writing<'_> {
        *since.lock() = Some(Instant::now());
        Writing(since)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

impl Medium for Arc<Files> {
    fn store_all(&self, states: &[(&StateKey, &Persistent)]) -> Vec<io::Result<()>> {
        let writing = Writing::begin(&self.writing_since);
        let results = Files::store_all(self, states);
        drop(writing);
        if let Some(result) = results.iter().find(|result| result.is_err()).or(results.first()) {
            self.wrote(result);
        }
        results
    }

    fn describe(&self, key: &StateKey) -> String {
        format!("{key}: cannot write {}", self.path(key).display())
    }
}

/// An index for a directory that has none which can be used: from its files.
///
/// A directory without any file of this release is new or comes from an earlier one, which kept no index: nothing was lost.
fn rebuilt(dir: &Path, damage: Option<&str>) -> Result<Index, StateDirError> {
    let mut index = Index {
        complete: damage.is_none(),
        exports: Default::default(),
        taken_over: Default::default(),
    };
    for (path, name) in names_in(dir)? {
        if name.starts_with("index.damaged-") {
            index.complete = false;
        }
        let Some(name) = name.strip_suffix(".state") else {
            continue;
        };
        match read(&path) {
            Ok(Contents { export: None, .. }) => {}
            Ok(Contents {
                export: Some(export), ..
            }) if export.to_string() == name => {
                index.exports.insert(export);
                index.complete = false;
            }
            Ok(_) | Err(_) => index.complete = false,
        }
    }
    if !index.complete {
        tracing::error!(
            "{} {}, so that nobody knows which exports had a mask or reservation: those without a state file stay \
             shut until `xblade state clear`",
            dir.join(index::FILE).display(),
            damage.map_or_else(
                || "is missing".to_owned(),
                |reason| format!("is damaged ({reason}) and was moved aside")
            ),
        );
    }
    Ok(index)
}
