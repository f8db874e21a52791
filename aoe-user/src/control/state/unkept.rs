//! Marks of lost writes that could not be written: the disk that lost them is often the one with the state directory.
//!
//! A file in the directory holds room for one. Where that does not help, the mark is tried again until it is kept, the operator
//! accepts the loss, or the process ends.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tracing::{error, info};

use super::key::StateKey;
use super::{StateDir, StateDirError};
use crate::control::guard::guard;
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
    /// Held while a mark is written, so that the latest one stays. A disk may be at that for ever.
    writing: Mutex<()>,
    /// Never held while anything waits for a disk. Locked after `writing`.
    losses: Mutex<Losses>,
    reserve: PathBuf,
}

#[derive(Debug, Default)]
struct Losses {
    by_key: BTreeMap<StateKey, LostWrites>,
    /// A thread tries.
    is_tried: bool,
}

impl Unkept {
    /// For a directory in which room is reserved, as far as there is any.
    pub(super) fn new(dir: &Path) -> Unkept {
        let unkept = Unkept {
            writing: Mutex::default(),
            losses: Mutex::default(),
            reserve: dir.join(RESERVE),
        };
        unkept.reserve_room();
        unkept
    }

    /// Makes the file that holds room, where there is none.
    pub(super) fn reserve_room(&self) {
        let reserve = &self.reserve;
        let is_there = reserve
            .symlink_metadata()
            .is_ok_and(|meta| meta.is_file() && meta.len() == RESERVE_BYTES as u64);
        if !is_there {
            let _ = std::fs::remove_file(reserve);
            if fill(reserve).is_err() {
                let _ = std::fs::remove_file(reserve);
            }
        }
    }

    /// The loss of an export that is not kept, or is being written.
    pub(super) fn get(&self, key: &StateKey) -> Option<LostWrites> {
        self.losses.lock().by_key.get(key).cloned()
    }

    /// The right to write marks.
    pub(super) fn write(&self) -> MutexGuard<'_, ()> {
        self.writing.lock()
    }

    /// It is kept, or the operator has accepted it. False: there was none.
    pub(super) fn forget(&self, key: &StateKey) -> bool {
        self.losses.lock().by_key.remove(key).is_some()
    }

    /// The same, unless it is another by now.
    fn is_kept(&self, key: &StateKey, lost: &LostWrites) -> bool {
        let by_key = &mut self.losses.lock().by_key;
        if by_key.get(key) == Some(lost) {
            by_key.remove(key);
        }
        !by_key.contains_key(key)
    }
}

/// Makes the file that holds room: written, not only made long, which reserves nothing on some file systems.
fn fill(reserve: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(reserve)?;
    file.write_all(&[0; RESERVE_BYTES])?;
    file.sync_all()
}

impl StateDir {
    /// Keeps a loss in mind: on the medium when it returns, or else as soon as that is possible.
    pub(crate) fn keep_loss(self: &Arc<Self>, key: &StateKey, lost: &LostWrites) {
        // First: whoever opens the export while the disk hangs learns of it.
        self.unkept.losses.lock().by_key.insert(key.clone(), lost.clone());
        let writing = self.unkept.write();
        let Some(Err(first)) = self.try_to_keep(key) else {
            return;
        };
        let first = anyhow::Error::from(first);
        if std::fs::remove_file(&self.unkept.reserve).is_ok()
            && self.try_to_keep(key).is_none_or(|kept| kept.is_ok())
        {
            info!(
                "{key}: the lost writes are kept in mind in the room that was reserved for that: {first:#}"
            );
            return;
        }
        drop(writing);
        error!("{key}: the lost writes are not kept in mind beyond a restart yet, trying again: {first:#}");
        self.look_after_losses();
    }

    /// Sees to it that what is not kept is tried again. Does not wait.
    pub(super) fn look_after_losses(self: &Arc<Self>) {
        let mut losses = self.unkept.losses.lock();
        if losses.is_tried || losses.by_key.is_empty() {
            return;
        }
        let dir = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("xblade-marks".into());
        // Where there is none: this is asked again.
        losses.is_tried = thread.spawn(move || try_again(&dir)).is_ok();
    }

