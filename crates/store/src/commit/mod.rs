//! Group commit and bounded write-back: the thread that calls fdatasync so that workers need not.
//!
//! Who waits while a commit runs is in the next one, together with all others that came meanwhile. A write-back
//! write only raises a flag; `flush_interval` after the first one the thread commits for nobody in particular.
//!
//! **Errors.** Linux reports a failed write-back to fdatasync once and then forgets it, and drops the dirty marks of
//! the pages concerned. So a failed commit is told to everyone it covered, and *remembered*: every flush fails until
//! one that was asked for after the failure has both been told of it and committed successfully itself. What
//! write-back writes lost to the failure is not written again by us; the failed flush is how their owner learns it.
//! A durable write after a failure speaks for itself only: its own commit's result is its answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::handle::QueueHandle;
use crate::io::transfer::Transfer;
use engine::{Completion, CompletionHandle as _, Event, Fault, FaultKind, SECTOR_BYTES, Token};

/// An idle thread ends after this time; the next work starts another.
const IDLE: Duration = Duration::from_secs(10);

/// What the thread does to the medium; a file, or a fake in tests.
pub(crate) trait Medium: Send + Sync + std::fmt::Debug {
    /// Puts everything written so far on the medium.
    fn commit(&self) -> io::Result<()>;

    /// Logs and counts a failure, and gives the fault to answer with.
    fn fault(&self, lba: u64, source: io::Error) -> Fault;

    /// For the thread's name.
    fn name(&self) -> String;
}

/// Who waits for a commit.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) handle: QueueHandle,
    pub(crate) token: Token,
    pub(crate) task: Task,
}

/// What is waited for.
#[derive(Debug)]
pub(crate) enum Task {
    /// A durable write or a TRIM, already in the page cache or the medium's; its first sector.
    Write(u64),
    /// A durable write yet to be made, before the commit; its first sector.
    LoneWrite(Box<Transfer>, u64),
    /// A flush: also told about earlier failures.
    Flush,
}

impl Task {
    /// The sector that a failure is about.
    fn lba(&self) -> u64 {
        match self {
            Task::Write(lba) => *lba,
            Task::LoneWrite(transfer, lba) => lba + transfer.done as u64 / SECTOR_BYTES,
            Task::Flush => 0,
        }
    }
}

/// Commits for one backing object.
#[derive(Debug)]
pub(crate) struct Committer {
    medium: Arc<dyn Medium>,
    flush_interval: Duration,
    /// Write-back data has been written since the last commit began.
    dirty: AtomicBool,
    state: Mutex<State>,
    work: Condvar,
    counters: Counters,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiter>,
    /// When write-back data must be committed.
    due: Option<Instant>,
    /// A failure that no flush has been told about yet (raw OS error).
    owed: Option<i32>,
    running: bool,
    /// A commit is under way.
    busy: bool,
    /// Waiters in the last group.
    last_group: usize,
    closed: bool,
    /// The thread, also after its end, until it is waited for or followed by another.
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    failed: AtomicU64,
    waiters: AtomicU64,
    largest_group: AtomicU64,
    commit_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Committer {
    pub(crate) fn new(medium: Arc<dyn Medium>, flush_interval: Duration) -> Arc<Committer> {
        Arc::new(Committer {
            medium,
            flush_interval,
            dirty: AtomicBool::new(false),
            state: Mutex::default(),
            work: Condvar::new(),
            counters: Counters::default(),
        })
    }

    /// Notes a write-back write, after its data is in the page cache (and after a `SeqCst` fence, as
    /// [`crate::mapped::mmap::Mapping::intact`] has one: either we see the flag down, or the commit sees our data).
    #[inline]
    pub(crate) fn note_write(self: &Arc<Self>) {
        if !self.dirty.load(Ordering::Relaxed) {
            self.first_write();
        }
    }

    #[cold]
    fn first_write(self: &Arc<Self>) {
        if self.dirty.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.state.lock();
        state
            .due
            .get_or_insert_with(|| Instant::now() + self.flush_interval);
        self.start(&mut state);
    }

    /// Commits for all of `waiters`, as one group if nothing is under way.
    pub(crate) fn submit(self: &Arc<Self>, waiters: impl IntoIterator<Item = Waiter>) {
        let mut state = self.state.lock();
        state.waiting.extend(waiters);
        self.start(&mut state);
    }

    /// Whether whoever comes now is likely to be alone in its group: nobody waits, and nobody came meanwhile the
    /// last time.
    pub(crate) fn is_quiet(&self) -> bool {
        let state = self.state.lock();
        !state.busy && state.waiting.is_empty() && state.last_group <= 1
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        if state.running {
            self.work.notify_one();
            return;
        }
        state.running = true;
        let committer = Arc::clone(self);
        let thread = std::thread::Builder::new().name(format!("commit {}", self.medium.name()));
        let started = thread
            .spawn(move || committer.run())
            .map(|thread| state.thread = Some(thread));
        if let Err(error) = started {
            state.running = false;
            state.due = None;
            self.dirty.store(false, Ordering::SeqCst);
            let raw = error.raw_os_error().unwrap_or(libc::EAGAIN);
            state.owed = Some(raw);
            for waiter in state.waiting.drain(..) {
                self.answer(&waiter, Some(raw));
            }
        }
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            let due = state.due.is_some_and(|due| due <= now || state.closed);
            if !state.waiting.is_empty() || due {
                let mut group = std::mem::take(&mut state.waiting);
                state.due = None;
                state.busy = true;
                // A write that still sees the flag up has its data where this commit finds it.
                self.dirty.store(false, Ordering::SeqCst);
                let owed = state.owed;
                drop(state);
                let result = self.commit(&mut group);
                state = self.state.lock();
                state.busy = false;
                state.last_group = group.len();
                self.finish(&mut state, group, owed, result);
            } else if state.closed {
                break;
            } else {
                let until = state.due.unwrap_or(now + IDLE);
                let timed_out = self.work.wait_until(&mut state, until).timed_out();
                if timed_out && state.due.is_none() && state.waiting.is_empty() {
                    break;
                }
            }
        }
        state.running = false;
    }

