//! Threads that wait for one store's disk in place of a worker. Each store has its own, so that a disk which hangs
//! keeps nobody else's waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Threads of a store.
const THREADS: usize = 8;
/// An idle thread ends after this time.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The threads of one store, started when there is something to do.
pub(crate) struct Pool {
    name: String,
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
    pub(crate) fn new(name: &str) -> Arc<Pool> {
        Arc::new(Pool {
            name: name.to_owned(),
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
        if let Err(job) = self.offer(Box::new(job)) {
            // None at all: then this one has to wait for the disk.
            job();
        }
    }

    /// The same for what need not be done. False: no thread can be had, and nobody does it.
    pub(crate) fn try_run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> bool {
        self.offer(Box::new(job)).is_ok()
    }

    /// Gives the job back if there is no thread, and none can be had.
    fn offer(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let mut state = self.state.lock();
        if state.idle <= state.jobs.len() && state.threads < THREADS {
            let pool = Arc::clone(self);
            let started = std::thread::Builder::new()
                .name(format!("disk {}", self.name))
                .spawn(move || pool.work());
            match started {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads > 0 => {
                    tracing::debug!("no further thread for the disk of {}: {error}", self.name);
                }
                Err(error) => {
                    tracing::warn!("no thread for the disk of {}: {error}", self.name);
                    return Err(job);
                }
            }
        }
        state.jobs.push_back(job);
        self.work.notify_one();
        Ok(())
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
                state.busy += 1;
                drop(state);
                job();
                state = self.state.lock();
                state.busy -= 1;
                if state.busy == 0 && state.jobs.is_empty() {
                    self.quiet.notify_all();
                }
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

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn jobs_that_hang_keep_neither_the_rest_of_the_pool_nor_another_pool_waiting() {
        let (stuck, other) = (Pool::new("stuck"), Pool::new("other"));
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
        assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), "the last thread");
        let (open, gate) = channel::<()>();
        gates.push(open);
        stuck.run(move || {
            let _ = gate.recv();
        });
        let report = ended.clone();
        stuck.run(move || report.send("after the gates").unwrap());
        other.run(move || ended.send("another pool").unwrap());
        assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), "another pool");
        assert_eq!(stuck.state.lock().threads, THREADS);
        drop(gates);
        assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), "after the gates");
    }
}
