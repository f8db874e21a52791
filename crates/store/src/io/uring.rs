//! A queue's io_uring: transfers go in by the batch, and their ends are seen in memory, without a system call.
//!
//! **What keeps a worker from waiting in `io_uring_enter`.** A device is given less than it has requests for ([`Gate`](crate::io::gate::Gate)); what comes
//! beyond that waits here, together with adjacent transfers. And the kernel is told to submit on a thread of its own (`IOSQE_ASYNC`) while a device
//! has not answered for a while, or a hole punch or discard has a file of it for itself: reading the file system's tables, or
//! waiting for the file, may then take for ever. So it is always where the file system waits although it is asked not to: for its journal to note the
//! time of a write (ext4), or for the file's lock before a read (btrfs).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use slab::Slab;

use crate::io::continuation::PendingTransfer;
use crate::io::device_queue::DeviceQueue;
use crate::io::gate::Inside;
use crate::io::request::IoRequest;
use crate::io::transfer::{Direction, Transfer};
use crate::tick::Tick;

/// Requests that the kernel has at a time, for all devices together; more wait here.
const DEPTH: u32 = 256;
/// Kernel threads that may be waiting for disks: those of one disk that hangs must leave some for the others.
const KERNEL_THREADS: u32 = 1024;

/// How long the kernel is not asked for a thread after it had none: it tries for some 50 ms before it says so.
const REFUSED_TICKS: u32 = 10;

/// The ring and what is in it.
pub(crate) struct Ring {
    ring: IoUring,
    /// In the kernel's hands, by user data. A transfer's buffer is not touched while it is here.
    requests: Slab<InKernel>,
    /// One for each device with transfers here.
    queues: Vec<DeviceQueue>,
    /// Ended, not yet taken.
    ended: VecDeque<PendingTransfer>,
    /// What the kernel has no thread for.
    refused: Vec<PendingTransfer>,
    /// When it said so last.
    refused_at: Option<Tick>,
    now: Tick,
    /// Queued since the last system call.
    staged: bool,
}

/// What the kernel works on.
struct InKernel {
    request: IoRequest,
    /// The buffers of several.
    pieces: Box<[libc::iovec]>,
    /// Keeps hole punches and discards out while this thread works on it. Not during `io_uring_enter` only: a read of a page that was on
    /// its way goes on, when that has come, on this thread as well.
    _inside: Option<Inside>,
}

