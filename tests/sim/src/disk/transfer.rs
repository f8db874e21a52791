//! Operations of a disk that take their time.

use std::io;

use aoe_common::wire::SECTOR_BYTES;
use engine::{Completion, CompletionHandle as _, Durability, Event, Fault, FaultKind, Token};

use super::Disk;
use super::commit::Task;
use crate::bus::{Handle, Note, WorkerId};
use crate::mutants::Mutant;
use store::commit::machine::Epoch;

/// Who waits for an operation.
#[derive(Debug, Clone)]
pub(super) struct Waiter {
    /// Of the worker.
    pub handle: Handle,
    /// The worker's name for it.
    pub token: Token,
    /// The first sector of the store on the disk.
    pub base: u64,
}

impl Waiter {
    /// Ends the operation for its worker.
    pub(super) fn finish(&self, result: Result<Option<Box<[u8]>>, Fault>) {
        self.handle.post(Completion {
            token: self.token,
            event: Event::Finished(result),
        });
    }

    /// Has the worker repeat the call.
    pub(super) fn again(&self) {
        self.handle.post(Completion {
            token: self.token,
            event: Event::Again,
        });
    }

    /// A failure at a sector of the disk.
    pub(super) fn fault(&self, kind: FaultKind, sector: u64) -> Fault {
        Fault {
            kind,
            lba: sector.saturating_sub(self.base),
            source: io::Error::other("as simulated"),
        }
    }
}

/// A write past the page cache.
#[derive(Debug, Clone)]
pub(super) struct Write {
    /// Its place among the disk's stores.
    pub store: usize,
    /// First sector on the disk.
    pub first: u64,
    /// The sectors' bytes.
    pub bytes: Vec<u8>,
    /// When it counts as done.
    pub durability: Durability,
    /// When it began.
    pub entered: Epoch,
    /// Who waits.
    pub waiter: Waiter,
    /// What it covers in part only.
    pub blocks: Vec<(usize, u64)>,
}

impl Write {
    fn end(&self) -> u64 {
        self.first + (self.bytes.len() / SECTOR_BYTES) as u64
    }

    /// What it was asked for, without what it reads around that.
    pub(super) fn sectors(&self) -> std::ops::Range<u64> {
        self.first..self.end()
    }
}

/// What a read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its bytes.
    Bytes,
    /// READ VERIFY.
    Verify,
    /// A write of a part of its pages.
    Write,
}

/// An operation under way.
#[derive(Debug)]
pub(super) enum Operation {
    /// A read; `again`: into the page cache, and the worker repeats the call.
    Read {
        first: u64,
        count: u64,
        waiter: Waiter,
        again: bool,
        purpose: Purpose,
    },
    /// A write that takes its blocks from the given one on.
    Take(Box<Write>, usize),
    /// A write that has its blocks and reads around itself.
    Around(Box<Write>),
    /// A write that puts bytes to the medium: from this sector on these.
    Put(Box<Write>, u64, Vec<u8>),
    /// A committer begins with the group that waits.
    Begin(usize),
    /// It has put all dirty data on its way.
    Middle(usize),
    /// It is done.
    End(usize),
    /// The kernel writes dirty pages back by itself.
    WriteBack,
}

impl Operation {
    /// The worker whose ring carries it out.
    fn worker(&self) -> Option<WorkerId> {
        match self {
            Operation::Read { waiter, .. } => Some(waiter.handle.worker()),
            Operation::Take(write, _) | Operation::Around(write) | Operation::Put(write, ..) => {
                Some(write.waiter.handle.worker())
            }
            _ => None,
        }
    }

    /// Sectors that it will touch, and whether it writes.
    fn span(&self) -> Option<(u64, u64, bool)> {
        match self {
            Operation::Read {
                first,
                count,
                again: false,
                ..
            } => Some((*first, first + count, false)),
            Operation::Take(write, _) | Operation::Around(write) | Operation::Put(write, ..) => {
                Some((write.first, write.end(), true))
            }
            // Into the page cache: the sectors are read later.
            _ => None,
        }
    }
}

