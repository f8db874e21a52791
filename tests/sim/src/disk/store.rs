//! A store on a disk, as the engine sees it.

use std::io;
use std::sync::Arc;

use aoe_common::wire::SECTOR_BYTES;
use engine::{Completions as _, Durability, Extent, Fault, FaultKind, Step, Store, Token, Traits};
use parking_lot::Mutex;

use super::commit::{Committer, Task};
use super::transfer::{Operation, Purpose, Waiter, Write};
use super::{Disk, PAGE};
use crate::bus::CompletionQueue;
use crate::mutants::Mutant;
use crate::plan::StoreKind;

/// Sectors of a disk, from `base` on.
#[derive(Debug)]
pub struct SimStore {
    disk: Arc<Mutex<Disk>>,
    /// Its place among the disk's stores.
    place: usize,
    base: u64,
    sectors: u64,
}

impl SimStore {
    /// Puts a store on a disk, for all its lives.
    pub fn add(disk: &Arc<Mutex<Disk>>, flush_interval_ms: u64) -> usize {
        let mut disk = disk.lock();
        disk.committers.push(Committer::new(flush_interval_ms));
        disk.committers.len() - 1
    }

    /// Opens the store at this place.
    pub fn open(disk: &Arc<Mutex<Disk>>, place: usize, base: u64, sectors: u64) -> SimStore {
        disk.lock().commit_leftovers(place);
        SimStore {
            disk: Arc::clone(disk),
            place,
            base,
            sectors,
        }
    }

    fn waiter(&self, queue: &CompletionQueue, token: Token) -> Waiter {
        Waiter {
            handle: queue.handle(),
            token,
            base: self.base,
        }
    }

    fn poisoned(disk: &Disk, place: usize, waiter: &Waiter, first: u64) -> Result<(), Fault> {
        match disk.committers[place].is_poisoned() {
            true => Err(waiter.fault(FaultKind::Write, first)),
            false => Ok(()),
        }
    }

    fn mapped_write(
        &self,
        disk: &mut Disk,
        waiter: Waiter,
        first: u64,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<Step, Fault> {
        let count = (bytes.len() / SECTOR_BYTES) as u64;
        let worker = waiter.handle.worker();
        let repeated = disk.granted.remove(&(worker, waiter.token));
        if !repeated && disk.evict(first, count) {
            // Pages that are written in part have to be read first.
            let time = disk.io_time();
            let first = first - first % PAGE;
            let count = (count + PAGE)
                .next_multiple_of(PAGE)
                .min(disk.sectors() - first.min(disk.sectors()));
            disk.start(
                Operation::Read {
                    first,
                    count,
                    waiter,
                    again: true,
                    purpose: Purpose::Write,
                },
                time,
            );
            return Ok(Step::Later);
        }
        if let Some(fault) = disk.write_fault(first, count, &waiter) {
            return Err(fault);
        }
        let entered = disk.committers[self.place].epoch();
        if durability == Durability::WriteBack && !disk.is_late(self.place) {
            disk.apply(first, bytes, true, worker);
            disk.note_write(self.place);
            return Ok(Step::Done);
        }
        disk.apply(first, bytes, false, worker);
        disk.commit(self.place, waiter, Task::Write(first, entered));
        Ok(Step::Later)
    }

    fn direct_write(
        &self,
        disk: &mut Disk,
        waiter: Waiter,
        first: u64,
        bytes: Vec<u8>,
        durability: Durability,
    ) -> Step {
        let (block, end) = (disk.block(), first + (bytes.len() / SECTOR_BYTES) as u64);
        let table = if disk.is(Mutant::BorderInsideBlock) {
            self.place
        } else {
            0
        };
        let head = (!first.is_multiple_of(block)).then_some(first / block);
        let tail = (!end.is_multiple_of(block))
            .then_some(end / block)
            .filter(|tail| Some(*tail) != head);
        let blocks: Vec<_> = head.into_iter().chain(tail).map(|block| (table, block)).collect();
        let whole = blocks.is_empty();
        let alone = whole && durability == Durability::Durable && disk.committers[self.place].is_quiet();
        let write = Box::new(Write {
            store: self.place,
            entered: disk.committers[self.place].epoch(),
            first,
            bytes,
            durability,
            waiter,
            blocks,
        });
        if alone && disk.random.one_in(2) {
            let waiter = write.waiter.clone();
            disk.commit(self.place, waiter, Task::Lone(write));
            return Step::Later;
        }
        let time = disk.io_time();
        if whole {
            let bytes = write.bytes.clone();
            disk.start(Operation::Put(write, first, bytes), time);
        } else {
            disk.start(Operation::Take(write, 0), 1);
        }
        Step::Later
    }
}

impl Disk {
    /// A store's write-back writes are answered when they are committed: the medium does not keep up.
    pub(super) fn is_late(&self, store: usize) -> bool {
        self.committers[store].is_late(self.bus.now_us())
    }

