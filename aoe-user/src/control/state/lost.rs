//! The mark of an export whose acknowledged writes were lost: it outlives the process, until the operator accepts the loss; that is
//! kept, too.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::files::{self, FoundFile};
use super::key::StateKey;
use super::sealed::{seal, unseal};
use super::{StateDir, StateDirError, names_in};
use crate::store::{Extent, LostWrites};

/// What the files' names end with.
pub(super) const EXTENSION: &str = "lost-writes";
const KIND: &str = "lost-writes";
const VERSION: u32 = 1;
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Losses that are remembered after the operator accepted them.
const ACCEPTED_MAX: usize = 16;

/// What a file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marks {
    /// The loss that stands.
    standing: Option<Mark>,
    /// Those that the operator accepted, the last one last.
    accepted: Vec<Mark>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    first_sector: u64,
    sectors: u64,
    cause: String,
    /// Seconds since 1970.
    noticed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<u64>,
}

impl Mark {
    /// Of a loss that is noticed now.
    fn of(lost: &LostWrites) -> Mark {
        Mark {
            first_sector: lost.extent.lba,
            sectors: lost.extent.count,
            cause: lost.cause.clone(),
            noticed: now(),
            accepted: None,
        }
    }

    fn lost(&self, stopped: bool) -> LostWrites {
        LostWrites {
            extent: Extent {
                lba: self.first_sector,
                count: self.sectors,
            },
            cause: self.cause.clone(),
            stopped,
        }
    }
}

impl StateDir {
    /// The loss that stands for an export that is about to be served. A mark that cannot be read is one, of unknown extent.
    pub(crate) fn lost_writes(&self, key: &StateKey, stopped: bool) -> Option<LostWrites> {
        let kept = || Some(self.marks(key).standing?.lost(stopped));
        self.unkept.get(key).or_else(kept)
    }

    /// Writes a mark. On the medium when it returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn mark_lost(&self, key: &StateKey, lost: &LostWrites) -> Result<(), StateDirError> {
        let mut marks = self.marks(key);
        marks.standing = Some(Mark::of(lost));
        self.put_marks(key, &marks)
    }

    /// The operator accepts the loss that stands; false: there is none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn accept_lost(&self, key: &StateKey) -> Result<bool, StateDirError> {
        let _writing = self.unkept.write();
        let mut marks = self.marks(key);
        let Some(mut mark) = marks.standing.take() else {
            return Ok(self.unkept.forget(key));
        };
        if let Some(later) = self.unkept.get(key) {
            mark = Mark::of(&later);
        }
        mark.accepted = Some(now());
        marks.accepted.push(mark);
        let old = marks.accepted.len().saturating_sub(ACCEPTED_MAX);
        marks.accepted.drain(..old);
        self.put_marks(key, &marks)?;
        self.unkept.forget(key);
        Ok(true)
    }

    fn marks(&self, key: &StateKey) -> Marks {
        read(&self.mark_path(key)).unwrap_or_else(|damage| Marks {
            standing: Some(damage),
            accepted: Vec::new(),
        })
    }

    fn put_marks(&self, key: &StateKey, marks: &Marks) -> Result<(), StateDirError> {
        let path = self.mark_path(key);
        self.files.own().map_err(StateDirError::io("write", &path))?;
        let body = serde_json::to_string(marks).expect("texts and numbers have a JSON form");
        files::replace(&path, &seal(KIND, VERSION, &body)).map_err(StateDirError::io("write", &path))
    }

    fn mark_path(&self, key: &StateKey) -> PathBuf {
        self.files.dir.join(format!("{key}.{EXTENSION}"))
    }
}

/// The marks in a file, or what stands for those that cannot be read.
fn read(path: &std::path::Path) -> Result<Marks, Mark> {
    let unreadable = |reason: String| Mark {
        first_sector: 0,
        sectors: u64::MAX >> 9,
        cause: format!("the mark {} cannot be read: {reason}", path.display()),
        noticed: now(),
        accepted: None,
    };
    match files::read(path, FILE_BYTES_MAX) {
        FoundFile::Absent => Ok(Marks::default()),
        FoundFile::NoFile(reason) => Err(unreadable(reason)),
        FoundFile::Failed(error) => Err(unreadable(error.to_string())),
        FoundFile::Bytes(bytes) => {
            let (_, body) = unseal(KIND, VERSION, &bytes).map_err(|error| unreadable(error.to_string()))?;
            serde_json::from_str(body).map_err(|error| unreadable(error.to_string()))
        }
    }
}

/// Losses that stand, by the export's name, in words.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn list(dir: &std::path::Path) -> Result<Vec<(String, String)>, StateDirError> {
    let standing = |(path, name): (PathBuf, String)| {
        let name = name.strip_suffix(EXTENSION)?.strip_suffix('.')?.to_owned();
        let marks = read(&path).unwrap_or_else(|damage| Marks {
            standing: Some(damage),
            accepted: Vec::new(),
        });
        Some((name, marks.standing?.lost(true).to_string()))
    };
    Ok(names_in(dir)?.into_iter().filter_map(standing).collect())
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::Before;
    use super::*;

    #[test]
    fn a_mark_stands_until_it_is_accepted_and_is_remembered_then() {
        let temp = tempfile::tempdir().unwrap();
        let key: StateKey = "1.1-vlan-5".parse().unwrap();
        let lost = LostWrites {
            extent: Extent { lba: 8, count: 16 },
            cause: "Input/output error".to_owned(),
            stopped: true,
        };
        let dir = StateDir::open(temp.path(), Before::Unknown).unwrap();
        assert_eq!(dir.lost_writes(&key, true), None);
        assert!(!dir.accept_lost(&key).unwrap());
        dir.mark_lost(&key, &lost).unwrap();
        drop(dir);
        // Another process.
        let dir = StateDir::open(temp.path(), Before::Unknown).unwrap();
        assert_eq!(dir.lost_writes(&key, true), Some(lost.clone()));
        assert_eq!(
            list(temp.path()).unwrap(),
            [("1.1-vlan-5".to_owned(), lost.to_string())]
        );
        assert!(dir.accept_lost(&key).unwrap());
        assert_eq!(dir.lost_writes(&key, true), None);
        assert_eq!(list(temp.path()).unwrap(), []);
        let kept = read(&dir.mark_path(&key)).unwrap().accepted;
        assert_eq!((kept.len(), kept[0].first_sector), (1, 8));
        assert!(kept[0].accepted.is_some());
    }

    #[test]
    fn a_damaged_mark_is_a_loss() {
        let temp = tempfile::tempdir().unwrap();
        let key: StateKey = "1.1".parse().unwrap();
        let dir = StateDir::open(temp.path(), Before::Unknown).unwrap();
        std::fs::write(dir.mark_path(&key), "nonsense").unwrap();
        let lost = dir.lost_writes(&key, true).unwrap();
        assert!(lost.stopped && lost.cause.contains("1.1.lost-writes"), "{lost}");
        assert!(dir.accept_lost(&key).unwrap());
        assert_eq!(dir.lost_writes(&key, true), None);
    }
}
