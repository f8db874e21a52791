//! A worker's side of deferred operations: what it waits on and where the ends arrive.
//!
//! Each worker has one [`Lane`]. Other threads (committers, flushers, control) reach it through its [`Mailbox`];
//! I/O that the worker started itself (io_uring) ends on the lane's own ring. One file descriptor, [`Lane::fd`],
//! becomes readable for both, so that a sleeping worker polls two things: its AF_XDP socket and its lane.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_queue::SegQueue;
use rustix::event::{EventfdFlags, eventfd};

use super::Fault;
use super::committer::{Committer, Task, Waiter};

/// Names an operation in flight on one lane; the caller chooses it.
pub type Token = u64;

/// How a deferred operation went on.
#[derive(Debug)]
pub enum Event {
    /// What it waited for is there: repeat the call.
    Again,
    /// It is done. A read carries its bytes, exactly the extent's.
    Finished(Result<Option<Box<[u8]>>, Fault>),
}

/// The end, or the next stage, of a deferred operation.
#[derive(Debug)]
pub struct Completion {
    /// As given when the operation was started.
    pub token: Token,
    /// What happened.
    pub event: Event,
}

/// The part of a lane that other threads hold: post here, the worker wakes up.
///
/// Cloning gives another handle to the same box.
#[derive(Clone, Debug)]
pub struct Mailbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: SegQueue<Completion>,
    wake: OwnedFd,
    /// Set by the worker before it sleeps, so that a busy worker costs its correspondents no system call.
    sleeping: AtomicBool,
}

impl Mailbox {
    /// Leaves a completion and wakes the worker if it sleeps.
    pub fn post(&self, completion: Completion) {
        self.shared.queue.push(completion);
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

/// Time in eighths of a second, wrapping: good enough to tell old from new without asking the clock for each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tick(pub(super) u32);

/// One worker's deferred operations. Not shared: stores get it by `&mut` in each call.
#[derive(Debug)]
pub struct Lane {
    mailbox: Mailbox,
    ready: VecDeque<Completion>,
    /// Waiters for group commits, handed over once per round.
    commits: Vec<(Arc<Committer>, Waiter)>,
    born: Instant,
    tick: Tick,
}

impl Lane {
    /// An empty lane.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> io::Result<Lane> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Shared {
            queue: SegQueue::new(),
            wake,
            sleeping: AtomicBool::new(false),
        };
        Ok(Lane {
            mailbox: Mailbox {
                shared: Arc::new(shared),
            },
            ready: VecDeque::new(),
            commits: Vec::new(),
            born: Instant::now(),
            tick: Tick(0),
        })
    }

    /// To be called once per round of the worker's loop, after the round's requests: starts what stores gathered
    /// (one hand-over per group commit, one system call for all I/O). Nothing deferred: no system call.
    pub fn submit(&mut self) {
        self.tick = Tick((self.born.elapsed().as_millis() / 125) as u32);
        while let Some((committer, _)) = self.commits.first() {
            let committer = Arc::clone(committer);
            let same = self
                .commits
                .extract_if(.., |(other, _)| Arc::ptr_eq(other, &committer));
            committer.submit(same.map(|(_, waiter)| waiter));
        }
    }

    /// Time as of the last round.
    #[inline]
    pub(super) fn tick(&self) -> Tick {
        self.tick
    }

    /// Takes part in `committer`'s next commit.
    pub(super) fn commit(&mut self, committer: &Arc<Committer>, token: Token, task: Task) {
        let waiter = Waiter {
            mailbox: self.mailbox(),
            token,
            task,
        };
        self.commits.push((Arc::clone(committer), waiter));
    }

    /// A handle for other threads.
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// Readable when [`Lane::next`] may have something, provided [`Lane::prepare_sleep`] was called.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mailbox.shared.wake.as_fd()
    }

    /// The next completion, without a system call when there is none.
    pub fn next(&mut self) -> Option<Completion> {
        self.ready.pop_front().or_else(|| self.mailbox.shared.queue.pop())
    }

    /// To be called before polling [`Lane::fd`]; false means that something arrived meanwhile: do not sleep.
    pub fn prepare_sleep(&mut self) -> bool {
        self.submit();
        self.mailbox.shared.sleeping.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.ready.is_empty() && self.mailbox.shared.queue.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// To be called after polling.
    pub fn awake(&mut self) {
        self.mailbox.shared.sleeping.store(false, Ordering::SeqCst);
        let _ = rustix::io::read(&self.mailbox.shared.wake, &mut [0u8; 8]);
    }
}
