//! Why a decision of the operator's about a kept state could not be carried out.

use std::path::Path;

use super::key::StateKey;
use super::{Shut, StateDirError, lost};

/// Why a decision could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperatorError {
    /// Nothing to decide about.
    #[error("nothing is kept for {key} in {}{hint}", dir.display())]
    Nothing {
        /// The export.
        key: StateKey,
        /// Where.
        dir: std::path::PathBuf,
        /// What there is of the same address.
        hint: String,
    },
    /// The name of a file to take a state from is none.
    #[error(
        "{0}: a state is adopted by its name in the state directory, as `xblade state list` shows it, without a path"
    )]
    NoName(String),
    /// There is no such file.
    #[error("there is no {} to adopt; `xblade state list` shows what there is", .0.display())]
    NoFile(std::path::PathBuf),
    /// No acknowledged writes are known to be lost.
    #[error("no lost writes of {0} are known")]
    NothingLost(StateKey),
    /// Only all of it can be cleared.
    #[error("{key}: {shut}; only all of it can be cleared, without --mask, --reserve or --string")]
    Unreadable {
        /// The export.
        key: StateKey,
        /// Why it is not known.
        shut: Shut,
    },
    /// The daemon that uses the directory said no.
    #[error("the daemon that uses the state directory refused: {0}")]
    Refused(String),
    /// It said nothing.
    #[error(
        "the daemon that uses the state directory ({0}) did not answer; it is not asked any more, and nothing was changed"
    )]
    NoAnswer(String),
    /// It has begun and can no more be stopped.
    #[error(
        "the daemon that uses the state directory ({0}) has begun to carry it out and has not finished; `xblade state show` \
         tells whether it is done"
    )]
    UnderWay(String),
    /// One at a time.
    #[error("another decision about {0} is under way; try again in a minute")]
    Busy(StateKey),
    /// What keeps the export shut still does.
    #[error(transparent)]
    Shut(#[from] Shut),
    /// A file could not be read or written.
    #[error(transparent)]
    State(#[from] StateDirError),
}

/// What else is kept for the address.
pub(super) fn hint(dir: &Path, key: &StateKey) -> String {
    let address = key.address();
    let same: Vec<String> = super::list(dir)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| entry.name.parse::<StateKey>().ok())
        .filter(|other| other.address() == address && other != key)
        .map(|other| format!("{other} (`{}`)", other.arguments()))
        .collect();
    let mut hint = String::new();
    let marks = lost::list(dir).unwrap_or_default();
    if marks.iter().any(|(name, _)| *name == key.to_string()) {
        let arguments = key.arguments_in(dir);
        hint = format!(
            " but the mark of lost writes, which `xblade state clear {arguments} --lost-writes` takes away"
        );
    }
    if !same.is_empty() {
        hint += &format!("; there is {}", same.join(", "));
    }
    hint
}
