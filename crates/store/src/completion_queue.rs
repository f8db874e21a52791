//! A worker's side of deferred operations: what it waits on and where they end.
//!
//! Each worker has one [`CompletionQueue`]. Other threads (committers, flushers, control) reach it through its [`QueueHandle`];
//! I/O that the worker started itself (io_uring) ends on the queue's own ring. One file descriptor, [`CompletionQueue::fd`],
//! becomes readable for both, so that a sleeping worker polls two things: its AF_XDP socket and its queue.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use crossbeam_queue::SegQueue;
use rustix::event::{EventfdFlags, eventfd};

use engine::{Completion, CompletionHandle, Completions};

use crate::commit::{Committer, Task, Waiter};
use crate::io::transfer::{Continuation, PendingTransfer, Transfer, run_on_a_thread};
use crate::io::uring::Ring;
use engine::Token;

/// The part of a queue that other threads hold: post here, the worker wakes up.
///
/// Cloning gives another handle to the same box.
#[derive(Clone, Debug)]
pub struct QueueHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: SegQueue<Posted>,
    wake: OwnedFd,
    /// Set by the worker before it sleeps, so that a busy worker costs its correspondents no system call.
    sleeping: AtomicBool,
}

/// What lies in a handle.
#[derive(Debug)]
enum Posted {
    Completion(Completion),
    /// A transfer that a thread carried out for want of io_uring.
    PendingTransfer(PendingTransfer),
}

impl QueueHandle {
    /// Returns a transfer that this queue had given to a thread.
    pub(crate) fn give_back(&self, pending: PendingTransfer) {
        self.shared.queue.push(Posted::PendingTransfer(pending));
        self.wake();
    }

    /// Makes the worker look around, if it sleeps.
    pub fn wake(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.shared.sleeping.load(Ordering::SeqCst) {
            // A full counter (EAGAIN) means that the worker is being woken already.
            let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        }
    }
}

impl CompletionHandle for QueueHandle {
    fn post(&self, completion: Completion) {
        self.shared.queue.push(Posted::Completion(completion));
        self.wake();
    }
}

