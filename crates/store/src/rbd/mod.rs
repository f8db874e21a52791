//! The `rbd` store: an image in a Ceph cluster, through librbd.
//!
//! Every operation is deferred: librbd calls back from a thread of its own, which leaves the end on the worker's queue. No operation
//! has a time limit, so that a cluster that does not answer is silence on the wire, never an error. The image is written under its
//! exclusive lock; when that is lost, or Ceph shuts the client out, the store is fenced for good and whoever opened it opens it anew.

mod clones;
pub(crate) mod cluster;
mod error;
mod fence;
mod ffi;
mod keeper;
mod opening;
mod options;
mod parts;
mod path;
#[cfg(test)]
mod tests;
mod unconnected;
mod withheld;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engine::{
    Completion, CompletionHandle as _, Completions as _, Durability, Event, Extent, Fault, FaultKind, Health,
    SECTOR_BYTES, Step, Store, Token, Traits,
};
use parking_lot::{Mutex, RwLock};

use crate::completion_queue::CompletionQueue;
use crate::metadata::Metadata;
use crate::options::{StoreError, StoreOptions, served_sectors};
use crate::rbd::cluster::Clients;
use crate::rbd::error::Errno;
use crate::rbd::fence::{OutstandingOperation, Shared};
use crate::rbd::ffi::{Operation, RawImage};
use crate::rbd::keeper::{Keeper, Seen, Wakeup};
use crate::rbd::opening::OpenedImage;
use crate::rbd::parts::Parts;

pub use clones::{CLONE_PINNED, RbdClone, RbdClones, pinned_text};
pub use error::LoadError;
pub(crate) use fence::OnFence;
pub use opening::{RbdImage, available, inspect};
pub use options::{CephOptions, LockOf, Takeover};
pub use path::RbdPath;

/// How often the end of what is under way is looked for when a store is closed.
const CLOSE_PACE: Duration = Duration::from_millis(2);
/// Bytes of one part of a READ VERIFY.
const VERIFY_BYTES: u64 = 1 << 20;
/// Bytes of one part of a TRIM: librbd refuses more than 2 GiB.
const TRIM_BYTES: u64 = 1 << 30;

/// Serves an image, or a range of it.
#[derive(Debug)]
pub(crate) struct RbdStore {
    /// `None` after [`Store::close`].
    opened: RwLock<Option<Arc<OpenedImage>>>,
    /// It is being closed: what cannot be carried out any more gets no answer.
    closing: AtomicBool,
    keeper: Mutex<Option<Keeper>>,
    shared: Arc<Shared>,
    seen: Arc<Seen>,
    options: StoreOptions,
    read_only: bool,
    zeroes_after_trim: bool,
    sectors_read: AtomicU64,
    sectors_written: AtomicU64,
    sectors_trimmed: AtomicU64,
}

impl RbdStore {
    /// Connects, opens and locks. Blocks for as long as the cluster takes.
    ///
    /// # Errors
    /// As [`crate::open()`]; also without Ceph's libraries.
    pub(crate) fn open(
        options: &StoreOptions,
        clients: &Clients,
        told: Option<OnFence>,
    ) -> Result<RbdStore, StoreError> {
        let path = opening::parse(&options.path)?;
        let read_only = options.read_only || path.snapshot.is_some();
        let wakeup = Arc::new(Wakeup::default());
        let on_change = Arc::clone(&wakeup);
        let opened = opening::open(
            options,
            clients,
            &path,
            read_only,
            Box::new(move || on_change.changed()),
        )?;
        let failed = |doing| move |errno| opening::failure(&path, doing, errno);
        let bytes = opened.image.bytes().map_err(failed.clone()("reading its size"))?;
        served_sectors(&options.path, bytes, options.offset, options.length)?;
        let in_force = opened
            .image
            .options()
            .map_err(failed("reading librbd's options for it"))?;
        let skips_parts = in_force
            .iter()
            .any(|(name, value)| name == "rbd_skip_partial_discard" && value != "false");
        let opened = Arc::new(opened);
        let lease = options.takeover.as_ref().map(|takeover| takeover.lease);
        let shared = Arc::new(Shared::new(Arc::clone(&opened.cluster.client), told, lease));
        let seen = Arc::new(Seen {
            bytes: AtomicU64::new(bytes),
            gone: AtomicBool::new(false),
        });
        let keeper = Keeper::start(
            Arc::clone(&opened),
            !read_only,
            wakeup,
            Arc::clone(&shared),
            Arc::clone(&seen),
        )
        .map_err(|error| StoreError::system(&options.path, "starting a thread", error))?;
        Ok(RbdStore {
            opened: RwLock::new(Some(opened)),
            closing: AtomicBool::new(false),
            keeper: Mutex::new(Some(keeper)),
            shared,
            seen,
            options: options.clone(),
            read_only,
            zeroes_after_trim: !skips_parts,
            sectors_read: AtomicU64::new(0),
            sectors_written: AtomicU64::new(0),
            sectors_trimmed: AtomicU64::new(0),
        })
    }