    /// Sectors of a block of the medium.
    pub(super) fn block(&self) -> u64 {
        match self.kind {
            StoreKind::Mapped => 1,
            StoreKind::Direct { block } => block,
        }
    }
}

impl Store<CompletionQueue> for SimStore {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn refresh(&self) -> io::Result<u64> {
        match self.disk.lock().faults.gone {
            true => Err(io::Error::other("gone")),
            false => Ok(self.sectors),
        }
    }

    fn traits(&self) -> Traits {
        Traits {
            trim: true,
            zeroes_after_trim: self.disk.lock().block() == 1,
            physical_exponent: 3,
        }
    }

    fn read(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        let disk = &mut *self.disk.lock();
        let (first, count) = (self.base + extent.lba, extent.count);
        let waiter = self.waiter(queue, token);
        let worker = waiter.handle.worker();
        let repeated = disk.granted.remove(&(worker, token));
        disk.check_overlap(first, first + count, false, "a read");
        let mapped = disk.kind == StoreKind::Mapped;
        if !mapped || (!repeated && disk.evict(first, count)) {
            let time = disk.io_time();
            let again = mapped && disk.random.one_in(2);
            disk.start(
                Operation::Read {
                    first,
                    count,
                    waiter,
                    again,
                    purpose: Purpose::Bytes,
                },
                time,
            );
            return Ok(Step::Later);
        }
        if let Some(fault) = disk.read_fault(first, count, &waiter) {
            return Err(fault);
        }
        let mut at = first as usize * SECTOR_BYTES;
        for piece in into {
            piece.copy_from_slice(&disk.seen[at..at + piece.len()]);
            at += piece.len();
        }
        Ok(Step::Done)
    }

    fn write(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault> {
        let disk = &mut *self.disk.lock();
        let first = self.base + extent.lba;
        let waiter = self.waiter(queue, token);
        Self::poisoned(disk, self.place, &waiter, first)?;
        disk.check_overlap(first, first + extent.count, true, "a write");
        let bytes = from.concat();
        match disk.kind {
            StoreKind::Mapped => self.mapped_write(disk, waiter, first, &bytes, durability),
            StoreKind::Direct { .. } => Ok(self.direct_write(disk, waiter, first, bytes, durability)),
        }
    }

    fn flush(&self, queue: &mut CompletionQueue, token: Token) -> Result<Step, Fault> {
        let disk = &mut *self.disk.lock();
        let waiter = self.waiter(queue, token);
        Self::poisoned(disk, self.place, &waiter, self.base)?;
        disk.commit(self.place, waiter, Task::Flush);
        Ok(Step::Later)
    }

    fn trim(&self, queue: &mut CompletionQueue, token: Token, extents: &[Extent]) -> Result<Step, Fault> {
        let disk = &mut *self.disk.lock();
        let waiter = self.waiter(queue, token);
        let block = disk.block();
        Self::poisoned(disk, self.place, &waiter, self.base)?;
        // Whole blocks only: the rest of a block may be on its way through another write.
        let whole = |extent: &Extent| {
            let first = (self.base + extent.lba).next_multiple_of(block);
            let end = (self.base + extent.end()) / block * block;
            (first < end).then(|| (first, end - first))
        };
        let spans: Vec<_> = extents.iter().filter_map(whole).collect();
        if let Some(fault) = spans
            .iter()
            .find_map(|(first, count)| disk.write_fault(*first, *count, &waiter))
        {
            return Err(fault);
        }
        for &(first, count) in &spans {
            disk.check_overlap(first, first + count, true, "a trim");
        }
        disk.commit(self.place, waiter, Task::Trim(spans));
        Ok(Step::Later)
    }

    fn verify(&self, queue: &mut CompletionQueue, token: Token, extent: Extent) -> Result<Step, Fault> {
        let disk = &mut *self.disk.lock();
        let time = disk.io_time();
        let waiter = self.waiter(queue, token);
        let (first, count) = (self.base + extent.lba, extent.count);
        disk.start(
            Operation::Read {
                first,
                count,
                waiter,
                again: false,
                purpose: Purpose::Verify,
            },
            time,
        );
        Ok(Step::Later)
    }

    fn close(&self) -> io::Result<()> {
        match self.disk.lock().close_store(self.place) {
            true => Ok(()),
            false => Err(io::Error::other("the last commit failed")),
        }
    }
}