impl Disk {
    /// Whether a worker has anything under way, of a process that has ended, too.
    pub fn has_transfers(&self) -> bool {
        self.operations
            .values()
            .any(|operation| operation.worker().is_some())
    }

    /// Transfers that a worker has under way: its end must wait for them.
    pub fn transfers_of(&self, worker: WorkerId) -> usize {
        let transfers = self
            .operations
            .values()
            .filter(|operation| operation.worker() == Some(worker))
            .count();
        transfers
            + self
                .committers
                .iter()
                .map(|committer| committer.writes_of(worker))
                .sum::<usize>()
    }

    /// A worker has ended: what it had under way is over or will never end.
    pub fn forget_worker(&mut self, worker: WorkerId) {
        let gone: Vec<u64> = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.worker() == Some(worker))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            let operation = self.operations.remove(&number);
            let write = match operation {
                Some(Operation::Around(write) | Operation::Put(write, ..)) => write,
                _ => continue,
            };
            if !self.is(Mutant::BlockClosedForEver) {
                self.release(&write);
            }
        }
    }

    /// The engine's promise: nothing overlaps a write under way.
    pub(super) fn check_overlap(&self, first: u64, end: u64, writes: bool, what: &str) {
        let ours = self.operations.values().filter_map(Operation::span);
        let lone = self.committers.iter().flat_map(super::Committer::lone_writes);
        for (from, to, other_writes) in ours.chain(lone) {
            if from < end && first < to && (writes || other_writes) {
                let text = format!("{what} of sectors {first}..{end} while {from}..{to} is under way");
                self.bus.note(Note::Broken(format!("overlap: {text}")));
            }
        }
    }

    /// Goes on with an operation whose time has come.
    pub(super) fn go_on(&mut self, number: u64, operation: Operation) {
        match operation {
            Operation::Read {
                first,
                count,
                waiter,
                again,
                purpose,
            } => self.end_read(first, count, &waiter, again, purpose),
            Operation::Take(write, held) => self.take(number, write, held),
            Operation::Around(write) => {
                let block = self.block();
                let first = write.first - write.first % block;
                let end = write.end().next_multiple_of(block).min(self.sectors);
                let mut bytes =
                    self.seen[first as usize * SECTOR_BYTES..end as usize * SECTOR_BYTES].to_vec();
                let lead = (write.first - first) as usize * SECTOR_BYTES;
                bytes[lead..][..write.bytes.len()].copy_from_slice(&write.bytes);
                let time = self.io_time();
                self.start(Operation::Put(write, first, bytes), time);
            }
            Operation::Put(write, first, bytes) => self.end_write(write, first, &bytes),
            Operation::Begin(store) => self.begin_commit(store),
            Operation::Middle(store) => self.middle_of_commit(store),
            Operation::End(store) => self.end_commit(store),
            Operation::WriteBack => self.write_back(),
        }
    }

    fn end_read(&mut self, first: u64, count: u64, waiter: &Waiter, again: bool, purpose: Purpose) {
        let fault = self.read_fault(first, count, waiter);
        if fault.is_some() && self.is(Mutant::ReadErrorsIgnored) && purpose == Purpose::Bytes {
            return waiter.finish(Ok(Some(vec![0x55; count as usize * SECTOR_BYTES].into())));
        }
        if let Some(mut fault) = fault {
            if purpose == Purpose::Write && fault.kind == FaultKind::Read {
                fault.kind = FaultKind::Write;
            }
            return waiter.finish(Err(fault));
        }
        self.warm
            .extend(first / super::PAGE..(first + count).div_ceil(super::PAGE));
        if again {
            self.granted.insert((waiter.handle.worker(), waiter.token));
            return waiter.again();
        }
        let from = if self.is(Mutant::ReadsTheMedium) {
            &self.durable
        } else {
            &self.seen
        };
        let bytes = from[first as usize * SECTOR_BYTES..][..count as usize * SECTOR_BYTES].into();
        waiter.finish(Ok((purpose == Purpose::Bytes).then_some(bytes)));
    }

    pub(super) fn read_fault(&self, first: u64, count: u64, waiter: &Waiter) -> Option<Fault> {
        if self.faults.gone {
            return Some(waiter.fault(FaultKind::Gone, first));
        }
        let end = first + count;
        if end > self.sectors() {
            return Some(waiter.fault(FaultKind::Read, first.max(self.sectors())));
        }
        let (bad, bad_end) = self.faults.bad_reads?;
        (bad < end && first < bad_end).then(|| waiter.fault(FaultKind::Read, first.max(bad)))
    }

    /// The first sector that does not take a write now.
    pub(super) fn write_fault(&self, first: u64, count: u64, waiter: &Waiter) -> Option<Fault> {
        if self.faults.gone {
            return Some(waiter.fault(FaultKind::Gone, first));
        }
        let end = first + count;
        if end > self.sectors() {
            return Some(waiter.fault(FaultKind::Write, first.max(self.sectors())));
        }
        if let Some((bad, bad_end)) = self.faults.bad_writes
            && bad < end
            && first < bad_end
        {
            return Some(waiter.fault(FaultKind::Write, first.max(bad)));
        }
        let untouched = |sector: &u64| self.value(*sector, self.seen(*sector)) <= crate::stamp::INITIAL;
        let no_space = (first..end).find(untouched).filter(|_| self.faults.full)?;
        Some(waiter.fault(FaultKind::Write, no_space))
    }

    /// Takes the blocks that a write covers in part, one after the other, then reads around it.
    fn take(&mut self, number: u64, write: Box<Write>, held: usize) {
        let Some(&block) = write.blocks.get(held) else {
            let time = self.io_time();
            self.start(Operation::Around(write), time);
            return;
        };
        let taken = self.is(Mutant::BlocksNotTaken) || self.blocks.take(block, number);
        if taken {
            self.take(number, write, held + 1);
        } else {
            // Under its own number, so that the block finds it.
            self.operations.insert(number, Operation::Take(write, held));
        }
    }

    fn release(&mut self, write: &Write) {
        for &block in &write.blocks {
            // Whoever waited may be gone: then it is the next one's turn.
            while let Some(next) = self.blocks.release(block) {
                if let Some(Operation::Take(write, held)) = self.operations.remove(&next) {
                    self.take(next, write, held + 1);
                    break;
                }
            }
        }
    }

    fn end_write(&mut self, write: Box<Write>, first: u64, bytes: &[u8]) {
        let count = (write.bytes.len() / SECTOR_BYTES) as u64;
        let worker = write.waiter.handle.worker();
        let fault = self.write_fault(write.first, count, &write.waiter);
        // A commit that failed meanwhile may have taken it down.
        let at_once = write.durability == Durability::WriteBack
            && !self.is_late(write.store)
            && write.entered == self.committers[write.store].epoch();
        match &fault {
            // Some of it may have been taken.
            Some(fault) if fault.kind == FaultKind::Write => {
                let taken = (fault.lba + write.waiter.base).saturating_sub(write.first);
                let bytes = write.bytes[..taken as usize * SECTOR_BYTES].to_vec();
                self.apply(write.first, &bytes, false, worker);
            }
            Some(_) => {}
            None => self.apply(first, bytes, at_once, worker),
        }
        self.release(&write);
        match fault {
            Some(fault) => write.waiter.finish(Err(fault)),
            None if at_once => {
                self.note_write(write.store);
                write.waiter.finish(Ok(None));
            }
            // It is answered there, or refused at once.
            None => {
                let task = Task::Write(write.first, write.entered);
                self.commit(write.store, write.waiter, task);
            }
        }
    }
}
