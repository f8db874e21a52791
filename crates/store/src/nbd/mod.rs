//! The `nbd` store: an export of an NBD server, over a socket of this host or the network.
//!
//! Every operation is deferred. None has a time limit: a server that does not answer is silence on the wire, never an error, and so is one
//! that is gone until it is back. What a server has answered and not flushed can be lost with it while xblade goes on, and nobody could
//! tell the initiators; so a write is answered when a flush has covered it, many of them by one flush.

mod address;
mod connecting;
mod handshake;
mod leftover;
mod partial;
mod promises;
mod session;
mod sockets;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod transfer;
mod wire;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use engine::{
    Completion, CompletionHandle as _, Completions as _, Durability, Event, Extent, Fault, FaultKind, Health,
    SECTOR_BYTES, Step, Store, Token, Traits,
};
use parking_lot::Mutex;

use crate::completion_queue::CompletionQueue;
use crate::options::{StoreError, StoreOptions, served_sectors};
use promises::Promises;
use session::{Shared, connect};
use sockets::Sockets;
use table::{NbdOutcome, Work};

pub(crate) use address::NbdAddress;
#[cfg(test)]
pub(crate) use tests::server;

/// log2 of the sectors in the largest physical sector that IDENTIFY can tell of.
const MAX_EXPONENT: u32 = 15;

/// Serves an export of an NBD server, or a range of it.
#[derive(Debug)]
pub(crate) struct NbdStore {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    options: StoreOptions,
    traits: Traits,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What a look at an export shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NbdExport {
    /// Its size in bytes.
    pub bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
}

fn parse(path: &Path) -> Result<NbdAddress, StoreError> {
    NbdAddress::parse(path).map_err(|reason| StoreError::Address {
        path: path.to_owned(),
        reason,
    })
}

/// Asks a server for its export. Blocks for some seconds at most.
///
/// # Errors
/// When there is no such server or export.
pub fn inspect(path: &Path) -> Result<NbdExport, StoreError> {
    let address = parse(path)?;
    let granted = session::ask(&address, &Sockets::default()).map_err(|refusal| refused(path, &refusal))?;
    Ok(NbdExport {
        bytes: granted.bytes,
        read_only: granted.is_read_only(),
    })
}

fn refused(path: &Path, refusal: &handshake::Refusal) -> StoreError {
    StoreError::Nbd {
        path: path.to_owned(),
        reason: refusal.to_string(),
    }
}

impl NbdStore {
    /// Connects. Blocks for some seconds at most.
    ///
    /// # Errors
    /// When there is no such server or export, or it cannot be served as asked.
    pub(crate) fn open(options: &StoreOptions) -> Result<NbdStore, StoreError> {
        let address = parse(&options.path)?;
        let sockets = Sockets::default();
        let connected = connect(&address, &sockets).map_err(|refusal| refused(&options.path, &refusal))?;
        let granted = connected.granted;
        let unfit = |reason: String| StoreError::Nbd {
            path: options.path.clone(),
            reason,
        };
        if granted.is_read_only() && !options.read_only {
            return Err(unfit(
                "the server exports it read-only; say read_only = true (--read-only)".into(),
            ));
        }
        if u64::from(granted.least_block) > SECTOR_BYTES {
            return Err(unfit(format!(
                "the server takes blocks of {} bytes only, and an ATA sector has {SECTOR_BYTES}; have it take smaller ones (qemu: without direct I/O)",
                granted.least_block
            )));
        }
        served_sectors(&options.path, granted.bytes, options.offset, options.length)?;
        let promises = Promises::of(&granted, !options.read_only);
        let sectors = (u64::from(granted.best_block) / SECTOR_BYTES).max(1);
        let traits = Traits {
            trim: promises.trim(),
            zeroes_after_trim: promises.zeroes_after_trim(),
            physical_exponent: sectors.ilog2().min(MAX_EXPONENT) as u8,
        };
        let shared = Arc::new(Shared::new(address, promises, granted.bytes, sockets));
        let runs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("nbd".into())
            .spawn(move || runs.run(connected))
            .map_err(|error| StoreError::system(&options.path, "starting a thread", error))?;
        Ok(NbdStore {
            shared,
            thread: Mutex::new(Some(thread)),
            options: options.clone(),
            traits,
        })
    }

