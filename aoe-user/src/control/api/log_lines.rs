//! The last lines of the log, in the words of the control socket.

use serde::{Deserialize, Serialize};

/// The result of [`super::types::Request::LogLines`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogLines {
    /// The number of the latest line.
    pub last: u64,
    /// What is still kept of those asked for, the oldest first.
    pub lines: Vec<LogLine>,
}

/// One line of the log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Counted from the start of the process.
    pub number: u64,
    /// When, in seconds since 1970.
    pub time: f64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// The line.
    pub text: String,
}
