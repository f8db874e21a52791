//! Completions in plain memory, numbered by whoever makes them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Completion, CompletionHandle, Completions};

type Queue = Mutex<VecDeque<Completion>>;

/// A worker's completions: what was posted, first in, first out.
#[derive(Debug, Default)]
pub struct MemCompletions(Arc<Queue>);

/// Posts to a [`MemCompletions`].
#[derive(Clone, Debug)]
pub struct MemHandle(Arc<Queue>);

impl MemCompletions {
    /// An empty queue.
    pub fn new() -> MemCompletions {
        MemCompletions::default()
    }
}

impl Completions for MemCompletions {
    type Handle = MemHandle;

    fn handle(&self) -> MemHandle {
        MemHandle(Arc::clone(&self.0))
    }

    fn next(&mut self) -> Option<Completion> {
        self.0.lock().pop_front()
    }
}

impl CompletionHandle for MemHandle {
    fn post(&self, completion: Completion) {
        self.0.lock().push_back(completion);
    }
}

impl PartialEq for MemHandle {
    fn eq(&self, other: &MemHandle) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for MemHandle {}
