//! What a direct store's operations hold on to: the file, how to get at it, and who else is in its blocks.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::backing::Backing;
use crate::borders::FilePlace;
use crate::commit::machine::Epoch;
use crate::commit::{Committer, Task};
use crate::io::continuation::Next;
use crate::io::transfer::Transfer;
use crate::pages::Pages;
use engine::{Completion, Durability, Event, Extent, Fault, FaultKind, SECTOR_BYTES, Token};

/// What the medium wants of direct I/O, in bytes; powers of two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alignment {
    /// Of the memory.
    pub(crate) memory: usize,
    /// Of position and length: the medium's block.
    pub(crate) block: u64,
}

impl Alignment {
    /// The whole blocks that the bytes lie in.
    pub(crate) fn around(self, bytes: &Range<u64>) -> Range<u64> {
        bytes.start - bytes.start % self.block..bytes.end.next_multiple_of(self.block)
    }

    /// The whole blocks inside the bytes.
    pub(crate) fn inside(self, bytes: &Range<u64>) -> Range<u64> {
        bytes.start.next_multiple_of(self.block)..bytes.end - bytes.end % self.block
    }
}

/// What operations under way hold on to.
#[derive(Debug)]
pub(crate) struct DirectCore {
    pub(crate) disk: Arc<Disk>,
    pub(crate) place: Arc<FilePlace>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) partial: AtomicU64,
}

/// How a write is to end, and when it began to enter the medium's cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) durability: Durability,
    pub(crate) entered: Epoch,
}

impl Stamp {
    /// The write begins to enter only now: what failed while it waited has not taken it down. While no writes are taken the old stamp
    /// stays, with which it is refused.
    pub(crate) fn renew(&mut self, committer: &Committer, extent: Extent) {
        if let Ok(entered) = committer.enter(extent.lba) {
            self.entered = entered;
        }
    }
}

/// The file and how to get at it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) backing: Backing,
    pub(crate) alignment: Alignment,
    /// The same file without O_DIRECT, for a last block that the file has in part only.
    pub(crate) buffered: Arc<File>,
}

impl DirectCore {
    /// The end of a write that has reached the medium's cache. A durable one goes on to the next group commit, the
    /// committer sees to the rest.
    ///
    /// Not RWF_DSYNC: on a medium without forced writes (FUA) the kernel then flushes for each write by itself, from
    /// a kernel thread on the CPU that takes the medium's interrupts, and whoever spins there delays that by a tick.
    pub(crate) fn written(&self, token: Token, extent: Extent, stamp: Stamp) -> Next {
        if stamp.durability == Durability::Durable || self.committer.is_late(Instant::now()) {
            let task = Task::Write(extent.lba, stamp.entered);
            return Next::Commit(Arc::clone(&self.committer), token, task);
        }
        fence(Ordering::SeqCst);
        let acknowledged = self.committer.acknowledge(extent, stamp.entered);
        Next::Done(Completion {
            token,
            event: Event::Finished(acknowledged.map(|()| None)),
        })
    }
}

impl Disk {
    /// Where an extent lies in the object, in bytes.
    pub(crate) fn bytes(&self, extent: Extent) -> Range<u64> {
        self.backing.position(extent.lba)..self.backing.position(extent.end())
    }

    /// What kept a write from taking all its bytes.
    pub(crate) fn write_fault(&self, transfer: &Transfer, extent: Extent) -> Option<Fault> {
        let source = transfer.shortfall()?;
        let at = (transfer.position + transfer.done as u64).max(self.backing.position(extent.lba));
        Some(self.backing.fault_at(FaultKind::Write, at, source))
    }
}

impl Pages for Disk {
    fn backing(&self) -> &Backing {
        &self.backing
    }

    fn arrived(&self, _: Extent) {}
}

/// Asks the file (Linux 6.1), else the device; a page where neither says anything. `None` where there is no direct I/O.
pub(crate) fn find_alignment(file: &File) -> Option<Alignment> {
    const PAGE: u64 = 4096;
    if let Ok(stat) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN)
    {
        return (stat.stx_dio_offset_align != 0).then(|| Alignment {
            memory: (stat.stx_dio_mem_align as usize).next_power_of_two(),
            block: u64::from(stat.stx_dio_offset_align).max(SECTOR_BYTES),
        });
    }
    let block = rustix::fs::ioctl_blksszget(file).map_or(PAGE, u64::from);
    Some(Alignment {
        memory: PAGE as usize,
        block,
    })
}
