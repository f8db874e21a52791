//! Writes into the page cache, by a thread of the store.
//!
//! `pwrite` into a page cache waits where nobody can foresee it: for the file system's journal, for a page's lock, for the kernel's limit
//! of dirty pages. Some file systems can be asked not to wait (`RWF_NOWAIT`; ext4 and block devices cannot), and then the worker
//! writes itself. Else it copies the payload and goes on. One thread for each store takes all that came meanwhile, puts adjacent writes together and
//! writes: a file system lets one writer into a file at a time anyway.
//!
//! The copies have bounded memory ([`LIMIT`]). Beyond it a write is told to come again when there is room.
//!
//! A durable write that is alone ([`LoneWrite`]) goes to the thread that commits, which makes it first.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::commit::machine::Epoch;
use crate::commit::{Committer, Medium, Task, UnmadeWrite, Waiter};
use crate::handle::{QueueHandle, unanswered};
use crate::io::device::Waiting;
use crate::io::threads::{Threads, Working, caught};
use engine::{
    Completion, CompletionHandle as _, Durability, Event, Extent, Fault, FaultKind, SECTOR_BYTES, Token,
};

/// Payload bytes that a store may hold. A thousand frames of 8 KiB.
const LIMIT: usize = 8 << 20;
/// Writes in one system call.
const PIECES: usize = 64;
/// Payload bytes that are written before their writers are told.
const ROUND_BYTES: usize = 1 << 20;
/// An idle thread ends after this time; the next write starts another.
const IDLE: Duration = Duration::from_secs(10);
/// Empty batches that are kept for the next round, and the most bytes that one of them may keep.
const SPARES: usize = 4;
const SPARE_BYTES: usize = 1 << 20;

/// Where the writes go; a file, or a fake in tests.
pub(crate) trait Cache: Send + Sync + std::fmt::Debug {
    /// Writes the pieces, which follow each other, from `extent`'s start on; waits for the disk, if it must. `by`: who waits.
    fn write(&self, by: Waiting, extent: Extent, pieces: &[&[u8]]) -> Result<(), Fault>;

    /// For the thread's name.
    fn name(&self) -> String;
}

/// Writes of one queue in one round.
#[derive(Debug)]
pub(crate) struct Batch {
    handle: QueueHandle,
    payload: Vec<u8>,
    writes: Vec<Write>,
    /// Something was posted since the queue's worker was woken last.
    has_news: Cell<bool>,
}

#[derive(Debug)]
struct Write {
    token: Token,
    extent: Extent,
    /// Where its bytes begin in the batch's payload.
    at: usize,
    durability: Durability,
    /// Its writer is told, or somebody else is to tell.
    is_done: Cell<bool>,
}

/// A durable write that is made by the thread that commits.
#[derive(Debug)]
pub(crate) struct LoneWrite {
    cache: Arc<dyn Cache>,
    extent: Extent,
    payload: Box<[u8]>,
}

impl UnmadeWrite for LoneWrite {
    fn lba(&self) -> u64 {
        self.extent.lba
    }

    fn make(&mut self, _: &dyn Medium) -> Result<(), Fault> {
        self.cache
            .write(Waiting::LoneWrite, self.extent, &[&self.payload])
    }
}

impl Batch {
    /// Takes a write in: copies its payload.
    pub(crate) fn push(&mut self, token: Token, extent: Extent, from: &[&[u8]], durability: Durability) {
        self.writes.push(Write {
            token,
            extent,
            at: self.payload.len(),
            durability,
            is_done: Cell::new(false),
        });
        for piece in from {
            self.payload.extend_from_slice(piece);
        }
    }

    /// Tells who wrote; [`Batch::wake`] is to follow.
    fn tell(&self, write: &Write, result: Result<(), Fault>) {
        write.is_done.set(true);
        self.has_news.set(true);
        self.handle.post_quietly(Completion {
            token: write.token,
            event: Event::Finished(result.map(|()| None)),
        });
    }

    /// Tells those who were not told because the thread panicked.
    fn tell_rest(&self) {
        for write in self.writes.iter().filter(|write| !write.is_done.get()) {
            self.tell(write, Err(unanswered(FaultKind::Write)));
        }
        self.wake();
    }

    /// Wakes the worker, if something was posted: one whose writes all wait for a commit would look and sleep again.
    fn wake(&self) {
        if self.has_news.take() {
            self.handle.wake();
        }
    }

