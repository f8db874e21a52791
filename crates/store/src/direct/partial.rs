//! A write of parts of blocks: take the blocks, read them, put the sectors in, write them back, release.

use std::sync::Arc;

use crate::completion_queue::CompletionQueue;
use crate::direct::disk::{DirectCore, Stamp};
use crate::fetch::read_fault;
use crate::io::buffer::Buffer;
use crate::io::continuation::{Continuation, Next, PendingTransfer};
use crate::io::returns::Returns;
use crate::io::transfer::{Direction, Transfer};
use engine::{Completion, Event, Extent, Fault, FaultKind, Token};

/// The write, between its steps.
#[derive(Debug)]
pub(crate) struct PartialWrite {
    core: Arc<DirectCore>,
    token: Token,
    extent: Extent,
    stamp: Stamp,
    /// The sectors to be written.
    data: Buffer,
    /// Where it comes back from a wait for a block.
    returns: Returns,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Holds the first so many of its blocks.
    Taking(usize),
    Reading,
    Writing,
}

impl PartialWrite {
    /// Starts it. The file has all of the blocks.
    pub(crate) fn start(
        queue: &mut CompletionQueue,
        core: &Arc<DirectCore>,
        token: Token,
        extent: Extent,
        data: Buffer,
        stamp: Stamp,
    ) {
        let write = PartialWrite {
            core: Arc::clone(core),
            token,
            extent,
            stamp,
            data,
            returns: queue.returns(),
            stage: Stage::Taking(0),
        };
        let around = write.core.disk.alignment.around(&write.core.disk.bytes(extent));
        let buffer = Buffer::new(
            (around.end - around.start) as usize,
            write.core.disk.alignment.memory,
        );
        let file = write.core.disk.backing.file();
        let transfer = Transfer::new(file, around.start, Direction::Read, buffer);
        let device = Arc::clone(core.disk.backing.device());
        match Box::new(write).take(transfer, 0) {
            Next::Start(transfer, write) => queue.start(&device, transfer, write),
            _ => queue.expect_back(),
        }
    }

    /// The blocks that it covers in part: the first, the last, or both, in ascending order.
    fn blocks(&self) -> impl Iterator<Item = u64> + use<> {
        let alignment = self.core.disk.alignment;
        let bytes = self.core.disk.bytes(self.extent);
        let first = (!bytes.start.is_multiple_of(alignment.block)).then_some(bytes.start / alignment.block);
        let last = (!bytes.end.is_multiple_of(alignment.block)).then_some(bytes.end / alignment.block);
        first.into_iter().chain(last.filter(|last| first != Some(*last)))
    }

    /// Takes its blocks from the `held`th on, then reads. Waits parked, if it must.
    fn take(mut self: Box<Self>, transfer: Transfer, held: usize) -> Next {
        let Some(block) = self.blocks().nth(held) else {
            self.stage = Stage::Reading;
            return Next::Start(transfer, self);
        };
        self.stage = Stage::Taking(held + 1);
        let (core, returns) = (Arc::clone(&self.core), self.returns.clone());
        let pending = PendingTransfer {
            device: Arc::clone(core.disk.backing.device()),
            transfer,
            continuation: self,
        };
        match core.place.blocks.take(block, pending, returns) {
            // It is ours at once: go on as if it had been handed over.
            Some(pending) => pending.continuation.ended(pending.transfer),
            None => Next::Parked,
        }
    }

    fn write(mut self: Box<Self>, read: Transfer) -> Next {
        // Refused by now, perhaps.
        if let Err(fault) = self.core.committer.enter(self.extent.lba) {
            return self.finish(Some(fault));
        }
        let disk = &self.core.disk;
        let lead = (disk.backing.position(self.extent.lba) - read.position) as usize;
        let mut buffer = read.buffer;
        buffer.gather(lead, &[self.data.bytes()]);
        let transfer = Transfer::new(disk.backing.file(), read.position, Direction::Write, buffer);
        self.stage = Stage::Writing;
        Next::Start(transfer, self)
    }

    /// Others may have the blocks now, also while this write waits for its commit.
    fn finish(&self, fault: Option<Fault>) -> Next {
        for block in self.blocks() {
            self.core.place.blocks.release(block);
        }
        match fault {
            Some(fault) => Next::Done(Completion {
                token: self.token,
                event: Event::Finished(Err(fault)),
            }),
            None => self.core.written(self.token, self.extent, self.stamp),
        }
    }
}

impl Continuation for PartialWrite {
    fn begins(&mut self) {
        if self.stage == Stage::Writing {
            self.stamp.renew(&self.core.committer, self.extent);
        }
    }

    fn ended(self: Box<Self>, transfer: Transfer) -> Next {
        match self.stage {
            Stage::Taking(held) => self.take(transfer, held),
            Stage::Reading => match read_fault(&self.core.disk.backing, &transfer, FaultKind::Write) {
                Some(mut fault) => {
                    fault.lba = fault.lba.max(self.extent.lba);
                    self.finish(Some(fault))
                }
                None => self.write(transfer),
            },
            Stage::Writing => {
                let fault = self.core.disk.write_fault(&transfer, self.extent);
                self.finish(fault)
            }
        }
    }
}
