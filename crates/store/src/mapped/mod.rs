//! The `mmap` store: sectors are copied from and to a shared mapping of the file.
//!
//! A request for resident pages is a bounds check, a look at the residency map and a copy. Anything else leaves that
//! path: cold pages, faults, durable writes, and what could wait for the disk: see `writer.rs`.

mod changing;
mod cold;
mod entering;
mod folios;
mod holes;
pub(crate) mod mmap;
pub(crate) mod page_set;
mod page_tables;
pub(crate) mod residency;
pub(crate) mod sigbus;
mod streams;
mod views;
mod wanted;
pub(crate) mod warmup;
pub(crate) mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::views::{Core, extent_bytes};
use self::warmup::WarmUp;
use self::writer::{Cache, Writer};
use crate::backing::Backing;
use crate::commit::machine::Epoch;
use crate::commit::{Committer, Losses, Medium, Task};
use crate::completion_queue::CompletionQueue;
use crate::fetch::{ColdRead, verify};
use crate::options::{StoreError, StoreOptions};
use crate::registry::StoreRegistry;
use crate::trim::trim;
use engine::{Completions as _, Durability, Extent, Fault, FaultKind, Health, Step, Store, Token, Traits};

/// Serves a file or block device through its page cache.
#[derive(Debug)]
pub(crate) struct MappedStore {
    core: Arc<Core>,
    committer: Arc<Committer>,
    writer: Arc<Writer>,
    warm_up: Arc<WarmUp>,
}

impl MappedStore {
    /// Maps what `backing` serves.
    ///
    /// # Errors
    /// [`StoreError::System`] when it cannot be mapped.
    pub(crate) fn new(
        backing: Backing,
        options: &StoreOptions,
        registry: &StoreRegistry,
        losses: Losses,
    ) -> Result<MappedStore, StoreError> {
        let core = Arc::new(Core::new(backing, registry.places())?);
        if core.backing.in_memory() && core.backing.may_ask_residency() {
            registry.warm_up().start(&core);
        }
        let threads = Arc::clone(&core.backing.device().gate.threads);
        let committer = Committer::new(
            Arc::clone(&core) as Arc<dyn Medium>,
            options.policy(losses),
            &threads,
        );
        core.set_committer(&committer);
        let writer = Writer::new(Arc::clone(&core) as Arc<dyn Cache>, &committer, &threads);
        Ok(MappedStore {
            core,
            committer,
            writer,
            warm_up: Arc::clone(registry.warm_up()),
        })
    }

    /// Writes into the page cache without waiting: at once, or by the thread that waits.
    fn write_to_cache(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
        entered: Epoch,
    ) -> Result<Step, Fault> {
        if self.core.write_nowait(extent, from)? {
            return self.written(queue, token, extent, durability, entered);
        }
        self.write_later(queue, token, extent, from, durability)
    }

    /// By a thread that waits, which stamps it when it enters the cache. Without room for a copy of the payload the write waits where it is.
    fn write_later(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault> {
        if durability == Durability::Durable
            && queue.is_idle()
            && self.committer.is_quiet()
            && let Some(write) = self.writer.lone(extent, from)
        {
            // One thread to wake instead of two: the quickest way for a single write.
            queue.commit(&self.committer, token, Task::LoneWrite(Box::new(write)));
        } else if self.writer.admit(|| queue.handle(), token, extent) {
            queue.write(&self.writer, token, extent, from, durability);
        }
        Ok(Step::Later)
    }

    /// The end of a write whose data is in the page cache.
    #[inline]
    fn written(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        durability: Durability,
        entered: Epoch,
    ) -> Result<Step, Fault> {
        if durability == Durability::Durable || self.committer.is_late(queue.now()) {
            queue.commit(&self.committer, token, Task::Write(extent.lba, entered));
            return Ok(Step::Later);
        }
        self.committer.acknowledge(extent, entered)?;
        Ok(Step::Done)
    }
}

impl Drop for MappedStore {
    fn drop(&mut self) {
        self.warm_up.stop(&self.core);
        self.writer.abandon();
        self.committer.abandon();
    }
}

impl Store<CompletionQueue> for MappedStore {
    fn sectors(&self) -> u64 {
        self.core.backing.sectors()
    }

    fn refresh(&self) -> io::Result<u64> {
        self.core.grow()
    }

    fn traits(&self) -> Traits {
        self.core.backing.traits()
    }