    fn bytes(&self, write: &Write) -> &[u8] {
        &self.payload[write.at..][..(write.extent.count * SECTOR_BYTES) as usize]
    }
}

/// The writes of one store.
#[derive(Debug)]
pub(crate) struct Writer {
    cache: Arc<dyn Cache>,
    committer: Arc<Committer>,
    threads: Arc<Threads>,
    /// Payload bytes of writes that have not ended.
    held: AtomicUsize,
    state: Mutex<State>,
    work: Condvar,
    /// Nobody works any more.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Batch>,
    spares: Vec<(Vec<u8>, Vec<Write>)>,
    /// Writes that found no room.
    refused: Vec<(QueueHandle, Token)>,
    working: Working,
    closed: bool,
}

impl State {
    /// What is written together.
    fn round(&mut self) -> Vec<Batch> {
        let mut round = Vec::new();
        let mut bytes = 0;
        while bytes < ROUND_BYTES
            && let Some(batch) = self.batches.pop_front()
        {
            bytes += batch.payload.len();
            round.push(batch);
        }
        round
    }
}

impl Writer {
    /// Writes to `cache`, by one of the threads of its device; `committer` hears of it.
    pub(crate) fn new(
        cache: Arc<dyn Cache>,
        committer: &Arc<Committer>,
        threads: &Arc<Threads>,
    ) -> Arc<Writer> {
        Arc::new(Writer {
            cache,
            committer: Arc::clone(committer),
            threads: Arc::clone(threads),
            held: AtomicUsize::new(0),
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
        })
    }

    /// Copies a write that is to be made by the thread that commits. `None`: others are under way here, and one commit is to cover them all.
    pub(crate) fn lone(&self, extent: Extent, from: &[&[u8]]) -> Option<LoneWrite> {
        (self.held.load(Ordering::Relaxed) == 0).then(|| LoneWrite {
            cache: Arc::clone(&self.cache),
            extent,
            payload: from.concat().into(),
        })
    }

    /// Takes room for a write. False: there is none, and the write will be asked to come again.
    pub(crate) fn admit(&self, handle: impl FnOnce() -> QueueHandle, token: Token, extent: Extent) -> bool {
        let bytes = (extent.count * SECTOR_BYTES) as usize;
        if self.held.fetch_add(bytes, Ordering::Relaxed) + bytes <= LIMIT {
            return true;
        }
        let mut state = self.state.lock();
        // Under the lock: who gives room back looks at the list afterwards. A lone write is never too large.
        let before = self.held.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        if before == 0 {
            self.held.fetch_add(bytes, Ordering::Relaxed);
            return true;
        }
        state.refused.push((handle(), token));
        false
    }

    /// An empty batch for a queue's round.
    pub(crate) fn batch(&self, handle: &QueueHandle) -> Batch {
        let (payload, writes) = self.state.lock().spares.pop().unwrap_or_default();
        Batch {
            handle: handle.clone(),
            payload,
            writes,
            has_news: Cell::new(false),
        }
    }

