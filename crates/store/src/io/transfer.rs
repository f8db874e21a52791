//! One piece of I/O that a queue carries out for a store, and the threads that do it where io_uring may not be used.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use parking_lot::Mutex;
use rustix::fs::Advice;

use crate::completion_queue::CompletionQueue;
use crate::completion_queue::QueueHandle;
use crate::fetch::copy;
use crate::io::buffer::Buffer;
use engine::Completion;

/// Threads for all queues together, where io_uring is not available.
const THREADS: usize = 8;

/// What to do with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Fill the buffer.
    Read,
    /// Write the buffer.
    Write,
    /// Bring this many bytes into the page cache, without the buffer and without waiting for them.
    Prefetch(u32),
    /// Write back these many bytes' dirty pages and wait for that; no promise about the medium's cache.
    Clean(u32),
    /// Drop these many bytes' clean pages from the page cache.
    Evict(u32),
}

/// A transfer and how far it got.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) file: Arc<File>,
    pub(crate) position: u64,
    pub(crate) direction: Direction,
    pub(crate) buffer: Buffer,
    /// Bytes done. Less than the buffer without an error means that the file ends there.
    pub(crate) done: usize,
    /// Why it went no further.
    pub(crate) error: Option<io::Error>,
}

impl Transfer {
    pub(crate) fn new(file: &Arc<File>, position: u64, direction: Direction, buffer: Buffer) -> Transfer {
        Transfer {
            file: Arc::clone(file),
            position,
            direction,
            buffer,
            done: 0,
            error: None,
        }
    }

    /// Takes in the kernel's answer to one attempt; true if there is more to do.
    pub(crate) fn advance(&mut self, result: Result<usize, io::Error>) -> bool {
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => true,
            Err(error) => {
                self.error = Some(error);
                false
            }
            Ok(0) => false,
            Ok(n) => {
                self.done += n;
                self.done < self.buffer.len()
            }
        }
    }

    /// What kept a write from taking all its bytes.
    pub(crate) fn shortfall(&self) -> Option<io::Error> {
        match &self.error {
            Some(error) => Some(copy(error)),
            None if self.done < self.buffer.len() => Some(io::ErrorKind::WriteZero.into()),
            None => None,
        }
    }

    /// All of it, blocking.
    pub(crate) fn run(&mut self) {
        while {
            let at = self.position + self.done as u64;
            let rest = &mut self.buffer.bytes_mut()[self.done..];
            let result = match self.direction {
                Direction::Read => self.file.read_at(rest, at),
                Direction::Write => self.file.write_at(rest, at),
                Direction::Prefetch(bytes) => advise(&self.file, at, bytes, Advice::WillNeed),
                Direction::Clean(_) => rustix::fs::fdatasync(&self.file)
                    .map(|()| 0)
                    .map_err(io::Error::from),
                Direction::Evict(bytes) => advise(&self.file, at, bytes, Advice::DontNeed),
            };
            self.advance(result)
        } {}
    }
}

fn advise(file: impl AsFd, at: u64, bytes: u32, advice: Advice) -> io::Result<usize> {
    rustix::fs::fadvise(file, at, NonZeroU64::new(u64::from(bytes)), advice)?;
    Ok(0)
}

/// What a store does when a transfer has ended: on the queue that started it.
pub(crate) trait Continuation: Send + std::fmt::Debug {
    /// The end of the operation, or `None` if it goes on (another transfer was started) or nobody waits.
    fn ended(self: Box<Self>, queue: &mut CompletionQueue, transfer: Transfer) -> Option<Completion>;
}

/// A transfer with its continuation.
pub(crate) type PendingTransfer = (Transfer, Box<dyn Continuation>);

/// Lets a thread carry it out; it comes back through the handle.
pub(crate) fn run_on_a_thread(pending: PendingTransfer, handle: QueueHandle) {
    type Order = (PendingTransfer, QueueHandle);
    static QUEUE: Mutex<Option<Sender<Order>>> = Mutex::new(None);
    let mut queue = QUEUE.lock();
    let sender = queue.get_or_insert_with(|| {
        let (sender, receiver) = channel::<Order>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..THREADS {
            let receiver = Arc::clone(&receiver);
            let thread = std::thread::Builder::new()
                .name("disk".to_owned())
                .spawn(move || {
                    loop {
                        let order = receiver.lock().recv();
                        let Ok(((mut transfer, continuation), handle)) = order else {
                            return;
                        };
                        transfer.run();
                        handle.give_back((transfer, continuation));
                    }
                });
            if let Err(error) = thread {
                tracing::warn!("no thread for disk I/O: {error}");
            }
        }
        sender
    });
    if let Err(unsent) = sender.send((pending, handle)) {
        // No thread could be started at all: then this one has to wait for the disk.
        let ((mut transfer, continuation), handle) = unsent.0;
        transfer.run();
        handle.give_back((transfer, continuation));
    }
}