    /// Judges an extent; its place in the image, in bytes.
    fn place(&self, extent: Extent, kind: FaultKind) -> Result<u64, Fault> {
        if extent.end() > self.served() {
            return Err(Fault::outside(kind, extent));
        }
        if kind == FaultKind::Write && self.read_only {
            let source = io::Error::from_raw_os_error(libc::EROFS);
            return Err(Fault {
                kind,
                lba: extent.lba,
                source,
            });
        }
        if self.seen.gone.load(Ordering::Acquire) {
            // librbd reads what is missing as zeros.
            return Err(self
                .shared
                .fault(FaultKind::Gone, extent.lba, Errno(libc::ENOENT)));
        }
        Ok((self.options.offset + extent.lba) * SECTOR_BYTES)
    }

    fn served(&self) -> u64 {
        let bytes = self.seen.bytes.load(Ordering::Acquire);
        let rest = (bytes / SECTOR_BYTES).saturating_sub(self.options.offset);
        match self.options.length {
            0 => rest,
            length => rest.min(length),
        }
    }

    /// Has librbd start something.
    fn start(
        &self,
        (kind, lba): (FaultKind, u64),
        submit: impl FnOnce(&RawImage) -> Result<(), Errno>,
    ) -> Result<(), Fault> {
        let opened = self.opened.read();
        let image = opened.as_ref().map(|opened| &opened.image);
        let started = image.map_or(Err(Errno(libc::EBADF)), submit);
        started.map_err(|errno| self.shared.fault(kind, lba, errno))
    }

    /// Has librbd start the parts of one operation.
    fn start_parts(
        &self,
        parts: &Arc<Parts>,
        (kind, lba): (FaultKind, u64),
        (operation, buffer): (Operation, Box<[u8]>),
    ) {
        let (pending, part) = (OutstandingOperation::new(&self.shared), parts.part());
        let done = move |result: Result<Box<[u8]>, Errno>| part.end(pending.end(result, kind, lba).map(drop));
        // What cannot be started has an end of its own: some parts may be under way already.
        if let Err(fault) = self.start((kind, lba), |image| {
            image.start(operation, buffer, Box::new(done))
        }) {
            parts.failed(fault);
        }
    }

    /// Whether what is kept beside the sectors may be changed through it.
    pub(crate) fn keeps_metadata(&self) -> bool {
        !self.read_only
    }

    /// Asks the cluster something about the image. Blocks.
    fn ask<T>(&self, question: impl FnOnce(&RawImage) -> Result<T, Errno>) -> io::Result<T> {
        // Counted as under way: the image is not closed meanwhile. Workers are not kept waiting by the lock.
        let pending = OutstandingOperation::new(&self.shared);
        let Some(opened) = self.opened.read().clone() else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        let answer = question(&opened.image);
        drop(opened);
        pending
            .end(answer, FaultKind::Write, 0)
            .map_err(|fault| fault.source)
    }

    /// Lets go of the image. Waits for what librbd has, however long.
    fn let_go(&self) {
        // Before anything fails for want of an image.
        self.closing.store(true, Ordering::Release);
        self.shared.ends();
        let Some(mut opened) = self.opened.write().take() else {
            return;
        };
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.end();
        }
        while self.shared.in_flight() > 0 {
            std::thread::sleep(CLOSE_PACE);
        }
        // The lock goes with the image: from here on nothing tells that it is lost.
        self.shared.tell_nobody();
        // Nobody else holds it: the keeper has ended, and workers borrow it under the lock.
        debug_assert!(
            Arc::get_mut(&mut opened).is_some(),
            "an open image is held elsewhere"
        );
        drop(opened);
    }
}

impl Drop for RbdStore {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Store<CompletionQueue> for RbdStore {
    fn sectors(&self) -> u64 {
        self.served()
    }

    /// As the image's watch has told: asking would block.
    fn refresh(&self) -> io::Result<u64> {
        if self.seen.gone.load(Ordering::Acquire) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        Ok(self.served())
    }

    fn traits(&self) -> Traits {
        Traits {
            trim: !self.read_only,
            zeroes_after_trim: !self.read_only && self.zeroes_after_trim,
            physical_exponent: 3,
        }
    }

