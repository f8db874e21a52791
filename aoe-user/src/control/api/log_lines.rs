//! The last lines of the log, in the words of the control socket.

use serde::{Deserialize, Serialize};

/// The result of [`super::types::ControlRequest::LogLines`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogLines {
    /// The number of the latest line.
    pub(crate) last: u64,
    /// What is still kept of those asked for, the oldest first.
    pub(crate) lines: Vec<LogLine>,
}

/// One line of the log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Counted from the start of the process.
    pub(crate) number: u64,
    /// When, in seconds since 1970.
    pub(crate) time: f64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub(crate) level: String,
    /// The line.
    pub(crate) text: String,
}
