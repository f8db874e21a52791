//! Where transfers come back to that somebody else had: a thread that carried them out, or a place where they waited.

use std::sync::Arc;

use crossbeam_queue::SegQueue;

use crate::handle::Wake;
use crate::io::continuation::PendingTransfer;

/// The way back to one queue. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Returns {
    pending: Arc<SegQueue<PendingTransfer>>,
    wake: Arc<Wake>,
}

impl Returns {
    /// A way to the worker that `wake` wakes.
    pub(crate) fn new(wake: &Arc<Wake>) -> Returns {
        Returns {
            pending: Arc::default(),
            wake: Arc::clone(wake),
        }
    }

    /// Gives one back and wakes the worker.
    pub(crate) fn push(&self, pending: PendingTransfer) {
        self.pending.push(pending);
        self.wake.wake();
    }

    /// For the worker: whether one is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// For the worker: the next one.
    pub(crate) fn pop(&self) -> Option<PendingTransfer> {
        // Asked first: taking from an empty queue costs a fence.
        if self.is_empty() {
            return None;
        }
        self.pending.pop()
    }
}
