//! Requests to pause or resume that are under way: who is answered when what has ended.

use std::collections::HashSet;

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
    pub(crate) answer: ControlAnswer,
}

/// What is being done.
#[derive(Debug)]
pub(in crate::control) enum PauseStep {
    /// To these openings.
    Pause(HashSet<ExportId>),
    /// Those that are not served again yet.
    Resume(HashSet<ExportId>),
    /// As that, of what the pause that failed has made silent, and why it failed.
    Undo(HashSet<ExportId>, String),
}
