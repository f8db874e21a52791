//! Whether the files that say what an overlay's delta holds are still where they were opened, and whole. The delta is a store of its own, which knows.

use std::io;
use std::path::{Path, PathBuf};

use engine::Health;
use parking_lot::Mutex;

use super::files::OverlayFiles;
use crate::backing::condition::{AtPath, BackingFileId};

/// A file as it was opened.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    identity: BackingFileId,
    bytes: u64,
}

/// What is wrong with one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Missing(PathBuf),
    Cut(PathBuf),
}

/// The files beside the delta.
#[derive(Debug)]
pub(super) struct Presence {
    files: Vec<Opened>,
    /// That with the bits.
    bits: PathBuf,
    problem: Mutex<Option<Problem>>,
}

impl Opened {
    fn of(path: PathBuf) -> io::Result<Opened> {
        Ok(Opened {
            identity: BackingFileId::at(&path)?,
            bytes: std::fs::metadata(&path)?.len(),
            path,
        })
    }

    fn look(&self) -> Option<Problem> {
        match self.identity.look(&self.path) {
            AtPath::Same => {
                let is_cut = std::fs::metadata(&self.path).is_ok_and(|now| now.len() < self.bytes);
                is_cut.then(|| Problem::Cut(self.path.clone()))
            }
            AtPath::Other | AtPath::Nothing => Some(Problem::Missing(self.path.clone())),
        }
    }
}

impl Presence {
    /// Of files that were just opened, that with the bits among them.
    ///
    /// # Errors
    /// Of statx.
    pub(super) fn of(files: &OverlayFiles, bits: &Path, persistent: bool) -> io::Result<Presence> {
        let elsewhere = bits != files.map();
        let paths = [
            Some(files.map()),
            elsewhere.then(|| bits.to_owned()),
            persistent.then(|| files.records()),
        ];
        Ok(Presence {
            files: paths
                .into_iter()
                .flatten()
                .map(Opened::of)
                .collect::<io::Result<_>>()?,
            bits: bits.to_owned(),
            problem: Mutex::default(),
        })
    }

    /// Where the bits are.
    pub(super) fn bits(&self) -> &Path {
        &self.bits
    }

    /// Looks for them; what is wrong is told once. True: the file with the bits was cut. May wait for a disk.
    pub(super) fn look(&self) -> bool {
        let now = self.files.iter().find_map(Opened::look);
        let before = std::mem::replace(&mut *self.problem.lock(), now.clone());
        if let Some(problem) = now.as_ref().filter(|_| before.is_none()) {
            tracing::error!("{problem}");
        }
        now == Some(Problem::Cut(self.bits.clone()))
    }

    /// What the last look found.
    pub(super) fn health(&self) -> Health {
        match &*self.problem.lock() {
            None => Health::Healthy,
            Some(problem) => Health::Degraded(problem.to_string()),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, what) = match self {
            Problem::Missing(path) => (path, "was deleted, renamed or replaced"),
            Problem::Cut(path) => (path, "was cut short"),
        };
        write!(
            f,
            "{}: {what}: the copy is served until xblade ends, and cannot be opened again",
            path.display()
        )
    }
}
