//! A write of parts of blocks: take the blocks, read them, put the sectors in, write them back, release.

use std::sync::Arc;

use crate::completion_queue::CompletionQueue;
use crate::direct::{Core, Stamp};
use crate::fetch::read_fault;
use crate::io::buffer::Buffer;
use crate::io::transfer::{Continuation, Direction, Transfer};
use engine::{Completion, Completions as _, Event, Extent, Fault, FaultKind, Token};

/// The write, between its steps.
#[derive(Debug)]
pub(crate) struct PartialWrite {
    core: Arc<Core>,
    token: Token,
    extent: Extent,
    stamp: Stamp,
    /// The sectors to be written.
    data: Buffer,
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
        core: &Arc<Core>,
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
            stage: Stage::Taking(0),
        };
        let around = write.core.disk.alignment.around(&write.core.disk.bytes(extent));
        let buffer = Buffer::new(
            (around.end - around.start) as usize,
            write.core.disk.alignment.memory,
        );
        let file = write.core.disk.backing.file();
        let transfer = Transfer::new(file, around.start, Direction::Read, buffer);
        Box::new(write).take(queue, transfer, 0);
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
    fn take(mut self: Box<Self>, queue: &mut CompletionQueue, transfer: Transfer, held: usize) {
        match self.blocks().nth(held) {
            Some(block) => {
                self.stage = Stage::Taking(held + 1);
                let core = Arc::clone(&self.core);
                if let Some((transfer, continuation)) =
                    core.place.blocks.take(block, (transfer, self), queue.handle())
                {
                    // It is ours at once: go on as if it had been handed over.
                    continuation.ended(queue, transfer);
                }
            }
            None => {
                self.stage = Stage::Reading;
                queue.start(transfer, self);
            }
        }
    }

    fn write(mut self: Box<Self>, queue: &mut CompletionQueue, read: Transfer) {
        let disk = &self.core.disk;
        let lead = (disk.backing.position(self.extent.lba) - read.position) as usize;
        let mut buffer = read.buffer;
        buffer.gather(lead, &[self.data.bytes()]);
        let transfer = Transfer::new(disk.backing.file(), read.position, Direction::Write, buffer);
        self.stage = Stage::Writing;
        queue.start(transfer, self);
    }

    /// Others may have the blocks now, also while this write waits for its commit.
    fn finish(&self, queue: &mut CompletionQueue, fault: Option<Fault>) -> Option<Completion> {
        for block in self.blocks() {
            self.core.place.blocks.release(block);
        }
        match fault {
            Some(fault) => Some(Completion {
                token: self.token,
                event: Event::Finished(Err(fault)),
            }),
            None => self.core.written(queue, self.token, self.extent, self.stamp),
        }
    }
}

impl Continuation for PartialWrite {
    fn ended(self: Box<Self>, queue: &mut CompletionQueue, transfer: Transfer) -> Option<Completion> {
        match self.stage {
            Stage::Taking(held) => {
                self.take(queue, transfer, held);
                None
            }
            Stage::Reading => match read_fault(&self.core.disk.backing, &transfer, FaultKind::Write) {
                Some(mut fault) => {
                    fault.lba = fault.lba.max(self.extent.lba);
                    self.finish(queue, Some(fault))
                }
                None => {
                    self.write(queue, transfer);
                    None
                }
            },
            Stage::Writing => {
                let fault = self.core.disk.write_fault(&transfer, self.extent);
                self.finish(queue, fault)
            }
        }
    }
}