// SAFETY: the pointers lead to the request's own buffers, which move with it only by handle; nobody but the kernel uses them.
unsafe impl Send for InKernel {}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("requests", &self.requests.len())
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
        // Linux 5.15; without it there are four for each CPU.
        if let Err(error) = ring
            .submitter()
            .register_iowq_max_workers(&mut [KERNEL_THREADS, 0])
        {
            tracing::debug!("more kernel threads for io_uring: {error}");
        }
        Ok(Ring {
            ring,
            requests: Slab::with_capacity(DEPTH as usize),
            queues: Vec::new(),
            ended: VecDeque::new(),
            refused: Vec::new(),
            refused_at: None,
            now: Tick::now(),
            staged: false,
        })
    }

    /// Queues a transfer; [`Ring::submit`] sends it.
    pub(crate) fn start(&mut self, pending: PendingTransfer) {
        let gate = &pending.device.gate;
        let queue = match self.queues.iter().position(|queue| queue.is_of(gate)) {
            Some(at) => &mut self.queues[at],
            None => {
                self.queues.push(DeviceQueue::new(gate));
                self.queues.last_mut().expect("just pushed")
            }
        };
        queue.push(pending);
    }

    /// Whether no transfer is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.ended.is_empty()
    }

    /// Hands what is queued to the kernel, as far as it may have it: one system call, or none.
    pub(crate) fn submit(&mut self, now: Tick) {
        if self.queues.is_empty() {
            return;
        }
        self.now = now;
        for at in 0..self.queues.len() {
            while self.requests.len() < DEPTH as usize
                && let Some(request) = self.queues[at].pop()
            {
                self.push(request, at);
            }
        }
        if !self.refused.is_empty() {
            self.queues.retain(|queue| !queue.is_idle());
        }
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
        !self.ended.is_empty()
            || !self.requests.is_empty()
                && (!self.ring.completion().is_empty() || self.ring.submission().taskrun())
    }

    /// The next transfer that has ended.
    pub(crate) fn next(&mut self) -> Option<PendingTransfer> {
        if let Some(pending) = self.ended.pop_front() {
            return Some(pending);
        }
        if self.requests.is_empty() {
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
        while self.ended.is_empty() {
            let entry = self.ring.completion().next()?;
            let result = match entry.result() {
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n => Ok(n as usize),
            };
            self.landed(entry.user_data() as usize, result);
        }
        self.ended.pop_front()
    }

    /// What the kernel has given back undone, as it does where it has no thread left: somebody else is to do it.
    pub(crate) fn take_refused(&mut self) -> Vec<PendingTransfer> {
        std::mem::take(&mut self.refused)
    }

    /// Takes in the end of what the kernel had.
    fn landed(&mut self, key: usize, result: io::Result<usize>) {
        let request = self.requests.remove(key).request;
        let gate = Arc::clone(&request.pieces[0].device.gate);
        gate.note_answer(self.now);
        let Some(at) = self.queues.iter().position(|queue| queue.is_of(&gate)) else {
            debug_assert!(false, "a queue lives as long as it has requests");
            return;
        };
        let (queue, ended) = (&mut self.queues[at], &mut self.ended);
        queue.ended();
        match result {
            // What it would have had done by a thread of its own, when it can start none.
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                self.refused_at = Some(self.now);
                self.refused.extend(request.pieces);
            }
            result => request.answered(
                result,
                |pending| ended.push_back(pending),
                |request| queue.push_again(request),
            ),
        }
        if queue.is_idle() {
            self.queues.swap_remove(at);
        }
    }

    /// Gives a request of a queue to the kernel, or back where the kernel has no thread for it.
    fn push(&mut self, mut request: IoRequest, queue: usize) {
        let device = Arc::clone(&request.pieces[0].device);
        let is_prompt = device.gate.is_prompt(self.now) && !device.is_stuck(self.now);
        let keeps_nowait = match request.pieces[0].transfer.direction {
            Direction::Read => device.may_read_at_once(),
            Direction::Write => device.writes_nowait,
        };
        let may_go_inside = is_prompt && keeps_nowait;
        let inside = may_go_inside.then(|| device.gate.go_inside()).flatten();
        let may_wait = inside.is_none();
        let is_short = |at| self.now.since(at) < REFUSED_TICKS;
        if may_wait && self.refused_at.is_some_and(is_short) {
            self.queues[queue].ended();
            self.refused.extend(request.pieces);
            return;
        }
        request.pieces.iter_mut().for_each(PendingTransfer::begins);
        let pieces = match &mut request.pieces[..] {
            [_] => Box::default(),
            several => several
                .iter_mut()
                .map(|piece| rest(&mut piece.transfer))
                .collect(),
        };
        let key = self.requests.insert(InKernel {
            request,
            pieces,
            _inside: inside,
        });
        let mut entry = entry(&mut self.requests[key]).user_data(key as u64);
        if may_wait {
            entry = entry.flags(squeue::Flags::ASYNC);
        }
        // SAFETY: the entry's memory belongs to a request that stays in `requests`, its buffers' bytes and their list unmoved and
        // untouched, until its completion was seen; the file is held open by the transfers.
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
        while !self.requests.is_empty() {
            if let Err(error) = self.ring.submit_and_wait(1)
                && !matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
                )
            {
                tracing::warn!("io_uring cannot be waited for, buffers are left to it: {error}");
                std::mem::forget(std::mem::take(&mut self.requests));
                return;
            }
            while let Some(entry) = self.ring.completion().next() {
                self.requests.try_remove(entry.user_data() as usize);
            }
        }
    }
}

/// The bytes of a transfer that are still to come or go.
fn rest(transfer: &mut Transfer) -> libc::iovec {
    let rest = &mut transfer.buffer.bytes_mut()[transfer.done..];
    libc::iovec {
        iov_base: rest.as_mut_ptr().cast(),
        iov_len: rest.len(),
    }
}

/// What is left of a request as the kernel wants it.
fn entry(in_kernel: &mut InKernel) -> squeue::Entry {
    let transfer = &mut in_kernel.request.pieces[0].transfer;
    let fd = Fd(transfer.file.as_raw_fd());
    let position = transfer.position + transfer.done as u64;
    let (direction, lone) = (transfer.direction, rest(transfer));
    let (pointer, len) = (lone.iov_base.cast::<u8>(), lone.iov_len as u32);
    let (list, count) = (in_kernel.pieces.as_ptr(), in_kernel.pieces.len() as u32);
    match (direction, count) {
        (Direction::Read, 0) => opcode::Read::new(fd, pointer, len).offset(position).build(),
        (Direction::Write, 0) => opcode::Write::new(fd, pointer, len).offset(position).build(),
        (Direction::Read, _) => opcode::Readv::new(fd, list, count).offset(position).build(),
        (Direction::Write, _) => opcode::Writev::new(fd, list, count).offset(position).build(),
    }
}