    fn read(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        let core = &self.core;
        core.backing.check(extent, FaultKind::Read)?;
        let is_read = match core.find(extent) {
            None => {
                core.recover_later();
                false
            }
            Some((view, epoch)) => match &view.residency {
                Some(residency) if !core.may_touch(residency, view, extent, queue.tick()) => {
                    core.read_untouched((view, epoch), residency, extent, queue.tick(), into)
                }
                None if view.may_have_hole(extent) => core.read_around_holes(view, extent, into),
                _ => core.copy(view, epoch, extent, into),
            },
        };
        if is_read {
            return Ok(Step::Done);
        }
        // By a system call that may wait, which also says what is wrong.
        ColdRead::answer(queue, core, token, extent);
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
        self.core.backing.check(extent, FaultKind::Write)?;
        self.core.backing.check_writable(extent)?;
        // Before the data: a failure from here on takes it down.
        let entered = self.committer.enter(extent.lba)?;
        let core = &self.core;
        let Some((view, epoch)) = core.find(extent) else {
            core.recover_later();
            return self.write_later(queue, token, extent, from, durability);
        };
        let Some(residency) = &view.residency else {
            view.mapping.write(extent_bytes(extent).start, from);
            if view.mapping.intact(epoch) {
                view.note_written(extent);
                return self.written(queue, token, extent, durability, entered);
            }
            // Again, for what may have gone into a page that is not the file's.
            core.recover_later();
            return self.write_later(queue, token, extent, from, durability);
        };
        let pages = view.mapping.pages_of(extent_bytes(extent));
        let hot = residency.is_in_memory(&pages, queue.tick())
            || residency.look(&view.mapping, &pages, queue.tick());
        if core.settle(queue, token, residency, &pages) {
            return Ok(Step::Later);
        }
        if !hot {
            core.cold.fetch_add(1, Ordering::Relaxed);
            if let Some(warm) = core.to_warm(view, residency, &pages, extent) {
                residency.note_absent(&pages);
                ColdRead::before_write(queue, core, token, warm);
                return Ok(Step::Later);
            }
        }
        self.write_to_cache(queue, token, extent, from, durability, entered)
    }

    fn flush(&self, queue: &mut CompletionQueue, token: Token) -> Result<Step, Fault> {
        if self.core.backing.read_only() {
            return Ok(Step::Done);
        }
        queue.commit(&self.committer, token, Task::Flush);
        Ok(Step::Later)
    }

    fn trim(&self, queue: &mut CompletionQueue, token: Token, extents: &[Extent]) -> Result<Step, Fault> {
        for extent in extents {
            self.core.backing.check(*extent, FaultKind::Write)?;
        }
        trim(queue, &self.core, &self.committer, token, extents)?;
        Ok(Step::Later)
    }

    fn verify(&self, queue: &mut CompletionQueue, token: Token, extent: Extent) -> Result<Step, Fault> {
        self.core.backing.check(extent, FaultKind::Read)?;
        verify(queue, &self.core, token, extent, 1);
        Ok(Step::Later)
    }

    fn prefetch(&self, extent: Extent) {
        if extent.end() <= self.sectors() {
            let bytes = extent_bytes(extent);
            self.core.view().mapping.prefetch(bytes.start, bytes.len());
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = vec![
            ("faults", self.core.backing.faults()),
            ("replaced", u64::from(self.core.backing.is_replaced())),
            ("slow", self.core.slow.load(Ordering::Relaxed)),
            ("cold", self.core.cold.load(Ordering::Relaxed)),
            ("folios_changed", self.core.changing.changed()),
        ];
        counters.extend(self.committer.counters());
        counters
    }

    fn look_at_backing(&self) {
        self.core.backing.look();
        self.committer.look_for_cut();
    }

    fn health(&self) -> Health {
        match self.committer.health() {
            Health::Healthy => self.core.backing.health(),
            lost => lost,
        }
    }

    fn uncommitted_us(&self) -> Option<u64> {
        Some(self.committer.uncommitted_us())
    }

    fn accept_lost_writes(&self) {
        self.committer.accept_lost_writes();
    }

    fn close(&self) -> io::Result<()> {
        self.core.backing.device().pool.drain();
        match self.core.backing.read_only() {
            true => Ok(()),
            false => {
                self.writer.close();
                self.committer.close()
            }
        }
    }

    fn unlock(&self) {
        self.core.backing.unlock();
    }
}
