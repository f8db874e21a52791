//! The thread around [`CommitMachine`], and what workers see of it without a lock.

mod failing;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use engine::{Extent, Fault, FaultKind, Health};

use self::failing::UnderWay;
use super::counters::Counters;
use super::dirty::DirtyMap;
use super::machine::{CommitAction, CommitAnswer, CommitMachine, Epoch, Failure, Member, Time};
use super::policy::{LossListener, Policy};
use super::task::{Medium, Task, Waiter};
use crate::backing::short_file;
use crate::io::threads::{Threads, Working, caught};

/// An idle thread ends after this time; the next work starts another.
const IDLE: Duration = Duration::from_secs(10);

/// In [`Committer::gate`]: no writes are taken. The other bits are the machine's epoch.
const STOPPED: u64 = 1 << 63;

/// Commits for one backing object.
#[derive(Debug)]
pub(crate) struct Committer {
    medium: Arc<dyn Medium>,
    threads: Arc<Threads>,
    start: Instant,
    /// Where acknowledged writes lie that no commit covers.
    dirty: DirtyMap,
    /// The machine knows of an acknowledged write that no commit covers.
    noted: AtomicBool,
    /// The machine's epoch, and [`STOPPED`]: one look tells a writer both.
    gate: AtomicU64,
    /// The machine's `late_at` in µs; `u64::MAX`: none.
    late_at_us: AtomicU64,
    state: Mutex<State>,
    work: Condvar,
    /// Nobody works any more.
    ended: Condvar,
    counters: Counters,
    on_loss: LossListener,
}

#[derive(Debug)]
struct State {
    machine: CommitMachine<Waiter>,
    working: Working,
    /// When the thread that the device keeps will look, without one of its own.
    spare_at: Option<Time>,
    /// The commit that runs.
    under_way: Option<UnderWay>,
    /// [`Committer::close`] was called.
    closed: bool,
}

impl Committer {
    /// For what is written to `medium`, by one of the threads of its device.
    pub(crate) fn new(medium: Arc<dyn Medium>, policy: Policy, threads: &Arc<Threads>) -> Arc<Committer> {
        let Policy {
            flush_interval,
            on_lost_write,
            losses,
            leftovers,
        } = policy;
        let machine = CommitMachine::new(flush_interval, on_lost_write, losses.known);
        let committer = Arc::new(Committer {
            dirty: DirtyMap::new(medium.sectors()),
            medium,
            threads: Arc::clone(threads),
            start: Instant::now(),
            noted: AtomicBool::new(leftovers),
            gate: AtomicU64::new(0),
            late_at_us: AtomicU64::new(u64::MAX),
            state: Mutex::new(State {
                machine,
                working: Working::default(),
                spare_at: None,
                under_way: None,
                closed: false,
            }),
            work: Condvar::new(),
            ended: Condvar::new(),
            counters: Counters::default(),
            on_loss: LossListener(losses.told),
        });
        let mut state = committer.state.lock();
        if leftovers {
            committer.dirty.note_all();
            state.machine.commit_leftovers(committer.time(Instant::now()));
            committer.start(&mut state);
        }
        committer.publish(&state.machine);
        drop(state);
        committer
    }

    fn time(&self, now: Instant) -> Time {
        now.saturating_duration_since(self.start)
    }

    /// Lets workers see what the machine decided.
    fn publish(&self, machine: &CommitMachine<Waiter>) {
        let stopped = if machine.is_stopped() { STOPPED } else { 0 };
        self.gate.store(machine.epoch().0 | stopped, Ordering::SeqCst);
        let late_at = machine.late_at().map_or(u64::MAX, |time| time.as_micros() as u64);
        self.late_at_us.store(late_at, Ordering::Relaxed);
    }

    /// The stamp of a write or TRIM that begins to enter the cache now.
    ///
    /// # Errors
    /// While acknowledged writes are lost and the operator has not accepted it.
    #[inline]
    pub(crate) fn enter(&self, lba: u64) -> Result<Epoch, Fault> {
        let gate = self.gate.load(Ordering::SeqCst);
        if gate & STOPPED == 0 {
            return Ok(Epoch(gate));
        }
        Err(self.refused(lba))
    }

    #[cold]
    fn refused(&self, lba: u64) -> Fault {
        let state = self.state.lock();
        let failure = match state.machine.lost() {
            Some(lost) => Failure::Lost(lost.clone()),
            None => Failure::Commit(libc::EIO),
        };
        fault(lba, failure)
    }

