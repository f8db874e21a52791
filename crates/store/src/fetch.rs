//! Bringing cold pages in without a worker waiting for them, and ahead of a sequential reader.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::backing::{Backing, short_file};
use crate::commit::Medium;
use crate::completion_queue::CompletionQueue;
use crate::io::buffer::Buffer;
use crate::io::transfer::{Continuation, Direction, Transfer};
use engine::{Completion, Event, Token};
use engine::{Extent, Fault, FaultKind, SECTOR_BYTES};

/// How much READ VERIFY reads at a time.
const VERIFY_BYTES: u64 = 256 << 10;

/// A cold read: reads exactly its sectors, through the page cache, into its answer.
#[derive(Debug)]
pub(crate) struct ColdRead<O> {
    pub(crate) owner: Arc<O>,
    pub(crate) token: Token,
    pub(crate) extent: Extent,
}

/// Who wants to know that pages are in memory now.
pub(crate) trait Pages: Send + Sync + std::fmt::Debug {
    /// The file.
    fn backing(&self) -> &Backing;

    /// These sectors' pages were just read.
    fn arrived(&self, extent: Extent);
}

/// What lies in a file is committed there, whichever way it got in.
impl<O: Pages> Medium for O {
    fn commit(&self) -> io::Result<()> {
        self.backing().sync()
    }

    fn trim(&self, extent: Extent) -> io::Result<()> {
        self.backing().punch(extent)
    }

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        self.backing().fault(FaultKind::Write, lba, source)
    }

    fn name(&self) -> String {
        self.backing().name()
    }

    fn describe(&self) -> String {
        self.backing().path().display().to_string()
    }

    fn sectors(&self) -> u64 {
        self.backing().sectors()
    }
}

impl<O: Pages + 'static> ColdRead<O> {
    /// Starts it.
    pub(crate) fn start(queue: &mut CompletionQueue, owner: &Arc<O>, token: Token, extent: Extent) {
        let transfer = reading(owner.backing(), extent);
        let owner = Arc::clone(owner);
        queue.start(transfer, Box::new(ColdRead { owner, token, extent }));
    }
}

impl<O: Pages> Continuation for ColdRead<O> {
    fn ended(self: Box<Self>, _: &mut CompletionQueue, transfer: Transfer) -> Option<Completion> {
        let result = match read_fault(self.owner.backing(), &transfer, FaultKind::Read) {
            Some(fault) => Err(fault),
            None => {
                self.owner.arrived(self.extent);
                Ok(Some(transfer.buffer.into_boxed()))
            }
        };
        Some(Completion {
            token: self.token,
            event: Event::Finished(result),
        })
    }
}

/// Pages that a write covers in part only, brought in so that the write can be repeated without waiting.
#[derive(Debug)]
pub(crate) struct Warm<O> {
    owner: Arc<O>,
    token: Token,
    extent: Extent,
}

impl<O: Pages + 'static> Warm<O> {
    /// Starts it: the pages of `extent`, which [`Pages::arrived`] hears of.
    pub(crate) fn start(queue: &mut CompletionQueue, owner: &Arc<O>, token: Token, extent: Extent) {
        let transfer = reading(owner.backing(), extent);
        let owner = Arc::clone(owner);
        queue.start(transfer, Box::new(Warm { owner, token, extent }));
    }
}

