//! A worker's side of deferred operations: what it waits on and where the ends arrive.
//!
//! Each worker has one [`Lane`]. Other threads (committers, flushers, control) reach it through its [`Mailbox`];
//! I/O that the worker started itself (io_uring) ends on the lane's own ring. One file descriptor, [`Lane::fd`],
//! becomes readable for both, so that a sleeping worker polls two things: its AF_XDP socket and its lane.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use crossbeam_queue::SegQueue;
use rustix::event::{EventfdFlags, eventfd};

use engine::{Completion, CompletionHandle, Completions};

use super::committer::{Committer, Task, Waiter};
use super::transfer::{Flight, Job, Transfer, run_on_a_thread};
use super::uring::Ring;
use engine::Token;

/// The part of a lane that other threads hold: post here, the worker wakes up.
///
/// Cloning gives another handle to the same box.
#[derive(Clone, Debug)]
pub struct Mailbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: SegQueue<Letter>,
    wake: OwnedFd,
    /// Set by the worker before it sleeps, so that a busy worker costs its correspondents no system call.
    sleeping: AtomicBool,
}

/// What lies in a mailbox.
#[derive(Debug)]
enum Letter {
    Completion(Completion),
    /// A transfer that a thread carried out for want of io_uring.
    Flight(Flight),
}

impl Mailbox {
    /// Returns a transfer that this lane had given to a thread.
    pub(super) fn give_back(&self, flight: Flight) {
        self.shared.queue.push(Letter::Flight(flight));
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

impl CompletionHandle for Mailbox {
    fn post(&self, completion: Completion) {
        self.shared.queue.push(Letter::Completion(completion));
        self.wake();
    }
}

impl PartialEq for Mailbox {
    fn eq(&self, other: &Mailbox) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Mailbox {}

/// Time in eighths of a second, wrapping: good enough to tell old from new without asking the clock for each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tick(pub(super) u32);

impl Tick {
    /// The same for all lanes: what one learned, another believes.
    fn of(time: Instant) -> Tick {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Tick((time.duration_since(*START).as_millis() / 125) as u32)
    }
}

/// One worker's deferred operations. Not shared: stores get it by `&mut` in each call.
#[derive(Debug)]
pub struct Lane {
    mailbox: Mailbox,
    /// Made when the first transfer starts.
    engine: Option<Engine>,
    /// Waiters for group commits, handed over once per round.
    commits: Vec<(Arc<Committer>, Waiter)>,
    tick: Tick,
}

/// Who carries transfers out.
#[derive(Debug)]
enum Engine {
    Ring(Box<Ring>),
    Threads,
}

impl Engine {
    fn new(wake: BorrowedFd<'_>) -> Engine {
        match Ring::new(wake) {
            Ok(ring) => Engine::Ring(Box::new(ring)),
            Err(error) => {
                static ONCE: std::sync::Once = std::sync::Once::new();
                ONCE.call_once(|| {
                    tracing::warn!("no io_uring ({error}): disk I/O goes through threads, slower");
                });
                Engine::Threads
            }
        }
    }
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
            engine: None,
            commits: Vec::new(),
            tick: Tick::of(Instant::now()),
        })
    }

    /// To be called once per round of the worker's loop, after the round's requests: starts what stores gathered
    /// (one hand-over per group commit, one system call for all I/O). Nothing deferred: no system call.
    /// `now` is about now: stores tell the time by it.
    pub fn submit(&mut self, now: Instant) {
        self.tick = Tick::of(now);
        while let Some((committer, _)) = self.commits.first() {
            let committer = Arc::clone(committer);
            let same = self
                .commits
                .extract_if(.., |(other, _)| Arc::ptr_eq(other, &committer));
            committer.submit(same.map(|(_, waiter)| waiter));
        }
        if let Some(Engine::Ring(ring)) = &mut self.engine {
            ring.submit();
        }
    }

    /// Starts a transfer with the round's [`Lane::submit`]; `job` says what happens at its end.
    pub(super) fn start(&mut self, transfer: Transfer, job: Box<dyn Job>) {
        let flight = (transfer, job);
        let mailbox = &self.mailbox;
        match self
            .engine
            .get_or_insert_with(|| Engine::new(mailbox.shared.wake.as_fd()))
        {
            Engine::Ring(ring) => ring.start(flight),
            Engine::Threads => run_on_a_thread(flight, mailbox.clone()),
        }
    }

    /// Whether no transfer is under way and nobody was sent to a commit in this round.
    pub(super) fn is_idle(&self) -> bool {
        self.commits.is_empty()
            && match &self.engine {
                Some(Engine::Ring(ring)) => ring.is_empty(),
                Some(Engine::Threads) | None => true,
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
            mailbox: self.handle(),
            token,
            task,
        };
        self.commits.push((Arc::clone(committer), waiter));
    }

    /// A lane as on a host where io_uring is forbidden.
    #[cfg(test)]
    pub(super) fn without_uring() -> io::Result<Lane> {
        let mut lane = Lane::new()?;
        lane.engine = Some(Engine::Threads);
        Ok(lane)
    }

    /// Readable when [`Lane::next`] may have something, provided [`Lane::prepare_sleep`] was called.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mailbox.shared.wake.as_fd()
    }

    /// To be called before polling [`Lane::fd`]; false means that something arrived meanwhile: do not sleep.
    pub fn prepare_sleep(&mut self) -> bool {
        self.submit(Instant::now());
        self.mailbox.shared.sleeping.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        let ring_news = match &mut self.engine {
            Some(Engine::Ring(ring)) => ring.has_news(),
            _ => false,
        };
        if !ring_news && self.mailbox.shared.queue.is_empty() {
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

impl Completions for Lane {
    type Handle = Mailbox;

    fn handle(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// Without a system call when there is none.
    #[inline]
    fn next(&mut self) -> Option<Completion> {
        loop {
            let queue = &self.mailbox.shared.queue;
            // Asked first: taking from an empty queue costs a fence.
            let letter = if queue.is_empty() { None } else { queue.pop() };
            let (transfer, job) = match letter {
                Some(Letter::Completion(completion)) => return Some(completion),
                Some(Letter::Flight(flight)) => flight,
                None => match &mut self.engine {
                    Some(Engine::Ring(ring)) => ring.next()?,
                    _ => return None,
                },
            };
            if let Some(completion) = job.ended(self, transfer) {
                return Some(completion);
            }
        }
    }
}
