//! Marks of lost writes that could not be written: the disk that lost them is often the one with the state directory.
//!
//! A file in the directory holds room for one. Where that does not help, the mark is tried again until it is kept, the operator
//! accepts the loss, or the process ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{error, info};

use super::StateDir;
use super::key::StateKey;
use crate::store::LostWrites;

/// The file that holds room.
const RESERVE: &str = "reserve";
/// More than a mark with some history takes.
const RESERVE_BYTES: usize = 16 << 10;
/// Pauses between two tries: the first, and the longest.
const PAUSES: [Duration; 2] = match cfg!(test) {
    true => [Duration::from_millis(5), Duration::from_millis(20)],
    false => [Duration::from_secs(1), Duration::from_secs(30)],
};

/// What is not kept yet.
#[derive(Debug)]
pub(super) struct Unkept {
    marks: Mutex<BTreeMap<StateKey, LostWrites>>,
    reserve: PathBuf,
}

impl Unkept {
    /// For a directory in which room is reserved, as far as there is any.
    pub(super) fn new(dir: &Path) -> Unkept {
        let reserve = dir.join(RESERVE);
        let is_there = reserve
            .metadata()
            .is_ok_and(|meta| meta.len() == RESERVE_BYTES as u64);
        // Written, not only made longer: on some file systems that reserves nothing.
        if !is_there && std::fs::write(&reserve, [0; RESERVE_BYTES]).is_err() {
            let _ = std::fs::remove_file(&reserve);
        }
        Unkept {
            marks: Mutex::default(),
            reserve,
        }
    }

    pub(super) fn get(&self, key: &StateKey) -> Option<LostWrites> {
        self.marks.lock().get(key).cloned()
    }

    /// The operator accepts a loss; true: it was one of these.
    pub(super) fn forget(&self, key: &StateKey) -> bool {
        self.marks.lock().remove(key).is_some()
    }
}

impl StateDir {
    /// Keeps a loss in mind: on the medium when it returns, or else as soon as that is possible.
    pub(crate) fn keep_loss(self: &Arc<Self>, key: &StateKey, lost: &LostWrites) {
        let Err(first) = self.mark_lost(key, lost) else {
            return;
        };
        if std::fs::remove_file(&self.unkept.reserve).is_ok() && self.mark_lost(key, lost).is_ok() {
            info!(
                "{key}: the lost writes are kept in mind in the room that was reserved for that: {first:#}"
            );
            return;
        }
        let first = anyhow::Error::from(first);
        error!("{key}: the lost writes are not kept in mind beyond a restart yet, trying again: {first:#}");
        let mut marks = self.unkept.marks.lock();
        let is_tried = !marks.is_empty();
        marks.insert(key.clone(), lost.clone());
        drop(marks);
        let dir = Arc::downgrade(self);
        if !is_tried
            && let Err(error) = std::thread::Builder::new()
                .name("xblade-marks".into())
                .spawn(move || try_again(&dir))
        {
            error!("no thread to try it again, only at the end: {error}");
        }
    }

    /// Whether the loss of an export would be forgotten at a restart.
    pub(crate) fn has_unkept(&self, key: &StateKey) -> bool {
        self.unkept.get(key).is_some()
    }

    /// Tries once more to keep what is not; true: all of it is.
    pub(crate) fn keep_losses(&self) -> bool {
        let marks = self.unkept.marks.lock().clone();
        for (key, lost) in marks {
            // Held meanwhile: what the operator accepts must not come back.
            let mut marks = self.unkept.marks.lock();
            if marks.get(&key) == Some(&lost) && self.mark_lost(&key, &lost).is_ok() {
                info!("{key}: the lost writes are kept in mind now");
                marks.remove(&key);
            }
        }
        self.unkept.marks.lock().is_empty()
    }
}

fn try_again(dir: &Weak<StateDir>) {
    let [mut pause, longest] = PAUSES;
    loop {
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
        if dir.upgrade().is_none_or(|dir| dir.keep_losses()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Before;
    use super::*;
    use crate::store::Extent;

    fn lost() -> LostWrites {
        LostWrites {
            extent: Extent { lba: 8, count: 16 },
            cause: "No space left on device".to_owned(),
            stopped: true,
        }
    }

    /// A directory in which nothing can be written where `key`'s mark has its place.
    fn blocked(temp: &Path, key: &StateKey) -> (Arc<StateDir>, PathBuf) {
        let dir = StateDir::open(temp, Before::Unknown).unwrap();
        let block = temp.join(format!("{key}.lost-writes.new"));
        std::fs::create_dir_all(block.join("in the way")).unwrap();
        (dir, block)
    }

    #[test]
    fn a_mark_that_cannot_be_written_is_tried_again() {
        let temp = tempfile::tempdir().unwrap();
        let key: StateKey = "1.1".parse().unwrap();
        let (dir, block) = blocked(temp.path(), &key);
        dir.keep_loss(&key, &lost());
        assert!(dir.has_unkept(&key));
        assert_eq!(dir.lost_writes(&key, true), Some(lost()), "known all the same");
        std::fs::remove_dir_all(block).unwrap();
        while dir.has_unkept(&key) {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(dir);
        // The thread that tried lets go of the directory a moment later.
        let dir = loop {
            match StateDir::open(temp.path(), Before::Unknown) {
                Err(super::super::StateDirError::InUse { .. }) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                dir => break dir.unwrap(),
            }
        };
        assert_eq!(dir.lost_writes(&key, true), Some(lost()));
    }

    #[test]
    fn a_loss_that_was_accepted_does_not_come_back() {
        let temp = tempfile::tempdir().unwrap();
        let key: StateKey = "1.1".parse().unwrap();
        let (dir, block) = blocked(temp.path(), &key);
        dir.keep_loss(&key, &lost());
        assert!(dir.accept_lost(&key).unwrap());
        std::fs::remove_dir_all(block).unwrap();
        assert!(dir.keep_losses());
        assert_eq!(dir.lost_writes(&key, true), None);
    }
}
