//! Which persistent copies of a golden image there are, apart from their files: one that is listed and has none is lost.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::files::{self, FoundFile};
use super::key::StateKey;
use super::sealed::{seal, unseal};
use super::{StateDir, StateDirError};

const EXTENSION: &str = "copies";
const KIND: &str = "copies";
const VERSION: u32 = 1;
/// Room for tens of thousands of machines.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copies {
    machines: BTreeSet<String>,
}

impl StateDir {
    /// The machines that have persistent copies on an export's image.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub(crate) fn copies(&self, key: &StateKey) -> Result<BTreeSet<String>, String> {
        let path = self.files.dir.join(format!("{key}.{EXTENSION}"));
        let unreadable = |reason: String| {
            format!(
                "the list of persistent copies {} cannot be read: {reason}; bring it back from a backup, or move it away",
                path.display()
            )
        };
        match files::read(&path, FILE_BYTES_MAX) {
            FoundFile::Absent => Ok(BTreeSet::new()),
            FoundFile::NoFile(reason) => Err(unreadable(reason)),
            FoundFile::Failed(error) => Err(unreadable(error.to_string())),
            FoundFile::Bytes(bytes) => {
                let (_, body) =
                    unseal(KIND, VERSION, &bytes).map_err(|error| unreadable(error.to_string()))?;
                let copies: Copies =
                    serde_json::from_str(body).map_err(|error| unreadable(error.to_string()))?;
                Ok(copies.machines)
            }
        }
    }

    /// Writes that list. On the medium when it returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn keep_copies(
        &self,
        key: &StateKey,
        machines: &BTreeSet<String>,
    ) -> Result<(), StateDirError> {
        let path = self.files.dir.join(format!("{key}.{EXTENSION}"));
        let copies = Copies {
            machines: machines.clone(),
        };
        let body = serde_json::to_string(&copies).expect("texts have a JSON form");
        self.files
            .own()
            .and_then(|()| files::replace(&path, &seal(KIND, VERSION, &body)))
            .map_err(StateDirError::io("write", &path))
    }
}
