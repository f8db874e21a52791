//! What a store does when a transfer has ended.

use std::sync::Arc;

use crate::commit::{Committer, Task};
use crate::io::device::Device;
use crate::io::transfer::{Direction, Transfer};
use engine::{Completion, Token};

/// How an operation goes on after one of its transfers.
#[derive(Debug)]
pub(crate) enum Next {
    /// It has ended.
    Done(Completion),
    /// With another transfer, on the same device.
    Start(Transfer, Box<dyn Continuation>),
    /// With the next commit, whose end is the operation's.
    Commit(Arc<Committer>, Token, Task),
    /// It waits somewhere, and comes back through its queue's [`Returns`](crate::io::returns::Returns).
    Parked,
}

/// Who is asked when a transfer has ended: on the queue that started it.
pub(crate) trait Continuation: Send + std::fmt::Debug {
    /// The transfer begins now: until then it waited for its turn. By whoever carries it out, which may be another thread. Told again
    /// where nothing of it was done and all of it is done anew.
    fn begins(&mut self) {}

    /// How the operation goes on.
    fn ended(self: Box<Self>, transfer: Transfer) -> Next;
}

/// A transfer with what follows it.
#[derive(Debug)]
pub(crate) struct PendingTransfer {
    pub(crate) device: Arc<Device>,
    pub(crate) transfer: Transfer,
    pub(crate) continuation: Box<dyn Continuation>,
}

impl PendingTransfer {
    /// Whether it may have to wait for the file system's journal, so that no worker may start it.
    pub(crate) fn waits_for_journal(&self) -> bool {
        self.transfer.direction == Direction::Write && !self.device.writes_nowait
    }

    /// The transfer, or what is left of it, is handed over now.
    pub(crate) fn begins(&mut self) {
        if self.transfer.done == 0 {
            self.continuation.begins();
        }
    }
}
