//! Standard output, which may be closed at any time: `xblade bench eth1 | head -1`.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

use anyhow::{Context as _, Result};

/// Whoever read standard output has enough. Not worth a word: see [`super::run`].
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(super) struct Closed;

/// What went wrong is in what standard output has said already: with `--json` no object is to follow.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Shown(pub(super) String);

/// Writes to standard output.
///
/// # Errors
/// [`Closed`] when nobody reads it any more, and what else may happen, such as a full disk.
pub(super) fn print(text: impl Display) -> Result<()> {
    bytes(text.to_string().as_bytes())
}

/// The same for a line, whose end is added.
///
/// # Errors
/// As [`print()`].
pub(super) fn line(text: impl Display) -> Result<()> {
    print(format_args!("{text}\n"))
}

/// The same for any bytes.
///
/// # Errors
/// As [`print()`].
pub(super) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        result => result.context("cannot write to standard output"),
    }
}
