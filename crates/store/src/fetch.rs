//! Bringing cold pages in without a worker waiting for them, and ahead of a sequential reader.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::backing::{Backing, short_file};
use crate::completion_queue::CompletionQueue;
use crate::handle::Owed;
use crate::io::buffer::Buffer;
use crate::io::continuation::{Continuation, Next};
use crate::io::transfer::{Direction, Transfer, copy};
use crate::pages::Pages;
use engine::{Completion, Completions as _, Event, Extent, Fault, FaultKind, SECTOR_BYTES, Token};

/// How much READ VERIFY reads at a time.
const VERIFY_BYTES: u64 = 256 << 10;

/// The kernel cuts one request to the larger of the device's read-ahead and request sizes; no device has less.
const PREFETCH_BYTES: u64 = 128 << 10;
/// Nothing is read ahead while so many jobs wait for the disk: it has enough to do.
const PREFETCH_JOBS: usize = 16;

/// Brings cold pages in for a request, through the page cache: exactly its sectors.
#[derive(Debug)]
pub(crate) struct ColdRead<O> {
    owner: Arc<O>,
    token: Token,
    extent: Extent,
    /// What the request does.
    kind: FaultKind,
}

impl<O: Pages + 'static> ColdRead<O> {
    /// For a read, whose answer it is.
    pub(crate) fn answer(queue: &mut CompletionQueue, owner: &Arc<O>, token: Token, extent: Extent) {
        ColdRead::start(queue, owner, (token, extent), FaultKind::Read);
    }

    /// For a write, the pages of `extent` that it covers in part only: so that it can be repeated without waiting.
    pub(crate) fn before_write(queue: &mut CompletionQueue, owner: &Arc<O>, token: Token, extent: Extent) {
        ColdRead::start(queue, owner, (token, extent), FaultKind::Write);
    }

    fn start(queue: &mut CompletionQueue, owner: &Arc<O>, (token, extent): (Token, Extent), kind: FaultKind) {
        let (backing, owner) = (owner.backing(), Arc::clone(owner));
        let transfer = reading(backing, extent);
        let device = Arc::clone(backing.device());
        let read = ColdRead {
            owner,
            token,
            extent,
            kind,
        };
        queue.start(&device, transfer, Box::new(read));
    }
}

impl<O: Pages> Continuation for ColdRead<O> {
    fn ended(self: Box<Self>, transfer: Transfer) -> Next {
        let event = match read_fault(self.owner.backing(), &transfer, self.kind) {
            Some(fault) => Event::Finished(Err(fault)),
            None => {
                self.owner.arrived(self.extent);
                match self.kind == FaultKind::Write {
                    true => Event::Again,
                    false => Event::Finished(Ok(Some(transfer.buffer.into_boxed()))),
                }
            }
        };
        Next::Done(Completion {
            token: self.token,
            event,
        })
    }
}

/// A read of these sectors through the page cache.
fn reading(backing: &Backing, extent: Extent) -> Transfer {
    let buffer = Buffer::new((extent.count * SECTOR_BYTES) as usize, 1);
    let position = backing.position(extent.lba);
    Transfer::new(backing.file(), position, Direction::Read, buffer)
}

/// What kept a read from giving all its bytes.
pub(crate) fn read_fault(backing: &Backing, transfer: &Transfer, kind: FaultKind) -> Option<Fault> {
    if transfer.error.is_none() && transfer.done == transfer.buffer.len() {
        return None;
    }
    let source = match &transfer.error {
        Some(error) => copy(error),
        None => short_file(),
    };
    Some(backing.fault_at(kind, transfer.position + transfer.done as u64, source))
}

/// READ VERIFY, on a thread of the store: one piece after the other, thrown away. `align` is what the file's reads need
/// in memory and on the medium, in bytes.
pub(crate) fn verify<O: Pages + 'static>(
    queue: &CompletionQueue,
    owner: &Arc<O>,
    token: Token,
    extent: Extent,
    align: usize,
) {
    let owed = Owed::new(queue.handle(), token, FaultKind::Read);
    let owner = Arc::clone(owner);
    let pool = Arc::clone(&owner.backing().device().pool);
    pool.run(move || {
        let result = read_through(owner.backing(), extent, align);
        drop(owner);
        owed.finish(result);
    });
}

/// Reads all of `extent` and keeps nothing.
fn read_through(backing: &Backing, extent: Extent, align: usize) -> Result<(), Fault> {
    let mut buffer = Buffer::new(VERIFY_BYTES as usize + 2 * align, align);
    let (mut at, end) = (backing.position(extent.lba), backing.position(extent.end()));
    while at < end {
        let stop = end.min(at + VERIFY_BYTES);
        let aligned = at - at % align as u64;
        let len = stop.next_multiple_of(align as u64) - aligned;
        // A last block that the file has in part only is enough.
        let done = read_some(backing.file(), &mut buffer.bytes_mut()[..len as usize], aligned)
            .map_err(|(done, error)| backing.fault_at(FaultKind::Read, aligned + done, error))?;
        if aligned + done < stop {
            return Err(backing.fault_at(FaultKind::Read, aligned + done, short_file()));
        }
        at = stop;
    }
    Ok(())
}

/// Fills `into` as far as the file goes; the bytes that came, also beside an error.
fn read_some(file: &File, into: &mut [u8], at: u64) -> Result<u64, (u64, std::io::Error)> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err((done as u64, error)),
        }
    }
    Ok(done as u64)
}

/// Starts to read bytes of the object into the page cache, on a thread of the store; nobody waits for it.
pub(crate) fn read_ahead(backing: &Backing, bytes: Range<u64>) {
    let pool = &backing.device().pool;
    if pool.waiting() >= PREFETCH_JOBS {
        return;
    }
    let file = Arc::clone(backing.file());
    pool.run(move || bring_in(&file, bytes));
}

/// Starts to read bytes of a file into the page cache; waits where the disk cannot even take the requests.
pub(crate) fn bring_in(file: &File, bytes: Range<u64>) {
    for position in bytes.clone().step_by(PREFETCH_BYTES as usize) {
        let len = NonZeroU64::new((bytes.end - position).min(PREFETCH_BYTES));
        // A hint: what does not come is read when it is asked for.
        let _ = rustix::fs::fadvise(file, position, len, rustix::fs::Advice::WillNeed);
    }
}
