//! Threads that wait for one store's disk in place of a worker. Each store has its own, so that a disk which hangs
//! keeps nobody else's waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::io::threads::{Threads, caught};

/// Threads of a store.
const THREADS: usize = 8;
/// An idle thread ends after this time.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The threads of one store, started when there is something to do.
pub(crate) struct Pool {
    name: String,
    threads: Arc<Threads>,
    state: Mutex<State>,
    work: Condvar,
    /// All jobs have ended.
    quiet: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// Threads in a job.
    busy: usize,
    /// The thread that the device keeps will look.
    spare: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool without threads yet, for the file of this name.
    pub(crate) fn new(name: &str, threads: &Arc<Threads>) -> Arc<Pool> {
        Arc::new(Pool {
            name: name.to_owned(),
            threads: Arc::clone(threads),
            state: Mutex::default(),
            work: Condvar::new(),
            quiet: Condvar::new(),
        })
    }

    /// Jobs that no thread has taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().jobs.len()
    }

    /// Lets a thread run `job`, after those that came before it.
    pub(crate) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        let has_threads = self.grow(&mut state, 1);
        state.jobs.push_back(Box::new(job));
        self.work.notify_one();
        if !has_threads {
            self.take_spare(&mut state);
        }
    }

    /// The same for what need not be done. False: no thread can be had, and nobody does it.
    pub(crate) fn try_run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.state.lock();
        if !self.grow(&mut state, 1) && state.threads == 0 {
            return false;
        }
        state.jobs.push_back(Box::new(job));
        self.work.notify_one();
        true
    }

    /// Starts a thread if `more` jobs on top of those that wait need one. False: there is none to be had.
    fn grow(self: &Arc<Self>, state: &mut State, more: usize) -> bool {
        if state.idle >= state.jobs.len() + more || state.threads >= THREADS {
            return true;
        }
        let pool = Arc::clone(self);
        let started = self
            .threads
            .start(format!("disk {}", self.name), move || pool.work());
        state.threads += usize::from(started.is_some());
        started.is_some()
    }

    /// Has the device's kept thread help out.
    fn take_spare(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.spare, true) {
            let pool = Arc::clone(self);
            self.threads.spare(move || pool.help());
        }
    }

    /// One job, by the thread that other stores of the device need, too.
    fn help(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.spare = false;
        let Some(job) = state.jobs.pop_front() else { return };
        if !state.jobs.is_empty() && !self.grow(&mut state, 0) {
            self.take_spare(&mut state);
        }
        drop(self.do_job(state, job));
    }

    fn do_job<'a>(&'a self, mut state: MutexGuard<'a, State>, job: Job) -> MutexGuard<'a, State> {
        state.busy += 1;
        MutexGuard::unlocked(&mut state, || drop(caught(job)));
        state.busy -= 1;
        if state.busy == 0 && state.jobs.is_empty() {
            self.quiet.notify_all();
        }
        state
    }

    /// Waits until no job is left. Jobs hold the file, and with it the lock on it.
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        while state.busy > 0 || !state.jobs.is_empty() {
            self.quiet.wait(&mut state);
        }
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state = self.do_job(state, job);
                continue;
            }
            state.idle += 1;
            let timed_out = self.work.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if timed_out && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn jobs_that_hang_keep_neither_the_rest_of_the_pool_nor_another_pool_waiting() {
        let threads = Threads::new().unwrap();
        let (stuck, other) = (Pool::new("stuck", &threads), Pool::new("other", &threads));
        let (ended, ends) = channel();
        let mut gates = Vec::new();
        for _ in 1..THREADS {
            let (open, gate) = channel::<()>();
            gates.push(open);
            stuck.run(move || {
                let _ = gate.recv();
            });
        }
        let report = ended.clone();
        stuck.run(move || report.send("the last thread").unwrap());
        assert_eq!(ends.recv_timeout(TIMEOUT).unwrap(), "the last thread");
        let (open, gate) = channel::<()>();
        gates.push(open);
        stuck.run(move || {
            let _ = gate.recv();
        });
        let report = ended.clone();
        stuck.run(move || report.send("after the gates").unwrap());
        other.run(move || ended.send("another pool").unwrap());
        assert_eq!(ends.recv_timeout(TIMEOUT).unwrap(), "another pool");
        assert_eq!(stuck.state.lock().threads, THREADS);
        drop(gates);
        assert_eq!(ends.recv_timeout(TIMEOUT).unwrap(), "after the gates");
    }

    #[test]
    fn a_job_that_panics_ends_and_its_thread_goes_on() {
        let pool = Pool::new("panic", &Threads::new().unwrap());
        pool.run(|| panic!("on purpose, for a test"));
        pool.drain();
        let (ended, ends) = channel();
        pool.run(move || ended.send(()).unwrap());
        assert_eq!(ends.recv_timeout(TIMEOUT), Ok(()));
        pool.drain();
        assert!(pool.state.lock().threads <= 2);
    }

    #[test]
    fn without_threads_all_jobs_are_done_and_nobody_does_one_in_its_own() {
        let threads = Threads::refused();
        let pool = Pool::new("poor", &threads);
        let (ended, ends) = channel();
        for number in 0..100 {
            let ended = ended.clone();
            pool.run(move || ended.send((number, std::thread::current().id())).unwrap());
        }
        let own = std::thread::current().id();
        for number in 0..100 {
            let (which, by) = ends.recv_timeout(TIMEOUT).unwrap();
            assert!(which == number && by != own);
        }
        assert!(!pool.try_run(|| ()), "what need not be done is not");
        pool.drain();
        // The next one tries again.
        threads.give_again();
        pool.run(move || ended.send((100, std::thread::current().id())).unwrap());
        assert_eq!(ends.recv_timeout(TIMEOUT).unwrap().0, 100);
        assert_eq!(pool.state.lock().threads, 1);
    }
}