impl<O: Pages> Continuation for Warm<O> {
    fn ended(self: Box<Self>, _: &mut CompletionQueue, transfer: Transfer) -> Option<Completion> {
        let event = match read_fault(self.owner.backing(), &transfer, FaultKind::Write) {
            Some(fault) => Event::Finished(Err(fault)),
            None => {
                self.owner.arrived(self.extent);
                Event::Again
            }
        };
        Some(Completion {
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

/// An [`io::Error`] cannot be cloned, but those of the system are numbers.
pub(crate) fn copy(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// READ VERIFY: one piece after the other, thrown away.
#[derive(Debug)]
pub(crate) struct Verify<O> {
    owner: Arc<O>,
    token: Token,
    /// What is left after the piece under way.
    rest: Extent,
    align: usize,
}

impl<O: Pages + 'static> Verify<O> {
    /// Starts it. `align` is what the file's reads need in memory and on the medium, in bytes.
    pub(crate) fn start(
        queue: &mut CompletionQueue,
        owner: &Arc<O>,
        token: Token,
        extent: Extent,
        align: usize,
    ) {
        let buffer = Buffer::new(0, align);
        Box::new(Verify {
            owner: Arc::clone(owner),
            token,
            rest: extent,
            align,
        })
        .go_on(queue, buffer);
    }

    fn go_on(mut self: Box<Self>, queue: &mut CompletionQueue, mut buffer: Buffer) -> Option<Completion> {
        if self.rest.count == 0 {
            return Some(Completion {
                token: self.token,
                event: Event::Finished(Ok(None)),
            });
        }
        let backing = self.owner.backing();
        let align = self.align as u64;
        let start = backing.position(self.rest.lba);
        let count = self.rest.count.min(VERIFY_BYTES / SECTOR_BYTES);
        let aligned = start - start % align;
        let len = ((start + count * SECTOR_BYTES).next_multiple_of(align) - aligned) as usize;
        if buffer.len() != len {
            buffer = Buffer::new(len, self.align);
        }
        let transfer = Transfer::new(backing.file(), aligned, Direction::Read, buffer);
        self.rest = Extent {
            lba: self.rest.lba + count,
            count: self.rest.count - count,
        };
        queue.start(transfer, self);
        None
    }
}

impl<O: Pages + 'static> Continuation for Verify<O> {
    fn ended(self: Box<Self>, queue: &mut CompletionQueue, transfer: Transfer) -> Option<Completion> {
        let backing = self.owner.backing();
        // A last block that the file has in part only is enough.
        let needed = backing.position(self.rest.lba) - transfer.position;
        if transfer.error.is_none() && transfer.done as u64 >= needed {
            return self.go_on(queue, transfer.buffer);
        }
        let fault = read_fault(backing, &transfer, FaultKind::Read)?;
        Some(Completion {
            token: self.token,
            event: Event::Finished(Err(fault)),
        })
    }
}

/// Sequential readers that are followed at a time.
const STREAMS: usize = 8;
/// Pages before a request that must be in memory for it to count as sequential.
const BEHIND: usize = 8;
/// Pages to read ahead at a time: 1 MiB, which a disk reads in a few milliseconds.
const AHEAD: u64 = 256;

/// The kernel cuts one request to the larger of the device's read-ahead and request sizes; no device has less.
const PREFETCH_BYTES: u64 = 128 << 10;

/// Read-ahead of our own: the kernel's is off, so that pages come in small folios (mmap.rs).
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// For each stream the page that it was read ahead up to; 0: none.
    ends: [AtomicU64; STREAMS],
    oldest: AtomicUsize,
}

impl Streams {
    /// The pages to fetch for a reader at `first..=last`, if it is sequential and near the end of what was fetched
    /// for it. `in_memory` tells about the pages before.
    pub(crate) fn advance(
        &self,
        first: usize,
        last: usize,
        in_memory: impl Fn(usize, usize) -> bool,
    ) -> Option<std::ops::Range<u64>> {
        if first != 0 && !in_memory(first.saturating_sub(BEHIND), first - 1) {
            return None;
        }
        let next = last as u64 + 1;
        for end in &self.ends {
            let known = end.load(Relaxed);
            if (next..=next + AHEAD * 2).contains(&known) {
                // Half a window ahead is enough until the next step.
                let more = known < next + AHEAD / 2
                    && end
                        .compare_exchange(known, known + AHEAD, Relaxed, Relaxed)
                        .is_ok();
                return more.then_some(known..known + AHEAD);
            }
        }
        let slot = self.oldest.fetch_add(1, Relaxed) % STREAMS;
        self.ends[slot].store(next + AHEAD, Relaxed);
        Some(next..next + AHEAD)
    }
}

/// The end of a read-ahead: nobody waits for it.
#[derive(Debug)]
pub(crate) struct ReadAhead;

impl ReadAhead {
    /// Starts it, for bytes of the object.
    pub(crate) fn start(queue: &mut CompletionQueue, backing: &Backing, bytes: std::ops::Range<u64>) {
        let mut position = bytes.start;
        while position < bytes.end {
            let len = (bytes.end - position).min(PREFETCH_BYTES);
            let direction = Direction::Prefetch(len as u32);
            let transfer = Transfer::new(backing.file(), position, direction, Buffer::new(0, 1));
            queue.start(transfer, Box::new(ReadAhead));
            position += len;
        }
    }
}

impl Continuation for ReadAhead {
    fn ended(self: Box<Self>, _: &mut CompletionQueue, _: Transfer) -> Option<Completion> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_is_kept_ahead_of_and_a_random_one_is_not_followed() {
        let streams = Streams::default();
        assert_eq!(streams.advance(1000, 1001, |_, _| false), None);
        let mut fetched = 0..0u64;
        for page in 0..5000usize {
            if let Some(pages) = streams.advance(page, page, |_, _| true) {
                assert!(pages.start <= fetched.end.max(1), "a gap before {pages:?}");
                fetched = pages;
            }
            assert!(
                fetched.end > page as u64 + AHEAD / 2 - 1,
                "page {page} has only {fetched:?}"
            );
            assert!(
                fetched.end <= page as u64 + 2 * AHEAD,
                "too far ahead of {page}: {fetched:?}"
            );
        }
    }

    #[test]
    fn several_readers_are_followed_at_once() {
        let streams = Streams::default();
        let starts = [0usize, 100_000, 200_000, 300_000];
        let mut fetches = 0;
        for step in 0..1024 {
            for start in starts {
                fetches += u64::from(streams.advance(start + step, start + step, |_, _| true).is_some());
            }
        }
        assert!(fetches <= 4 * (1024 / AHEAD + 2), "{fetches} fetches");
    }
}