    /// Does what is to be done before, then one commit for all. The result is who failed before, by place in the
    /// group, and the commit's raw OS error.
    fn commit(&self, group: &mut [Waiter]) -> (Vec<(usize, io::Error)>, Option<i32>) {
        let mut failed_before = Vec::new();
        for (index, waiter) in group.iter_mut().enumerate() {
            let done = match &mut waiter.task {
                Task::LoneWrite(transfer, _) => {
                    transfer.run();
                    transfer.shortfall().map_or(Ok(()), Err)
                }
                Task::Write(_) | Task::Flush => Ok(()),
            };
            if let Err(error) = done {
                failed_before.push((index, error));
            }
        }
        let began = Instant::now();
        let result = self.medium.commit();
        let took_us = began.elapsed().as_micros() as u64;
        let counters = &self.counters;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.waiters.fetch_add(group.len() as u64, Ordering::Relaxed);
        counters
            .largest_group
            .fetch_max(group.len() as u64, Ordering::Relaxed);
        counters.commit_us.fetch_add(took_us, Ordering::Relaxed);
        counters.longest_us.fetch_max(took_us, Ordering::Relaxed);
        let failed = result.err().map(|error| {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            let raw = error.raw_os_error().unwrap_or(libc::EIO);
            // Logs; the answers are made one by one.
            self.medium.fault(
                0,
                io::Error::other(format!("committing what was written: {error}")),
            );
            raw
        });
        (failed_before, failed)
    }

    fn finish(
        &self,
        state: &mut State,
        group: Vec<Waiter>,
        owed_before: Option<i32>,
        (mut failed_before, failed): (Vec<(usize, io::Error)>, Option<i32>),
    ) {
        let told = group.iter().any(|waiter| matches!(waiter.task, Task::Flush));
        state.owed = match failed {
            Some(raw) => Some(raw),
            None if told => None,
            None => owed_before,
        };
        for (index, waiter) in group.into_iter().enumerate() {
            let before = failed_before.iter().position(|(failed, _)| *failed == index);
            match (&waiter.task, before) {
                (task, Some(at)) => {
                    let (_, error) = failed_before.swap_remove(at);
                    let fault = self.medium.fault(task.lba(), error);
                    post(&waiter, Err(fault));
                }
                (Task::Flush, None) => self.answer(&waiter, failed.or(owed_before)),
                (_, None) => self.answer(&waiter, failed),
            }
        }
    }

    fn answer(&self, waiter: &Waiter, failed: Option<i32>) {
        let result = match failed {
            None => Ok(None),
            Some(raw) => Err(Fault {
                kind: FaultKind::Write,
                lba: waiter.task.lba(),
                source: io::Error::from_raw_os_error(raw),
            }),
        };
        post(waiter, result);
    }

    /// A last commit, waiting for what is under way; then the thread ends. Blocks.
    ///
    /// # Errors
    /// Of the last commit, or an earlier failure that no flush was told about.
    pub(crate) fn close(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.closed = true;
        self.work.notify_one();
        let thread = state.thread.take();
        drop(state);
        // To its very end: it holds the file, and with it the lock on it.
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the commit thread of {} panicked", self.medium.name());
        }
        let mut state = self.state.lock();
        state.closed = false;
        self.dirty.store(false, Ordering::SeqCst);
        self.medium.commit()?;
        match state.owed {
            None => Ok(()),
            Some(raw) => Err(io::Error::from_raw_os_error(raw)),
        }
    }

    /// Nobody will write any more: commits what is unsynced and ends, without anyone waiting for it.
    pub(crate) fn abandon(&self) {
        self.state.lock().closed = true;
        self.work.notify_one();
    }

    /// Counters by name.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.counters;
        [
            ("commits", &counters.commits),
            ("commits_failed", &counters.failed),
            ("commit_waiters", &counters.waiters),
            ("commit_group_max", &counters.largest_group),
            ("commit_us_total", &counters.commit_us),
            ("commit_us_max", &counters.longest_us),
        ]
        .map(|(name, figure)| (name, figure.load(Ordering::Relaxed)))
        .to_vec()
    }
}

fn post(waiter: &Waiter, result: Result<Option<Box<[u8]>>, Fault>) {
    waiter.handle.post(Completion {
        token: waiter.token,
        event: Event::Finished(result),
    });
}