    fn served(&self) -> u64 {
        let sectors = self.shared.bytes.load(Ordering::Acquire) / SECTOR_BYTES;
        let rest = sectors.saturating_sub(self.options.offset);
        match self.options.length {
            0 => rest,
            length => rest.min(length),
        }
    }

    /// Judges an extent; where it begins and ends in the export, in bytes.
    fn place(&self, extent: Extent, kind: FaultKind) -> Result<(u64, u64), Fault> {
        if extent.end() > self.served() {
            return Err(Fault::outside(kind, extent));
        }
        if kind == FaultKind::Write && self.options.read_only {
            let source = io::Error::from_raw_os_error(libc::EROFS);
            let lba = extent.lba;
            return Err(Fault { kind, lba, source });
        }
        let byte = |sector: u64| (self.options.offset + sector) * SECTOR_BYTES;
        Ok((byte(extent.lba), byte(extent.end())))
    }

    /// Has something done whose end goes to the worker's queue.
    fn start(
        &self,
        queue: &CompletionQueue,
        token: Token,
        (kind, lba): (FaultKind, u64),
        work: Work,
    ) -> Step {
        let handle = queue.handle();
        let end = move |outcome: NbdOutcome| {
            let fault = |error: u32| Fault {
                kind,
                lba,
                source: io::Error::from_raw_os_error(error.cast_signed()),
            };
            let event = Event::Finished(outcome.map_err(fault));
            handle.post(Completion { token, event });
        };
        self.shared.add(work, Box::new(end));
        Step::Later
    }

    fn end(&self) {
        self.shared.close();
        let thread = self.thread.lock().take();
        // One that waits for the address of a server's name is left to itself.
        if let Some(thread) = thread.filter(|_| self.shared.has_ended()) {
            // A panic of its own was logged.
            let _ = thread.join();
        }
    }
}

impl Drop for NbdStore {
    fn drop(&mut self) {
        self.end();
    }
}

impl Store<CompletionQueue> for NbdStore {
    fn sectors(&self) -> u64 {
        self.served()
    }

    /// As last heard, and has the server asked again: asking would block.
    fn refresh(&self) -> io::Result<u64> {
        self.shared.ask_size();
        Ok(self.served())
    }

    fn traits(&self) -> Traits {
        self.traits
    }

    fn read(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        _: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        let (at, end) = self.place(extent, FaultKind::Read)?;
        let length = (end - at) as u32;
        Ok(self.start(
            queue,
            token,
            (FaultKind::Read, extent.lba),
            Work::Read { at, length },
        ))
    }

    /// Durable or not: it is answered when it has been flushed.
    fn write(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        _: Durability,
    ) -> Result<Step, Fault> {
        let (at, _) = self.place(extent, FaultKind::Write)?;
        let bytes = from.concat().into();
        Ok(self.start(
            queue,
            token,
            (FaultKind::Write, extent.lba),
            Work::Write { at, bytes },
        ))
    }

    /// Every write that has been answered has been flushed.
    fn flush(&self, _: &mut CompletionQueue, _: Token) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn trim(&self, queue: &mut CompletionQueue, token: Token, extents: &[Extent]) -> Result<Step, Fault> {
        let places = extents.iter().map(|extent| self.place(*extent, FaultKind::Write));
        let work = Work::release(places.collect::<Result<Vec<_>, Fault>>()?);
        let (Some(first), Some(work)) = (extents.first(), work) else {
            return Ok(Step::Done);
        };
        Ok(self.start(queue, token, (FaultKind::Write, first.lba), work))
    }

    fn verify(&self, queue: &mut CompletionQueue, token: Token, extent: Extent) -> Result<Step, Fault> {
        let (at, end) = self.place(extent, FaultKind::Read)?;
        Ok(self.start(
            queue,
            token,
            (FaultKind::Read, extent.lba),
            Work::Verify { at, end },
        ))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.shared.counters()
    }

    fn is_silenced(&self) -> bool {
        self.shared.is_silenced()
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn close(&self) -> io::Result<()> {
        self.end();
        Ok(())
    }
}
