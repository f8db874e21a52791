//! Whether the files that say what an overlay's delta holds are still where they were opened. The delta is a store of its own, which knows.

use std::io;
use std::path::PathBuf;

use engine::Health;
use parking_lot::Mutex;

use super::files::OverlayFiles;
use crate::backing::condition::{AtPath, BackingFileId};

/// The files beside the delta, as they were opened.
#[derive(Debug)]
pub(super) struct Presence {
    files: Vec<(PathBuf, BackingFileId)>,
    /// One that is not in its place any more.
    missing: Mutex<Option<PathBuf>>,
}

impl Presence {
    /// Of files that were just opened.
    ///
    /// # Errors
    /// Of statx.
    pub(super) fn of(files: &OverlayFiles, persistent: bool) -> io::Result<Presence> {
        let paths = [Some(files.map()), persistent.then(|| files.records())];
        let known = |path: PathBuf| BackingFileId::at(&path).map(|identity| (path, identity));
        Ok(Presence {
            files: paths
                .into_iter()
                .flatten()
                .map(known)
                .collect::<io::Result<_>>()?,
            missing: Mutex::default(),
        })
    }

    /// Looks for them; one that is gone is told once. May wait for a disk.
    pub(super) fn look(&self) {
        let gone = |(path, identity): &&(PathBuf, BackingFileId)| identity.look(path) != AtPath::Same;
        let now = self.files.iter().find(gone).map(|(path, _)| path.clone());
        let before = std::mem::replace(&mut *self.missing.lock(), now.clone());
        if let Some(path) = now.filter(|_| before.is_none()) {
            tracing::error!("{}", missing(&path));
        }
    }

    /// What the last look found.
    pub(super) fn health(&self) -> Health {
        match &*self.missing.lock() {
            None => Health::Healthy,
            Some(path) => Health::Degraded(missing(path)),
        }
    }
}

fn missing(path: &std::path::Path) -> String {
    format!(
        "{}: was deleted, renamed or replaced: the copy is served until xblade ends, and cannot be opened again",
        path.display()
    )
}
