//! The part of a completion queue that other threads hold: leave an end here, and the worker wakes up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::SegQueue;
use rustix::event::{EventfdFlags, eventfd};

use engine::{Completion, CompletionHandle, Event, Fault, FaultKind, Token};

/// What a sleeping worker polls.
#[derive(Debug)]
pub(crate) struct Wake {
    event: OwnedFd,
    /// Set by the worker before it sleeps, so that a busy worker costs its correspondents no system call.
    sleeping: AtomicBool,
}

impl Wake {
    fn new() -> io::Result<Wake> {
        Ok(Wake {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            sleeping: AtomicBool::new(false),
        })
    }

    /// Makes the worker look around, if it sleeps.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            // A full counter (EAGAIN) means that the worker is being woken already.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// The worker is about to poll; it has to look once more after this.
    pub(crate) fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The worker does not poll any more.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }

    /// What to poll.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The part of a queue that other threads hold: post here, the worker wakes up.
///
/// Cloning gives another handle to the same queue.
#[derive(Clone, Debug)]
pub struct QueueHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    completions: SegQueue<Completion>,
    wake: Arc<Wake>,
}

impl QueueHandle {
    /// The handle of a new queue.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub(crate) fn new() -> io::Result<QueueHandle> {
        let shared = Shared {
            completions: SegQueue::new(),
            wake: Arc::new(Wake::new()?),
        };
        Ok(QueueHandle {
            shared: Arc::new(shared),
        })
    }

    /// Makes the worker look around, if it sleeps.
    pub fn wake(&self) {
        self.shared.wake.wake();
    }

    /// What wakes the worker.
    pub(crate) fn waker(&self) -> &Arc<Wake> {
        &self.shared.wake
    }

    /// Leaves a completion; [`QueueHandle::wake`] is to follow, once for many.
    pub(crate) fn post_quietly(&self, completion: Completion) {
        self.shared.completions.push(completion);
    }

    /// For the worker: whether anything lies here.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.completions.is_empty()
    }

    /// For the worker: the next completion.
    pub(crate) fn pop(&self) -> Option<Completion> {
        // Asked first: taking from an empty queue costs a fence.
        if self.is_empty() {
            return None;
        }
        self.shared.completions.pop()
    }
}

impl CompletionHandle for QueueHandle {
    fn post(&self, completion: Completion) {
        self.post_quietly(completion);
        self.wake();
    }
}

/// The answer that an operation is owed by whoever has it. Dropped without one, as by a panic, it answers with a fault: else the
/// operation's range would be taken for ever.
#[derive(Debug)]
pub struct Owed {
    handle: QueueHandle,
    token: Token,
    kind: FaultKind,
    is_paid: bool,
}

impl Owed {
    /// For the operation `token` of the queue behind `handle`; `kind` is what has failed if nobody answers.
    pub fn new(handle: QueueHandle, token: Token, kind: FaultKind) -> Owed {
        Owed {
            handle,
            token,
            kind,
            is_paid: false,
        }
    }

    /// Answers.
    pub fn finish(mut self, result: Result<(), Fault>) {
        self.post(result);
    }

    /// The operation, for somebody else to answer.
    pub(crate) fn hand_over(mut self) -> (QueueHandle, Token) {
        self.is_paid = true;
        (self.handle.clone(), self.token)
    }

    fn post(&mut self, result: Result<(), Fault>) {
        self.is_paid = true;
        self.handle.post(Completion {
            token: self.token,
            event: Event::Finished(result.map(|()| None)),
        });
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.is_paid {
            self.post(Err(unanswered(self.kind)));
        }
    }
}

/// What an operation is told whose thread panicked.
pub(crate) fn unanswered(kind: FaultKind) -> Fault {
    Fault {
        kind,
        lba: 0,
        source: io::Error::other(
            "the thread that had the request panicked, a bug in xblade: the log says where",
        ),
    }
}

impl PartialEq for QueueHandle {
    fn eq(&self, other: &QueueHandle) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for QueueHandle {}
