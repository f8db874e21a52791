//! A queue's io_uring: transfers go in by the batch, and their ends are seen in memory, without a system call.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use slab::Slab;

use crate::io::transfer::{Direction, PendingTransfer, Transfer};

/// Transfers that the kernel has at a time; more wait here.
const DEPTH: u32 = 256;
const CLEAN_FLAGS: u32 =
    libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;

/// The ring and what is in it.
pub(crate) struct Ring {
    ring: IoUring,
    /// In the kernel's hands, by user data. A transfer's buffer is not touched while it is here.
    pending: Slab<PendingTransfer>,
    /// Beyond [`DEPTH`].
    waiting: VecDeque<PendingTransfer>,
    /// Queued since the last system call.
    staged: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring whose ends make `wake` readable.
    ///
    /// # Errors
    /// ENOSYS or EPERM where io_uring is missing or forbidden.
    pub(crate) fn new(wake: BorrowedFd<'_>) -> io::Result<Ring> {
        // Ends are then delivered when this thread enters the kernel anyway instead of by interrupting it, and a
        // flag in memory says that some are waiting (Linux 5.19).
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(DEPTH)
            .or_else(|_| IoUring::builder().build(DEPTH))?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        Ok(Ring {
            ring,
            pending: Slab::with_capacity(DEPTH as usize),
            waiting: VecDeque::new(),
            staged: false,
        })
    }

    /// Queues a transfer; [`Ring::submit`] sends it.
    pub(crate) fn start(&mut self, pending: PendingTransfer) {
        if self.pending.len() < DEPTH as usize {
            let key = self.pending.insert(pending);
            self.push(key);
        } else {
            self.waiting.push_back(pending);
        }
    }

    /// Whether no transfer is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Hands what is queued to the kernel: one system call, or none.
    pub(crate) fn submit(&mut self) {
        if !self.staged {
            return;
        }
        match self.ring.submit() {
            Ok(_) => self.staged = false,
            // EBUSY, EAGAIN: the kernel wants its completions taken first. EINTR: again. Both in the next round.
            Err(error) => tracing::debug!("io_uring_enter: {error}"),
        }
    }

    /// Whether [`Ring::next`] would find something. Looks at memory only.
    pub(crate) fn has_news(&mut self) -> bool {
        !self.pending.is_empty() && (!self.ring.completion().is_empty() || self.ring.submission().taskrun())
    }

    /// The next transfer that has ended.
    pub(crate) fn next(&mut self) -> Option<PendingTransfer> {
        if self.pending.is_empty() {
            return None;
        }
        if self.ring.completion().is_empty() {
            if !self.ring.submission().taskrun() {
                return None;
            }
            // Entering the kernel delivers what waits.
            let _ = self.ring.submit();
            self.staged = !self.ring.submission().is_empty();
        }
        loop {
            let entry = self.ring.completion().next()?;
            let key = entry.user_data() as usize;
            let result = match entry.result() {
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n => Ok(n as usize),
            };
            if self.pending[key].0.advance(result) {
                self.push(key);
                continue;
            }
            let pending = self.pending.remove(key);
            if let Some(next) = self.waiting.pop_front() {
                self.start(next);
            }
            return Some(pending);
        }
    }

    fn push(&mut self, key: usize) {
        let entry = entry(&mut self.pending[key].0).user_data(key as u64);
        // SAFETY: the entry's memory belongs to a transfer that stays in `pending`, its buffer's bytes unmoved and
        // untouched, until its completion was seen; the file is held open by the transfer.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // Full of what was queued since the last round.
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
        }
        self.staged = true;
    }
}

impl Drop for Ring {
    /// The kernel may still write to the buffers: they wait for it.
    fn drop(&mut self) {
        while !self.pending.is_empty() {
            if let Err(error) = self.ring.submit_and_wait(1)
                && !matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
                )
            {
                tracing::warn!("io_uring cannot be waited for, buffers are left to it: {error}");
                std::mem::forget(std::mem::take(&mut self.pending));
                return;
            }
            while let Some(entry) = self.ring.completion().next() {
                self.pending.try_remove(entry.user_data() as usize);
            }
        }
    }
}

/// The rest of a transfer as the kernel wants it.
fn entry(transfer: &mut Transfer) -> squeue::Entry {
    let fd = Fd(transfer.file.as_raw_fd());
    let position = transfer.position + transfer.done as u64;
    let rest = &mut transfer.buffer.bytes_mut()[transfer.done..];
    let (pointer, len) = (rest.as_mut_ptr(), rest.len() as u32);
    match transfer.direction {
        Direction::Read => opcode::Read::new(fd, pointer, len).offset(position).build(),
        Direction::Write => opcode::Write::new(fd, pointer, len).offset(position).build(),
        Direction::Prefetch(bytes) => advise(fd, position, bytes, libc::POSIX_FADV_WILLNEED),
        Direction::Clean(bytes) => opcode::SyncFileRange::new(fd, bytes)
            .offset(position)
            .flags(CLEAN_FLAGS)
            .build(),
        Direction::Evict(bytes) => advise(fd, position, bytes, libc::POSIX_FADV_DONTNEED),
    }
}

fn advise(fd: Fd, position: u64, bytes: u32, advice: i32) -> squeue::Entry {
    opcode::Fadvise::new(fd, libc::off_t::from(bytes), advice)
        .offset(position)
        .build()
}
