//! A worker's side of deferred operations: what it waits on and where they end.
//!
//! Each worker has one [`CompletionQueue`]. Other threads (committers, pools, control) reach it through its [`QueueHandle`];
//! I/O that the worker started itself (io_uring) ends on the queue's own ring. One file descriptor, [`CompletionQueue::fd`],
//! becomes readable for both, so that a sleeping worker polls two things: its AF_XDP socket and its queue.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};

use crate::commit::{Committer, Task, Waiter};
use crate::handle::QueueHandle;
use crate::io::continuation::{Continuation, Next, PendingTransfer};
use crate::io::device::Device;
use crate::io::returns::Returns;
use crate::io::threads::caught;
use crate::io::transfer::Transfer;
use crate::io::uring::Ring;
use crate::mapped::writer::{Batch, Writer};
use crate::overlay::deferred::{Deferred, Followed};
use crate::tick::{Tick, Ticks};
use engine::{Completion, Completions, Durability, Extent, Token};

/// One worker's deferred operations. Not shared: stores get it by `&mut` in each call.
#[derive(Debug)]
pub struct CompletionQueue {
    handle: QueueHandle,
    returns: Returns,
    /// Made when the first transfer starts.
    transfers: Option<TransferEngine>,
    /// Operations that will come by the ring or by `returns`.
    expected: usize,
    /// Waiters for group commits, handed over once per round.
    commits: Vec<(Arc<Committer>, Waiter)>,
    /// Writes for the page cache, handed over once per round.
    writes: Vec<(Arc<Writer>, Batch)>,
    /// What overlays do when operations of theirs end.
    overlays: Deferred,
    tick: Tick,
    ticks: Ticks,
    now: Instant,
}

