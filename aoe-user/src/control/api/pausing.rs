//! Requests to pause or resume that are under way: who is answered when what has ended.

use std::collections::HashSet;
use std::time::Duration;

use super::socket::ControlAnswer;
use crate::control::pauses::Key;
use crate::control::plan::ExportId;

/// A request to pause or resume that is under way.
#[derive(Debug)]
pub(in crate::control) struct Pausing {
    /// By which its events name it.
    pub(crate) number: u64,
    pub(crate) keys: Vec<Key>,
    pub(crate) step: PauseStep,
    /// Nobody asked for the end of a pause that ends by itself.
    pub(crate) answer: Option<ControlAnswer>,
}

/// What is being done.
#[derive(Debug)]
pub(in crate::control) enum PauseStep {
    /// To these openings, for so long.
    Pause(HashSet<ExportId>, Option<Duration>),
    /// Those that are not served again yet.
    Resume(HashSet<ExportId>),
    /// As that, of what the pause that failed has made silent, and why it failed.
    Undo(HashSet<ExportId>, String),
}