    /// Has a batch written.
    pub(crate) fn submit(self: &Arc<Self>, batch: Batch) {
        let mut state = self.state.lock();
        state.batches.push_back(batch);
        if state.working.running {
            self.work.notify_one();
            return;
        }
        self.start(&mut state);
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        state.working.running = true;
        let writer = Arc::clone(self);
        let name = format!("write {}", self.cache.name());
        state.working.thread = self.threads.start(name, move || writer.run());
        if state.working.thread.is_none() {
            state.working.spared = true;
            let writer = Arc::clone(self);
            self.threads.spare(move || writer.help());
        }
        // Whoever waits for the end has somebody else to wait for.
        self.ended.notify_all();
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let round = state.round();
            if !round.is_empty() {
                MutexGuard::unlocked(&mut state, || self.carry_out(round));
            } else if state.closed
                || self.work.wait_for(&mut state, IDLE).timed_out() && state.batches.is_empty()
            {
                break;
            }
        }
        state.working.running = false;
        self.ended.notify_all();
    }

    /// One round, by the thread that other stores of the device need, too.
    fn help(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let round = state.round();
        MutexGuard::unlocked(&mut state, || self.carry_out(round));
        state.working.running = false;
        match state.batches.is_empty() {
            true => drop(self.ended.notify_all()),
            // By a thread of its own, if there is one by now.
            false => self.start(&mut state),
        }
    }

    fn carry_out(&self, round: Vec<Batch>) {
        if caught(|| self.write(&round)).is_err() {
            round.iter().for_each(Batch::tell_rest);
        }
        round.into_iter().for_each(|batch| self.give_back(batch));
    }

    /// Writes a round, in the file's order, and tells who wrote.
    fn write(&self, round: &[Batch]) {
        let mut writes: Vec<(&Batch, &Write)> = round
            .iter()
            .flat_map(|batch| batch.writes.iter().map(move |write| (batch, write)))
            .collect();
        writes.sort_unstable_by_key(|(_, write)| write.extent.lba);
        let mut durable = Vec::new();
        let adjacent =
            |(_, one): &(&Batch, &Write), (_, next): &(&Batch, &Write)| one.extent.end() == next.extent.lba;
        for run in writes.chunk_by(adjacent).flat_map(|run| run.chunks(PIECES)) {
            self.write_run(run, &mut durable);
        }
        if !durable.is_empty() {
            self.committer.submit(durable);
        }
        round.iter().for_each(Batch::wake);
    }

    /// Writes what follows each other in one system call. Who must wait for a commit goes to `durable`.
    fn write_run(&self, run: &[(&Batch, &Write)], durable: &mut Vec<Waiter>) {
        let (first, last) = (run[0].1.extent.lba, run[run.len() - 1].1.extent.end());
        let extent = Extent {
            lba: first,
            count: last - first,
        };
        let mut pieces: arrayvec::ArrayVec<&[u8], PIECES> = arrayvec::ArrayVec::new();
        pieces.extend(run.iter().map(|(batch, write)| batch.bytes(write)));
        match self.enter_and_write(extent, &pieces) {
            Ok(entered) => {
                let late = self.committer.is_late(Instant::now());
                let waiters = run
                    .iter()
                    .filter_map(|(batch, write)| self.written(batch, write, entered, late));
                durable.extend(waiters);
            }
            Err(fault) if run.len() == 1 => {
                let (batch, write) = run[0];
                batch.tell(write, Err(fault));
            }
            // Whose fault it is, each learns by itself. To write the same bytes again changes nothing.
            Err(_) => run.chunks(1).for_each(|one| self.write_run(one, durable)),
        }
    }

    /// Into the cache. The stamp is taken here, where the data enters: a commit that failed while it waited has not taken it down.
    fn enter_and_write(&self, extent: Extent, pieces: &[&[u8]]) -> Result<Epoch, Fault> {
        let entered = self.committer.enter(extent.lba)?;
        self.cache.write(Waiting::Write, extent, pieces)?;
        Ok(entered)
    }

    /// The end of a write that is in the cache: it waits for a commit, or its writer is told.
    fn written(&self, batch: &Batch, write: &Write, entered: Epoch, late: bool) -> Option<Waiter> {
        if write.durability == Durability::Durable || late {
            write.is_done.set(true);
            let task = Task::Write(write.extent.lba, entered);
            return Some(Waiter::new(batch.handle.clone(), write.token, task));
        }
        batch.tell(write, self.committer.acknowledge(write.extent, entered));
        None
    }

    /// Its payload has been written, or will not be: there is room for others.
    fn give_back(&self, mut batch: Batch) {
        let bytes = batch.payload.len();
        let mut state = self.state.lock();
        let left = self.held.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let refused = match left <= LIMIT / 2 {
            true => std::mem::take(&mut state.refused),
            false => Vec::new(),
        };
        if state.spares.len() < SPARES && batch.payload.capacity() <= SPARE_BYTES {
            batch.payload.clear();
            batch.writes.clear();
            state.spares.push((batch.payload, batch.writes));
        }
        drop(state);
        for (handle, token) in refused {
            handle.post(Completion {
                token,
                event: Event::Again,
            });
        }
    }

    /// Waits until all is written; then the thread ends. Blocks.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.work.notify_one();
        if !self.threads.wait(state, &self.ended, |state| &mut state.working) {
            tracing::error!("the thread that writes {} panicked", self.cache.name());
        }
        self.state.lock().closed = false;
    }

    /// Nobody will write any more: the thread ends when all is written, without anyone waiting for it.
    pub(crate) fn abandon(&self) {
        self.state.lock().closed = true;
        self.work.notify_one();
    }
}