    fn read(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        _: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        let kind = FaultKind::Read;
        let at = self.place(extent, kind)?;
        let (pending, handle) = (OutstandingOperation::new(&self.shared), queue.handle());
        let done = move |result| {
            let event = Event::Finished(pending.end(result, kind, extent.lba).map(Some));
            pending.deliver(move || handle.post(Completion { token, event }));
        };
        let len = (extent.count * SECTOR_BYTES) as usize;
        self.start((kind, extent.lba), |image| {
            image.start(Operation::Read(at), zeros(len), Box::new(done))
        })?;
        self.sectors_read.fetch_add(extent.count, Ordering::Relaxed);
        Ok(Step::Later)
    }

    /// Durable or not: an answered write is on all replicas.
    fn write(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        _: Durability,
    ) -> Result<Step, Fault> {
        let kind = FaultKind::Write;
        let at = self.place(extent, kind)?;
        let (pending, handle) = (OutstandingOperation::new(&self.shared), queue.handle());
        let done = move |result| {
            let event = Event::Finished(pending.end(result, kind, extent.lba).map(|_| None));
            pending.deliver(move || handle.post(Completion { token, event }));
        };
        let data = from.concat().into_boxed_slice();
        self.start((kind, extent.lba), |image| {
            image.start(Operation::Write(at), data, Box::new(done))
        })?;
        self.sectors_written.fetch_add(extent.count, Ordering::Relaxed);
        Ok(Step::Later)
    }

    fn flush(&self, queue: &mut CompletionQueue, token: Token) -> Result<Step, Fault> {
        if self.read_only {
            return Ok(Step::Done);
        }
        let parts = Parts::new(&self.shared, queue.handle(), token);
        self.start_parts(&parts, (FaultKind::Write, 0), (Operation::Flush, Box::default()));
        Ok(Step::Later)
    }

    fn trim(&self, queue: &mut CompletionQueue, token: Token, extents: &[Extent]) -> Result<Step, Fault> {
        let kind = FaultKind::Write;
        let places = extents.iter().map(|extent| self.place(*extent, kind));
        let places = places.collect::<Result<Vec<u64>, Fault>>()?;
        let parts = Parts::new(&self.shared, queue.handle(), token);
        let sectors = extents.iter().map(|extent| extent.count).sum();
        self.sectors_trimmed.fetch_add(sectors, Ordering::Relaxed);
        for (extent, start) in extents.iter().zip(places) {
            for (at, len) in cut(start, extent.count * SECTOR_BYTES, TRIM_BYTES) {
                let operation = (Operation::Discard(at, len), Box::default());
                self.start_parts(&parts, (kind, extent.lba), operation);
            }
        }
        Ok(Step::Later)
    }

    fn verify(&self, queue: &mut CompletionQueue, token: Token, extent: Extent) -> Result<Step, Fault> {
        let kind = FaultKind::Read;
        let start = self.place(extent, kind)?;
        let parts = Parts::new(&self.shared, queue.handle(), token);
        for (at, len) in cut(start, extent.count * SECTOR_BYTES, VERIFY_BYTES) {
            let lba = extent.lba + (at - start) / SECTOR_BYTES;
            let operation = (Operation::Read(at), zeros(len as usize));
            self.start_parts(&parts, (kind, lba), operation);
        }
        Ok(Step::Later)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("faults", self.shared.faults()),
            ("in_flight", self.shared.in_flight() as u64),
            ("sectors_read", self.sectors_read.load(Ordering::Relaxed)),
            ("sectors_written", self.sectors_written.load(Ordering::Relaxed)),
            ("sectors_trimmed", self.sectors_trimmed.load(Ordering::Relaxed)),
        ]
    }

    fn is_silenced(&self) -> bool {
        self.closing.load(Ordering::Acquire) || self.shared.is_silenced()
    }

    fn is_unheard(&self) -> bool {
        self.shared.has_lapsed() && !self.shared.is_fenced()
    }

    fn health(&self) -> Health {
        match self.shared.has_lapsed() {
            true => Health::Silent("Ceph does not answer; nor does this gateway until it does".to_owned()),
            false => Health::Healthy,
        }
    }

    fn close(&self) -> io::Result<()> {
        self.let_go();
        Ok(())
    }
}

impl Metadata for RbdStore {
    fn get(&self, name: &str) -> io::Result<Option<String>> {
        self.ask(|image| image.metadata(name))
    }

    fn set(&self, name: &str, text: &str) -> io::Result<()> {
        self.ask(|image| image.set_metadata(name, text))
    }
}

/// Memory to read into.
fn zeros(len: usize) -> Box<[u8]> {
    vec![0; len].into_boxed_slice()
}

/// Bytes in pieces of at most `most`: where each begins, and how long it is.
fn cut(start: u64, len: u64, most: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len)
        .step_by(most as usize)
        .map(move |at| (start + at, most.min(len - at)))
}