impl PartialEq for QueueHandle {
    fn eq(&self, other: &QueueHandle) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for QueueHandle {}

/// Time in eighths of a second, wrapping: good enough to tell old from new without asking the clock for each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick(pub(crate) u32);

impl Tick {
    /// The same for all queues: what one learned, another believes.
    fn of(time: Instant) -> Tick {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Tick((time.duration_since(*START).as_millis() / 125) as u32)
    }
}

/// One worker's deferred operations. Not shared: stores get it by `&mut` in each call.
#[derive(Debug)]
pub struct CompletionQueue {
    handle: QueueHandle,
    /// Made when the first transfer starts.
    transfers: Option<TransferEngine>,
    /// Waiters for group commits, handed over once per round.
    commits: Vec<(Arc<Committer>, Waiter)>,
    tick: Tick,
    now: Instant,
}

/// Who carries transfers out.
#[derive(Debug)]
enum TransferEngine {
    Ring(Box<Ring>),
    Threads,
}

impl TransferEngine {
    fn new(wake: BorrowedFd<'_>) -> TransferEngine {
        match Ring::new(wake) {
            Ok(ring) => TransferEngine::Ring(Box::new(ring)),
            Err(error) => {
                static ONCE: std::sync::Once = std::sync::Once::new();
                ONCE.call_once(|| {
                    tracing::warn!("no io_uring ({error}): disk I/O goes through threads, slower");
                });
                TransferEngine::Threads
            }
        }
    }
}

impl CompletionQueue {
    /// An empty queue.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> io::Result<CompletionQueue> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Shared {
            queue: SegQueue::new(),
            wake,
            sleeping: AtomicBool::new(false),
        };
        Ok(CompletionQueue {
            handle: QueueHandle {
                shared: Arc::new(shared),
            },
            transfers: None,
            commits: Vec::new(),
            tick: Tick::of(Instant::now()),
            now: Instant::now(),
        })
    }

    /// To be called once per round of the worker's loop, after the round's requests: starts what stores gathered
    /// (one hand-over per group commit, one system call for all I/O). Nothing deferred: no system call.
    /// `now` is about now: stores tell the time by it.
    pub fn submit(&mut self, now: Instant) {
        self.tick = Tick::of(now);
        self.now = now;
        while let Some((committer, _)) = self.commits.first() {
            let committer = Arc::clone(committer);
            let same = self
                .commits
                .extract_if(.., |(other, _)| Arc::ptr_eq(other, &committer));
            committer.submit(same.map(|(_, waiter)| waiter));
        }
        if let Some(TransferEngine::Ring(ring)) = &mut self.transfers {
            ring.submit();
        }
    }

    /// Starts a transfer with the round's [`CompletionQueue::submit`]; `continuation` says what happens at its end.
    pub(crate) fn start(&mut self, transfer: Transfer, continuation: Box<dyn Continuation>) {
        let pending = (transfer, continuation);
        let handle = &self.handle;
        match self
            .transfers
            .get_or_insert_with(|| TransferEngine::new(handle.shared.wake.as_fd()))
        {
            TransferEngine::Ring(ring) => ring.start(pending),
            TransferEngine::Threads => run_on_a_thread(pending, handle.clone()),
        }
    }

    /// Whether no transfer is under way and nobody was sent to a commit in this round.
    pub(crate) fn is_idle(&self) -> bool {
        self.commits.is_empty()
            && match &self.transfers {
                Some(TransferEngine::Ring(ring)) => ring.is_empty(),
                Some(TransferEngine::Threads) | None => true,
            }
    }

    /// Time as of the last round.
    #[inline]
    pub(crate) fn tick(&self) -> Tick {
        self.tick
    }

    /// The same, exactly.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Takes part in `committer`'s next commit.
    pub(crate) fn commit(&mut self, committer: &Arc<Committer>, token: Token, task: Task) {
        let waiter = Waiter {
            handle: self.handle(),
            token,
            task,
        };
        self.commits.push((Arc::clone(committer), waiter));
    }

    /// A queue as on a host where io_uring is forbidden.
    #[cfg(test)]
    pub(crate) fn without_uring() -> io::Result<CompletionQueue> {
        let mut queue = CompletionQueue::new()?;
        queue.transfers = Some(TransferEngine::Threads);
        Ok(queue)
    }

    /// Readable when [`CompletionQueue::next`] may have something, provided [`CompletionQueue::prepare_sleep`] was called.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.handle.shared.wake.as_fd()
    }

    /// To be called before polling [`CompletionQueue::fd`]; false means that something arrived meanwhile: do not sleep.
    pub fn prepare_sleep(&mut self) -> bool {
        self.submit(Instant::now());
        self.handle.shared.sleeping.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        let ring_news = match &mut self.transfers {
            Some(TransferEngine::Ring(ring)) => ring.has_news(),
            _ => false,
        };
        if !ring_news && self.handle.shared.queue.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// To be called after polling.
    pub fn awake(&mut self) {
        self.handle.shared.sleeping.store(false, Ordering::SeqCst);
        let _ = rustix::io::read(&self.handle.shared.wake, &mut [0u8; 8]);
    }
}

impl Completions for CompletionQueue {
    type Handle = QueueHandle;

    fn handle(&self) -> QueueHandle {
        self.handle.clone()
    }

    /// Without a system call when there is none.
    #[inline]
    fn next(&mut self) -> Option<Completion> {
        loop {
            let queue = &self.handle.shared.queue;
            // Asked first: taking from an empty queue costs a fence.
            let posted = if queue.is_empty() { None } else { queue.pop() };
            let (transfer, continuation) = match posted {
                Some(Posted::Completion(completion)) => return Some(completion),
                Some(Posted::PendingTransfer(pending)) => pending,
                None => match &mut self.transfers {
                    Some(TransferEngine::Ring(ring)) => ring.next()?,
                    _ => return None,
                },
            };
            if let Some(completion) = continuation.ended(self, transfer) {
                return Some(completion);
            }
        }
    }
}