    /// Whether a write-back write must wait for its commit, because the medium does not keep up. `now` is about now.
    #[inline]
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        let late_at = self.late_at_us.load(Ordering::Relaxed);
        late_at != u64::MAX && self.time(now).as_micros() as u64 >= late_at
    }

    /// A write-back write is about to be acknowledged. Its data is in the cache, and a `SeqCst` fence behind it, as
    /// [`crate::mapped::mmap::Mapping::write`] has one: either we see no note of its region, or the next commit sees its data.
    ///
    /// # Errors
    /// When a commit has failed since [`Committer::enter`]: the write may be lost.
    #[inline]
    pub(crate) fn acknowledge(self: &Arc<Self>, extent: Extent, entered: Epoch) -> Result<(), Fault> {
        if !self.dirty.note(extent) {
            self.first_write();
        }
        // After the note: who misses the failure has his note seen by it.
        match self.gate.load(Ordering::SeqCst) == entered.0 {
            true => Ok(()),
            false => Err(self.refused(extent.lba)),
        }
    }

    #[cold]
    fn first_write(self: &Arc<Self>) {
        if self.noted.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.state.lock();
        state.machine.acknowledged(self.time(Instant::now()));
        self.publish(&state.machine);
        self.start(&mut state);
    }

    /// Commits for all of `waiters`, as one group if nothing is under way.
    pub(crate) fn submit(self: &Arc<Self>, waiters: impl IntoIterator<Item = Waiter>) {
        let mut state = self.state.lock();
        let mut refused = Vec::new();
        for waiter in waiters {
            let wish = waiter.task.wish();
            refused.extend(state.machine.join(waiter, wish));
        }
        self.start(&mut state);
        drop(state);
        answer(refused);
    }

    /// Whether whoever comes now is likely to be alone in its group.
    pub(crate) fn is_quiet(&self) -> bool {
        self.state.lock().machine.is_quiet()
    }

    /// Some other open file met an error of a write-back: the committer's own has it, too, and is to tell.
    pub(crate) fn suspect(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.machine.commit_leftovers(self.time(Instant::now()));
        self.start(&mut state);
    }

    /// Has a commit find out what is lost where the file was cut short. Where a loss stands that is known, or its next commit finds it.
    pub(crate) fn look_for_cut(self: &Arc<Self>) {
        if !self.medium.is_cut() {
            return;
        }
        let mut state = self.state.lock();
        if !state.closed && state.machine.lost().is_none() {
            state.machine.commit_leftovers(self.time(Instant::now()));
            self.start(&mut state);
        }
    }

    /// Whether acknowledged writes are lost.
    pub(crate) fn health(&self) -> Health {
        let state = self.state.lock();
        state
            .machine
            .lost()
            .cloned()
            .map_or(Health::Healthy, Health::LostWrites)
    }

    /// For how many microseconds the oldest acknowledged write has been waiting for its commit; 0: there is none.
    pub(crate) fn uncommitted_us(&self) -> u64 {
        let oldest = self.state.lock().machine.oldest_uncommitted();
        oldest.map_or(0, |oldest| {
            self.time(Instant::now()).saturating_sub(oldest).as_micros() as u64
        })
    }

    /// The operator accepts what is lost.
    pub(crate) fn accept_lost_writes(&self) {
        let mut state = self.state.lock();
        if let Some(lost) = state.machine.lost() {
            self.medium.forget_cut(lost.extent);
        }
        state.machine.accept();
        self.publish(&state.machine);
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        if state.working.running {
            self.work.notify_one();
            return;
        }
        state.working.running = true;
        let committer = Arc::clone(self);
        let name = format!("commit {}", self.medium.name());
        state.working.thread = self
            .threads
            .start(name, move || committer.guarded(|| committer.run()));
        if state.working.thread.is_none() {
            state.working.spared = true;
            let committer = Arc::clone(self);
            self.threads.spare(move || committer.guarded(|| committer.help()));
        }
        self.ended.notify_all(); // Whoever waits for the end has somebody else to wait for.
    }

    /// One commit, or a look when one is due, by the thread that other stores of the device need, too.
    fn help(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let action = state.machine.poll(self.time(Instant::now()));
        if let CommitAction::Commit(group) = action {
            state = self.commit(state, group).0;
            state.working.running = false;
            // By a thread of its own, if there is one by now.
            return self.start(&mut state);
        }
        state.working.running = false;
        if let CommitAction::Wait(Some(due)) = action
            && state.spare_at.is_none_or(|at| at > due)
        {
            state.spare_at = Some(due);
            let committer = Arc::downgrade(self);
            self.threads.spare_at(self.start + due, move || {
                if let Some(committer) = committer.upgrade() {
                    let mut state = committer.state.lock();
                    state.spare_at = None;
                    committer.start(&mut state);
                }
            });
        }
        self.ended.notify_all();
    }

    fn run(&self) {
        let mut state = self.state.lock();
        // Who only committed what an earlier process left goes at once.
        let mut idle = Duration::ZERO;
        loop {
            let now = Instant::now();
            match state.machine.poll(self.time(now)) {
                CommitAction::Commit(group) => {
                    if !group.is_empty() || self.counters.any() {
                        idle = IDLE;
                    }
                    state = self.commit(state, group).0;
                }
                CommitAction::Wait(due) => {
                    let until = due.map_or(now + idle, |due| self.start + due);
                    let timed_out = self.work.wait_until(&mut state, until).timed_out();
                    // Asked anew: something may have come while the lock was free.
                    if timed_out && state.machine.is_idle() {
                        break;
                    }
                }
                CommitAction::End => break,
            }
        }
        state.working.running = false;
        self.ended.notify_all();
    }

    /// One commit, without the lock while it runs.
    fn commit<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        group: Vec<Member<Waiter>>,
    ) -> (MutexGuard<'a, State>, io::Result<()>) {
        // A write that finds its note has its data where this commit finds it.
        self.noted.store(false, Ordering::SeqCst);
        state.under_way = Some(UnderWay::covering(self.dirty.take()));
        self.publish(&state.machine);
        drop(state);
        let waiters = group.len();
        let group = caught(|| self.make(group)).unwrap_or_default();
        let began = Instant::now();
        let result = caught(|| self.medium.commit()).flatten();
        let cut = self.medium.take_cut();
        let failed = match (&result, cut) {
            (Ok(()), None) => None,
            (result, cut) => Some(self.failed(result.as_ref().err(), cut)),
        };
        let result = match cut {
            Some(_) => result.and(Err(short_file())),
            None => result,
        };
        self.counters.count(began.elapsed(), waiters, result.is_err());
        let mut state = self.state.lock();
        let stood = state.machine.lost().is_some();
        let answers = state.machine.done(group, failed.map_or(Ok(()), Err));
        state.under_way = None;
        self.publish(&state.machine);
        let lost = state.machine.lost().cloned();
        drop(state);
        if let Some(lost) = lost.filter(|_| !stood) {
            self.log(&lost);
        }
        answer(answers);
        (self.state.lock(), result)
    }

    /// Makes what is to be made before the commit; who fails at that is answered.
    fn make(&self, group: Vec<Member<Waiter>>) -> Vec<Member<Waiter>> {
        let make = |mut member: Member<Waiter>| {
            let made = match &mut member.who.task {
                Task::LoneWrite(write) => write.make(&*self.medium),
                Task::Write(..) | Task::Flush => Ok(()),
            };
            match made {
                Ok(()) => Some(member),
                Err(fault) => {
                    member.who.post(Err(fault));
                    None
                }
            }
        };
        group.into_iter().filter_map(make).collect()
    }

    /// A last commit, waiting for what is under way; then the thread ends. Blocks.
    ///
    /// # Errors
    /// Of the last commit, or that acknowledged writes are lost.
    pub(crate) fn close(self: &Arc<Self>) -> io::Result<()> {
        self.end();
        let closed = caught(|| self.last_commit());
        closed.inspect_err(|_| self.mend()).flatten()
    }

    fn last_commit(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.closed = true;
        state.machine.close(false);
        let CommitAction::Commit(group) = state.machine.begin() else {
            return Ok(());
        };
        let (state, result) = self.commit(state, group);
        result?;
        match state.machine.lost() {
            None => Ok(()),
            Some(lost) => Err(io::Error::other(lost.to_string())),
        }
    }

    /// Nobody will write any more: the thread commits what is unsynced and ends. Waits for that, since the thread holds the file,
    /// unless [`Committer::close`] has: then a worker may be the last one to let go, and it must not wait for a disk.
    pub(crate) fn abandon(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.closed {
            state.machine.close(true);
            self.work.notify_one();
            return;
        }
        drop(state);
        self.end();
    }

    /// What is unsynced is committed, and the thread ends. Blocks to its very end: it holds the file, and with it the lock on it.
    fn end(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.machine.close(true);
        self.work.notify_one();
        if state.spare_at.is_some() && !state.working.running {
            self.start(&mut state);
        }
        if !self.threads.wait(state, &self.ended, |state| &mut state.working) {
            tracing::error!("the commit thread of {} panicked", self.medium.describe());
        }
    }

    /// Whether a thread of its own works for it, and whether somebody closes it: who does holds the lock until it waits.
    #[cfg(test)]
    pub(crate) fn has_thread_and_end(&self) -> (bool, bool) {
        let state = self.state.lock();
        (state.working.thread.is_some(), state.machine.is_closed())
    }

    /// Counters by name.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.by_name()
    }
}

fn answer(answers: Vec<CommitAnswer<Waiter>>) {
    for CommitAnswer { who, result } in answers {
        let lba = who.task.lba();
        who.post(result.map_err(|failure| fault(lba, failure)));
    }
}

fn fault(lba: u64, failure: Failure) -> Fault {
    let source = match failure {
        Failure::Commit(errno) => io::Error::from_raw_os_error(errno),
        Failure::Lost(lost) => io::Error::other(lost.to_string()),
    };
    Fault {
        kind: FaultKind::Write,
        lba,
        source,
    }
}
