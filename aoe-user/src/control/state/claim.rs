//! The files of a request of `xblade state`, and the right to carry it out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::sealed::seal;
use super::{Files, StateDirError, StateKey, files, names_in};

/// Of a request and of its answer.
pub(super) const VERSION: u32 = 1;
/// How long a daemon has to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// The extension of a request that is being carried out.
const TAKEN: &str = "taken";

pub(super) fn request_path(dir: &Path, key: &StateKey) -> PathBuf {
    dir.join(format!("{key}.request"))
}

pub(super) fn taken_path(dir: &Path, key: &StateKey) -> PathBuf {
    dir.join(format!("{key}.{TAKEN}"))
}

pub(super) fn answer_path(dir: &Path, key: &StateKey) -> PathBuf {
    dir.join(format!("{key}.answer"))
}

/// Whether there is a request, taken or not, or an answer that somebody may still be waiting for.
pub(super) fn is_awaited(path: &Path) -> bool {
    let written = std::fs::symlink_metadata(path).and_then(|file| file.modified());
    // One from the future was written before the clock was set.
    written.is_ok_and(|written| written.elapsed().unwrap_or_default() <= TIMEOUT)
}

/// The right to carry out a request. Dropped without an answer it lets the request wait again.
///
/// It has the files, not the directory with its writer: the writer's own thread answers, and must not end the writer.
pub(super) struct Claim {
    files: Arc<Files>,
    key: StateKey,
    is_answered: bool,
}

impl Claim {
    /// Of the request that waits; `None`: there is none, any more.
    pub(super) fn of(files: &Arc<Files>, key: &StateKey) -> Option<Claim> {
        std::fs::rename(request_path(&files.dir, key), taken_path(&files.dir, key)).ok()?;
        Some(Claim {
            files: Arc::clone(files),
            key: key.clone(),
            is_answered: false,
        })
    }

    /// Tells whoever asked what became of it.
    pub(super) fn answer(mut self, outcome: Result<(), String>) {
        self.is_answered = true;
        let (dir, key) = (&self.files.dir, &self.key);
        let taken = taken_path(dir, key);
        let result = match is_awaited(&taken) {
            true => leave_answer(&taken, &answer_path(dir, key), outcome),
            // An answer that nobody reads would keep others from asking.
            false => std::fs::remove_file(&taken),
        };
        if let Err(error) = result {
            tracing::warn!("cannot answer `xblade state` about {key}: {error}");
            let _ = std::fs::remove_file(&taken);
        }
    }
}

/// The claim becomes the answer in one step, so that whoever has read it can ask again at once.
fn leave_answer(taken: &Path, answer: &Path, outcome: Result<(), String>) -> std::io::Result<()> {
    let body = serde_json::to_string(&outcome.err()).expect("a text has a JSON form");
    files::replace(taken, &seal("answer", VERSION, &body))?;
    std::fs::rename(taken, answer)
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_answered {
            let (dir, key) = (&self.files.dir, &self.key);
            let (taken, request) = (taken_path(dir, key), request_path(dir, key));
            // Where it fails, a new request has come or the file is gone: whoever asked is told that it has begun.
            let _ = renameat_with(CWD, &taken, CWD, &request, RenameFlags::NOREPLACE);
        }
    }
}

/// Removes what a process that is gone was carrying out, for the one that has the directory now.
pub(super) fn remove_left(dir: &Path) -> Result<(), StateDirError> {
    let names = names_in(dir)?;
    for (path, _) in names
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|it| it == TAKEN))
    {
        std::fs::remove_file(path).map_err(StateDirError::io("remove", path))?;
    }
    Ok(())
}