impl CompletionQueue {
    /// An empty queue.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> io::Result<CompletionQueue> {
        let handle = QueueHandle::new()?;
        Ok(CompletionQueue {
            returns: Returns::new(handle.waker()),
            handle,
            transfers: None,
            expected: 0,
            commits: Vec::new(),
            writes: Vec::new(),
            overlays: Deferred::default(),
            tick: Tick::now(),
            ticks: Ticks::new(),
            now: Instant::now(),
        })
    }

    /// To be called once per round of the worker's loop, after the round's requests: starts what stores gathered
    /// (one hand-over per group commit, one system call for all I/O). Nothing deferred: no system call.
    /// `now` is about now: stores tell the time by it.
    pub fn submit(&mut self, now: Instant) {
        self.tick = self.ticks.of(now);
        self.now = now;
        while let Some((committer, _)) = self.commits.first() {
            let committer = Arc::clone(committer);
            let same = self
                .commits
                .extract_if(.., |(other, _)| Arc::ptr_eq(other, &committer));
            committer.submit(same.map(|(_, waiter)| waiter));
        }
        for (writer, batch) in self.writes.drain(..) {
            writer.submit(batch);
        }
        if let Some(TransferEngine::Ring(ring)) = &mut self.transfers {
            ring.submit(self.tick);
            let refused = ring.take_refused();
            refused
                .into_iter()
                .for_each(|pending| self.give_to_threads(pending));
        }
    }

    /// Starts a transfer to or from a file on `device` with the round's [`CompletionQueue::submit`]; `continuation` says what
    /// happens at its end.
    pub(crate) fn start(
        &mut self,
        device: &Arc<Device>,
        transfer: Transfer,
        continuation: Box<dyn Continuation>,
    ) {
        self.expected += 1;
        self.carry_out(PendingTransfer {
            device: Arc::clone(device),
            transfer,
            continuation,
        });
    }

    /// Lets somebody carry it out.
    fn carry_out(&mut self, pending: PendingTransfer) {
        let is_alone = self.expected == 1 && self.commits.is_empty();
        let wake = self.handle.waker().fd();
        match self.transfers.get_or_insert_with(|| TransferEngine::new(wake)) {
            // The kernel would start it on a thread of its own, and tell of its end by one that is bound to the CPU of the disk's interrupt:
            // a tick later where something else spins there. Who makes a system call has its end at once.
            TransferEngine::Ring(_) if is_alone && pending.waits_for_journal() => {
                self.give_to_threads(pending);
            }
            TransferEngine::Ring(ring) => ring.start(pending),
            TransferEngine::Threads => self.give_to_threads(pending),
        }
    }

    /// Lets a thread of the store carry it out.
    fn give_to_threads(&self, mut pending: PendingTransfer) {
        let (returns, pool) = (self.returns.clone(), Arc::clone(&pending.device.pool));
        pool.run(move || {
            let run = || {
                pending.begins();
                pending.transfer.run();
            };
            if let Err(panic) = caught(run) {
                pending.transfer.error = Some(panic);
            }
            returns.push(pending);
        });
    }

    /// The next transfer of the ring that has ended.
    fn next_of_ring(&mut self) -> Option<PendingTransfer> {
        let Some(TransferEngine::Ring(ring)) = &mut self.transfers else {
            return None;
        };
        let next = ring.next();
        for refused in ring.take_refused() {
            self.give_to_threads(refused);
        }
        next
    }

    /// The way back for an operation that is made to wait elsewhere.
    pub(crate) fn returns(&self) -> Returns {
        self.returns.clone()
    }

    /// Notes that an operation waits elsewhere from its start and will come by [`CompletionQueue::returns`].
    pub(crate) fn expect_back(&mut self) {
        self.expected += 1;
    }

    /// Whether no transfer is under way and nobody was sent to a commit in this round.
    pub(crate) fn is_idle(&self) -> bool {
        self.commits.is_empty()
            && self.expected == 0
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
        let waiter = Waiter::new(self.handle(), token, task);
        self.commits.push((Arc::clone(committer), waiter));
    }

    /// Has `writer` write into the page cache, with all other writes of the round.
    pub(crate) fn write(
        &mut self,
        writer: &Arc<Writer>,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) {
        let known = self
            .writes
            .iter()
            .rposition(|(known, _)| Arc::ptr_eq(known, writer));
        let at = known.unwrap_or_else(|| {
            let batch = writer.batch(&self.handle);
            self.writes.push((Arc::clone(writer), batch));
            self.writes.len() - 1
        });
        self.writes[at].1.push(token, extent, from, durability);
    }

    /// Where overlays leave what is to be done at the end of an operation.
    pub(crate) fn overlays(&mut self) -> &mut Deferred {
        &mut self.overlays
    }

    /// The next event of a store.
    #[inline]
    fn next_of_store(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.handle.pop() {
                return Some(completion);
            }
            let pending = match self.returns.pop() {
                Some(pending) => pending,
                None => self.next_of_ring()?,
            };
            let device = pending.device;
            match pending.continuation.ended(pending.transfer) {
                Next::Done(completion) => {
                    self.expected -= 1;
                    return Some(completion);
                }
                Next::Commit(committer, token, task) => {
                    self.expected -= 1;
                    self.commit(&committer, token, task);
                }
                Next::Start(transfer, continuation) => self.carry_out(PendingTransfer {
                    device,
                    transfer,
                    continuation,
                }),
                Next::Parked => {}
            }
        }
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
        self.handle.waker().fd()
    }

    /// Whether something may have ended. Without a system call.
    pub fn has_news(&mut self) -> bool {
        let ring_news = match &mut self.transfers {
            Some(TransferEngine::Ring(ring)) => ring.has_news(),
            _ => false,
        };
        ring_news || !self.handle.is_empty() || !self.returns.is_empty()
    }

    /// To be called before polling [`CompletionQueue::fd`]; false means that something arrived meanwhile: do not sleep.
    pub fn prepare_sleep(&mut self) -> bool {
        self.submit(Instant::now());
        self.handle.waker().prepare_sleep();
        if !self.has_news() {
            return true;
        }
        self.awake();
        false
    }

    /// To be called after polling.
    pub fn awake(&mut self) {
        self.handle.waker().awake();
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
            let completion = self.next_of_store()?;
            match self.overlays.follow(completion, self.now) {
                Followed::Tell(completion) => return Some(completion),
                Followed::Commit(committer, token, task) => self.commit(&committer, token, task),
            }
        }
    }
}

impl Drop for CompletionQueue {
    /// Operations under way go on to their ends, which nobody hears of: what they hold is then free again. Waits for the disk.
    fn drop(&mut self) {
        loop {
            self.submit(Instant::now());
            while self.next().is_some() {}
            if self.expected == 0 {
                break;
            }
            if self.prepare_sleep() {
                // EINTR only makes the loop go round once more.
                let _ = poll(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)], None);
                self.awake();
            }
        }
        self.submit(Instant::now());
    }
}

/// Who carries transfers out.
#[derive(Debug)]
enum TransferEngine {
    Ring(Box<Ring>),
    /// Those of the file's device.
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
