//! The `direct` store: O_DIRECT through the queue's io_uring, past the page cache.
//!
//! For images larger than memory, and for backends with other writers (`shared`), whose changes a page cache here
//! would not see. Every operation is deferred and goes through memory of the store's own, aligned as the medium
//! wants it.

pub(crate) mod blocks;
mod disk;
mod partial;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use crate::backing::{Backing, short_file};
use crate::borders;
use crate::commit::{Committer, Losses, Medium, Task, UnmadeTransfer};
use crate::completion_queue::CompletionQueue;
use crate::direct::disk::{Alignment, DirectCore, Disk, Stamp, find_alignment};
use crate::direct::partial::PartialWrite;
use crate::fetch::verify;
use crate::io::buffer::Buffer;
use crate::io::continuation::{Continuation, Next};
use crate::io::transfer::{Direction, Transfer, copy};
use crate::options::{StoreError, StoreOptions};
use crate::registry::StoreRegistry;
use crate::trim::trim;
use engine::{
    Completion, Durability, Event, Extent, Fault, FaultKind, Health, SECTOR_BYTES, Step, Store, Token, Traits,
};

/// Serves a file or block device without a cache.
#[derive(Debug)]
pub(crate) struct DirectStore {
    core: Arc<DirectCore>,
}

impl DirectStore {
    /// Opens the file with O_DIRECT.
    ///
    /// # Errors
    /// As [`crate::open()`]; also where the file system has no direct I/O.
    pub(crate) fn open(
        options: &StoreOptions,
        registry: &StoreRegistry,
        losses: Losses,
    ) -> Result<DirectStore, StoreError> {
        Self::open_with_block(options, registry, losses, SECTOR_BYTES)
    }

    /// The same with blocks of at least `block` bytes, whatever the medium says.
    pub(crate) fn open_with_block(
        options: &StoreOptions,
        registry: &StoreRegistry,
        losses: Losses,
        block: u64,
    ) -> Result<DirectStore, StoreError> {
        let backing = Backing::open_with(options, registry.disks(), OFlags::DIRECT)?;
        let found =
            find_alignment(backing.file()).ok_or_else(|| StoreError::NoDirect(options.path.clone()))?;
        let alignment = Alignment {
            block: found.block.max(block),
            ..found
        };
        let place = borders::direct(registry.places(), &backing, alignment.block)?;
        // Not by its path: there may be another file by now.
        let buffered = File::options()
            .read(true)
            .write(!options.read_only)
            .open(format!("/proc/self/fd/{}", backing.file().as_raw_fd()))
            .map_err(|error| StoreError::system(&options.path, "opening without O_DIRECT", error))?;
        let disk = Arc::new(Disk {
            backing,
            alignment,
            buffered: Arc::new(buffered),
        });
        let threads = Arc::clone(&disk.backing.device().gate.threads);
        let committer = Committer::new(
            Arc::clone(&disk) as Arc<dyn Medium>,
            options.policy(losses),
            &threads,
        );
        let core = DirectCore {
            disk,
            place,
            committer,
            partial: AtomicU64::new(0),
        };
        Ok(DirectStore { core: Arc::new(core) })
    }

    /// Has another committer answer for what is written, and gives the disk.
    #[cfg(test)]
    pub(crate) fn commit_by(&mut self, committer: &Arc<Committer>) -> &Arc<Disk> {
        let core = Arc::get_mut(&mut self.core).expect("nothing has been written yet");
        core.committer = Arc::clone(committer);
        &self.core.disk
    }

    fn check(&self, extent: Extent, kind: FaultKind) -> Result<(), Fault> {
        let backing = &self.core.disk.backing;
        backing.check(extent, kind)?;
        if kind == FaultKind::Write {
            backing.check_writable(extent)?;
        }
        Ok(())
    }
}

impl Drop for DirectStore {
    fn drop(&mut self) {
        self.core.committer.abandon();
    }
}

/// A read under way.
#[derive(Debug)]
struct DirectRead {
    disk: Arc<Disk>,
    token: Token,
    extent: Extent,
}

impl Continuation for DirectRead {
    fn ended(self: Box<Self>, transfer: Transfer) -> Next {
        let wanted = self.disk.bytes(self.extent);
        let lead = (wanted.start - transfer.position) as usize;
        let end = (wanted.end - transfer.position) as usize;
        // The last block of a file may come in part only; what was asked for is what counts.
        let result = if transfer.error.is_none() && transfer.done >= end {
            Ok(Some(match end - lead == transfer.buffer.len() {
                true => transfer.buffer.into_boxed(),
                false => transfer.buffer.bytes()[lead..end].into(),
            }))
        } else {
            let source = transfer.error.as_ref().map_or_else(short_file, copy);
            let at = (transfer.position + transfer.done as u64).max(wanted.start);
            Err(self.disk.backing.fault_at(FaultKind::Read, at, source))
        };
        Next::Done(Completion {
            token: self.token,
            event: Event::Finished(result),
        })
    }
}

/// A write of whole blocks under way.
#[derive(Debug)]
struct WholeWrite {
    core: Arc<DirectCore>,
    token: Token,
    extent: Extent,
    stamp: Stamp,
}

impl Continuation for WholeWrite {
    fn begins(&mut self) {
        self.stamp.renew(&self.core.committer, self.extent);
    }

    fn ended(self: Box<Self>, transfer: Transfer) -> Next {
        match self.core.disk.write_fault(&transfer, self.extent) {
            Some(fault) => Next::Done(Completion {
                token: self.token,
                event: Event::Finished(Err(fault)),
            }),
            None => self.core.written(self.token, self.extent, self.stamp),
        }
    }
}

