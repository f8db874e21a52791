//! What the committer is given: a medium, who waits and for what.

use std::io;

use engine::{Extent, Fault, FaultKind, SECTOR_BYTES, Token};

use super::machine::{Epoch, Wish};
use crate::handle::{Owed, QueueHandle};
use crate::io::transfer::Transfer;

/// What the thread does to the medium; a file, or a fake in tests.
pub(crate) trait Medium: Send + Sync + std::fmt::Debug {
    /// Puts everything written so far on the medium. Only the committer calls it: the kernel tells each open file of an error once.
    fn commit(&self) -> io::Result<()>;

    /// Sectors that are gone because somebody cut the file short, since this was asked last.
    fn take_cut(&self) -> Option<Extent> {
        None
    }

    /// Whether [`Medium::take_cut`] would find some now.
    fn is_cut(&self) -> bool {
        false
    }

    /// The operator has accepted that these sectors are gone: what was noted of the same cut since is no new one.
    fn forget_cut(&self, _accepted: Extent) {}

    /// Logs and counts a failure, and gives the fault to answer with.
    fn fault(&self, lba: u64, source: io::Error) -> Fault;

    /// Sectors served now.
    fn sectors(&self) -> u64;

    /// For the thread's name.
    fn name(&self) -> String;

    /// For the log.
    fn describe(&self) -> String {
        self.name()
    }
}

/// A write whose payload waits for the thread that commits.
pub(crate) trait UnmadeWrite: Send + std::fmt::Debug {
    /// The sector that a failure is about.
    fn lba(&self) -> u64;

    /// Makes it; waits for the disk, if it must.
    ///
    /// # Errors
    /// The fault to answer with, logged and counted.
    fn make(&mut self, medium: &dyn Medium) -> Result<(), Fault>;
}

/// An [`UnmadeWrite`] that is one transfer to the file.
#[derive(Debug)]
pub(crate) struct UnmadeTransfer {
    transfer: Transfer,
    lba: u64,
}

impl UnmadeTransfer {
    /// Of a write that begins at sector `lba` of the export.
    pub(crate) fn new(transfer: Transfer, lba: u64) -> UnmadeTransfer {
        UnmadeTransfer { transfer, lba }
    }
}

impl UnmadeWrite for UnmadeTransfer {
    fn lba(&self) -> u64 {
        self.lba + self.transfer.done as u64 / SECTOR_BYTES
    }

    fn make(&mut self, medium: &dyn Medium) -> Result<(), Fault> {
        self.transfer.run();
        match self.transfer.shortfall() {
            None => Ok(()),
            Some(error) => Err(medium.fault(self.lba(), error)),
        }
    }
}

/// Who waits for a commit. Answered with a fault if it is dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    owed: Owed,
    pub(crate) task: Task,
}

/// What is waited for.
#[derive(Debug)]
pub(crate) enum Task {
    /// A durable write or a TRIM, already in the page cache or the medium's; its first sector, and its stamp.
    Write(u64, Epoch),
    /// A durable write yet to be made, before the commit.
    LoneWrite(Box<dyn UnmadeWrite>),
    /// All that was acknowledged.
    Flush,
}

impl Task {
    /// The sector that a failure is about.
    pub(super) fn lba(&self) -> u64 {
        match self {
            Task::Write(lba, _) => *lba,
            Task::LoneWrite(write) => write.lba(),
            Task::Flush => 0,
        }
    }

    pub(super) fn wish(&self) -> Wish {
        match self {
            Task::Write(_, epoch) => Wish::Made(*epoch),
            Task::LoneWrite(..) => Wish::Unmade,
            Task::Flush => Wish::Flush,
        }
    }
}

impl Waiter {
    /// The operation `token` of the queue behind `handle`.
    pub(crate) fn new(handle: QueueHandle, token: Token, task: Task) -> Waiter {
        Waiter {
            owed: Owed::new(handle, token, FaultKind::Write),
            task,
        }
    }

    pub(super) fn post(self, result: Result<(), Fault>) {
        self.owed.finish(result);
    }
}
