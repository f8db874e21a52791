//! A state directory that was deleted, or whose disk is not mounted, looks like a new one. Only the operator can tell.

use std::io;
use std::path::{Path, PathBuf};

use super::{EXTENSION, StateDirError, index, lost, names_in};

/// What the operator says of a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It may be new.
    Unknown,
    /// It has been used: where it is empty, something is wrong.
    Used,
}

/// Whether a directory is missing or has neither an index nor a state of any release.
pub(super) fn is_unused(dir: &Path) -> Result<bool, StateDirError> {
    let names = match names_in(dir) {
        Err(StateDirError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => return Ok(true),
        names => names?,
    };
    let is_kept = |(_, name): &(PathBuf, String)| {
        name.starts_with(index::FILE) || name.ends_with(EXTENSION) || name.ends_with(lost::EXTENSION)
    };
    Ok(!names.iter().any(is_kept))
}