    /// Writes the mark of what is not kept of an export; `None`: there is nothing. Whoever calls this has [`Unkept::write`].
    fn try_to_keep(&self, key: &StateKey) -> Option<Result<(), StateDirError>> {
        loop {
            let lost = self.unkept.get(key)?;
            let written = self.mark_lost(key, &lost);
            // A larger one may have come meanwhile.
            if written.is_err() || self.unkept.is_kept(key, &lost) {
                return Some(written);
            }
        }
    }

    /// Whether the loss of an export would be forgotten at a restart. Does not wait: a disk may be at the writing of marks for ever.
    pub(crate) fn has_unkept(&self, key: &StateKey) -> bool {
        self.unkept.get(key).is_some()
    }

    /// Tries once more to keep what is not; true: all of it is.
    pub(crate) fn keep_losses(&self) -> bool {
        let _writing = self.unkept.write();
        let keys: Vec<StateKey> = self.unkept.losses.lock().by_key.keys().cloned().collect();
        for key in keys {
            if let Some(Ok(())) = self.try_to_keep(&key) {
                info!("{key}: the lost writes are kept in mind now");
            }
        }
        let mut losses = self.unkept.losses.lock();
        let all = losses.by_key.is_empty();
        losses.is_tried &= !all;
        all
    }
}

fn try_again(dir: &Weak<StateDir>) {
    let [mut pause, longest] = PAUSES;
    loop {
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
        // A panic is a try that failed.
        let keeps = |dir: Arc<StateDir>| guard("keeping lost writes in mind", || dir.keep_losses());
        if dir.upgrade().is_none_or(|dir| keeps(dir).unwrap_or(false)) {
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
    fn nobody_who_asks_waits_for_a_mark_that_is_being_written() {
        let temp = tempfile::tempdir().unwrap();
        let key: StateKey = "1.1".parse().unwrap();
        let dir = StateDir::open(temp.path(), Before::Unknown).unwrap();
        // As if a disk hung under a mark.
        let hanging = dir.unkept.write();
        std::thread::scope(|scope| {
            scope.spawn(|| dir.keep_loss(&key, &lost()));
            while !dir.has_unkept(&key) {
                std::thread::yield_now();
            }
            assert_eq!(
                dir.lost_writes(&key, true),
                Some(lost()),
                "an export that is opened"
            );
            dir.look_after_losses();
            drop(hanging);
        });
        while dir.has_unkept(&key) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(dir.lost_writes(&key, true), Some(lost()), "on the medium");
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

    #[test]
    fn a_later_loss_is_not_overwritten_by_an_earlier_one() {
        let temp = tempfile::tempdir().unwrap();
        let key: StateKey = "1.1".parse().unwrap();
        let (dir, block) = blocked(temp.path(), &key);
        dir.keep_loss(&key, &lost());
        std::fs::remove_dir_all(block).unwrap();
        let larger = LostWrites {
            extent: Extent { lba: 0, count: 99 },
            ..lost()
        };
        dir.keep_loss(&key, &larger);
        assert!(dir.keep_losses());
        assert_eq!(dir.lost_writes(&key, true), Some(larger));
    }

    #[test]
    fn room_is_reserved_in_a_file_of_our_own() {
        let temp = tempfile::tempdir().unwrap();
        let (elsewhere, reserve) = (temp.path().join("precious"), temp.path().join("state/reserve"));
        std::fs::write(&elsewhere, "data").unwrap();
        std::fs::create_dir(temp.path().join("state")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &reserve).unwrap();
        drop(StateDir::open(&temp.path().join("state"), Before::Unknown).unwrap());
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "data");
        let made = reserve.symlink_metadata().unwrap();
        assert!(made.is_file() && made.len() == RESERVE_BYTES as u64);
        std::fs::remove_file(&reserve).unwrap();
        nix::unistd::mkfifo(&reserve, nix::sys::stat::Mode::S_IRWXU).unwrap();
        drop(StateDir::open(&temp.path().join("state"), Before::Unknown).unwrap());
        assert!(
            reserve.symlink_metadata().unwrap().is_file(),
            "nobody waits for a writer"
        );
    }
}