impl Store<CompletionQueue> for DirectStore {
    fn sectors(&self) -> u64 {
        self.core.disk.backing.sectors()
    }

    fn refresh(&self) -> io::Result<u64> {
        let backing = &self.core.disk.backing;
        backing.set_sectors(backing.measure()?);
        Ok(backing.sectors())
    }

    fn traits(&self) -> Traits {
        let traits = self.core.disk.backing.traits();
        Traits {
            // Parts of blocks are left as they are, see trim().
            zeroes_after_trim: traits.zeroes_after_trim && self.core.disk.alignment.block == SECTOR_BYTES,
            ..traits
        }
    }

    fn read(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        _: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        self.check(extent, FaultKind::Read)?;
        let disk = Arc::clone(&self.core.disk);
        let around = disk.alignment.around(&disk.bytes(extent));
        let buffer = Buffer::new((around.end - around.start) as usize, disk.alignment.memory);
        let transfer = Transfer::new(disk.backing.file(), around.start, Direction::Read, buffer);
        let device = Arc::clone(disk.backing.device());
        queue.start(&device, transfer, Box::new(DirectRead { disk, token, extent }));
        Ok(Step::Later)
    }

    fn write(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault> {
        self.check(extent, FaultKind::Write)?;
        let entered = self.core.committer.enter(extent.lba)?;
        let stamp = Stamp { durability, entered };
        let disk = &self.core.disk;
        let bytes = disk.bytes(extent);
        let around = disk.alignment.around(&bytes);
        // A write beyond the end would make a file longer that someone cut short, or that ends inside its last
        // block.
        let object_end = disk
            .backing
            .object_bytes()
            .map_err(|error| disk.backing.fault(FaultKind::Write, extent.lba, error))?;
        if bytes.end > object_end {
            let at = bytes.start.max(object_end);
            return Err(disk.backing.fault_at(FaultKind::Write, at, short_file()));
        }
        let whole = around == bytes;
        let memory = if whole { disk.alignment.memory } else { 1 };
        let mut buffer = Buffer::new((bytes.end - bytes.start) as usize, memory);
        buffer.gather(0, from);
        if whole || around.end > object_end {
            let file = if whole {
                disk.backing.file()
            } else {
                &disk.buffered
            };
            let transfer = Transfer::new(file, bytes.start, Direction::Write, buffer);
            if durability == Durability::Durable && queue.is_idle() && self.core.committer.is_quiet() {
                // One thread to wake instead of two, and none of the kernel's: the quickest way for a single write.
                let task = Task::LoneWrite(Box::new(UnmadeTransfer::new(transfer, extent.lba)));
                queue.commit(&self.core.committer, token, task);
                return Ok(Step::Later);
            }
            let core = Arc::clone(&self.core);
            let continuation = WholeWrite {
                core,
                token,
                extent,
                stamp,
            };
            queue.start(disk.backing.device(), transfer, Box::new(continuation));
        } else {
            self.core.partial.fetch_add(1, Ordering::Relaxed);
            PartialWrite::start(queue, &self.core, token, extent, buffer, stamp);
        }
        Ok(Step::Later)
    }

    fn flush(&self, queue: &mut CompletionQueue, token: Token) -> Result<Step, Fault> {
        if self.core.disk.backing.read_only() {
            return Ok(Step::Done);
        }
        queue.commit(&self.core.committer, token, Task::Flush);
        Ok(Step::Later)
    }

    /// Whole blocks only: the rest of a block may be on its way through a partial write.
    fn trim(&self, queue: &mut CompletionQueue, token: Token, extents: &[Extent]) -> Result<Step, Fault> {
        let disk = &self.core.disk;
        let mut whole = Vec::with_capacity(extents.len());
        for extent in extents {
            self.check(*extent, FaultKind::Write)?;
            let inside = disk.alignment.inside(&disk.bytes(*extent));
            if inside.start < inside.end {
                whole.push(Extent {
                    lba: (inside.start - disk.backing.position(0)) / SECTOR_BYTES,
                    count: (inside.end - inside.start) / SECTOR_BYTES,
                });
            }
        }
        trim(queue, disk, &self.core.committer, token, &whole)?;
        Ok(Step::Later)
    }

    fn verify(&self, queue: &mut CompletionQueue, token: Token, extent: Extent) -> Result<Step, Fault> {
        self.check(extent, FaultKind::Read)?;
        let alignment = self.core.disk.alignment;
        let align = alignment.memory.max(alignment.block as usize);
        verify(queue, &self.core.disk, token, extent, align);
        Ok(Step::Later)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = vec![
            ("faults", self.core.disk.backing.faults()),
            ("replaced", u64::from(self.core.disk.backing.is_replaced())),
            ("partial_writes", self.core.partial.load(Ordering::Relaxed)),
        ];
        counters.extend(self.core.committer.counters());
        counters
    }

    fn look_at_backing(&self) {
        self.core.disk.backing.look();
        self.core.committer.look_for_cut();
    }

    fn health(&self) -> Health {
        match self.core.committer.health() {
            Health::Healthy => self.core.disk.backing.health(),
            lost => lost,
        }
    }

    fn uncommitted_us(&self) -> Option<u64> {
        Some(self.core.committer.uncommitted_us())
    }

    fn accept_lost_writes(&self) {
        self.core.committer.accept_lost_writes();
    }

    fn close(&self) -> io::Result<()> {
        self.core.disk.backing.device().pool.drain();
        match self.core.disk.backing.read_only() {
            true => Ok(()),
            false => self.core.committer.close(),
        }
    }

    fn unlock(&self) {
        self.core.disk.backing.unlock();
    }
}
