//! Work that may block, on threads. A job that hangs in the kernel keeps no other from starting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use super::guard::caught;

/// Jobs at a time, as long as they get on.
const AT_A_TIME: usize = 8;
/// A job that takes longer does not count any more: it waits for a disk, not for a CPU.
const QUICK: Duration = Duration::from_millis(50);

/// Threads that jobs may have at most, whatever hangs.
pub(super) const THREADS_MAX: usize = 16384;

/// What a job does; its result is an event.
pub(super) type Work<E> = Box<dyn FnOnce() -> E + Send>;

/// Jobs that wait, and threads that take one after the other.
#[derive(Debug)]
pub(super) struct Jobs<E> {
    ends: UnboundedSender<E>,
    queue: Arc<Mutex<VecDeque<Job<E>>>>,
    /// When each thread took the job that it has now; `None`: it has ended.
    runners: Vec<Arc<Mutex<Option<Instant>>>>,
}

struct Job<E> {
    work: Work<E>,
    /// What a panic comes to.
    failed: Box<dyn FnOnce(String) -> E + Send>,
}

impl<E> std::fmt::Debug for Job<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl<E: Send + 'static> Jobs<E> {
    /// Results are sent to `ends`.
    pub(super) fn new(ends: UnboundedSender<E>) -> Jobs<E> {
        Jobs {
            ends,
            queue: Arc::default(),
            runners: Vec::new(),
        }
    }

    /// Queues a job; when it panics, `failed` makes the event from what the panic said.
    pub(super) fn start(
        &mut self,
        work: impl FnOnce() -> E + Send + 'static,
        failed: impl FnOnce(String) -> E + Send + 'static,
    ) {
        self.queue.lock().push_back(Job {
            work: Box::new(work),
            failed: Box::new(failed),
        });
    }

    /// Sees to it that jobs which wait are taken. Must be called inside the runtime.
    pub(super) fn pump(&mut self, now: Instant) {
        self.runners.retain(|runner| runner.lock().is_some());
        let is_quick =
            |runner: &&Arc<Mutex<Option<Instant>>>| runner.lock().is_some_and(|since| now < since + QUICK);
        let quick = self.runners.iter().filter(is_quick).count();
        let waiting = self.queue.lock().len();
        for _ in 0..AT_A_TIME.saturating_sub(quick).min(waiting) {
            let runner = Arc::new(Mutex::new(Some(now)));
            self.runners.push(Arc::clone(&runner));
            let (queue, ends) = (Arc::clone(&self.queue), self.ends.clone());
            tokio::task::spawn_blocking(move || run_all(&queue, &runner, &ends));
        }
    }

    /// When [`Jobs::pump`] may have something to do though nothing has ended.
    pub(super) fn next_time(&self, now: Instant) -> Option<Instant> {
        (!self.queue.lock().is_empty()).then_some(now + QUICK)
    }
}

/// Takes jobs until none is left.
fn run_all<E>(queue: &Mutex<VecDeque<Job<E>>>, runner: &Mutex<Option<Instant>>, ends: &UnboundedSender<E>) {
    loop {
        let next = {
            let mut queue = queue.lock();
            let next = queue.pop_front();
            // Under the queue's lock: whoever queues a job later finds out that this thread has ended.
            *runner.lock() = next.is_some().then(Instant::now);
            next
        };
        let Some(job) = next else { return };
        let event = caught(job.work).unwrap_or_else(job.failed);
        // Fails only while the process ends.
        let _ = ends.send(event);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder
            .enable_all()
            .max_blocking_threads(THREADS_MAX)
            .build()
            .unwrap()
    }

    #[test]
    fn jobs_that_hang_keep_nobody_from_starting() {
        let runtime = runtime();
        let (release, hold) = mpsc::channel::<()>();
        let hold = std::sync::Arc::new(std::sync::Mutex::new(hold));
        runtime.block_on(async {
            let (ends, mut results) = tokio::sync::mpsc::unbounded_channel();
            let mut jobs = Jobs::new(ends);
            for _ in 0..3 * AT_A_TIME {
                let hold = hold.clone();
                jobs.start(
                    move || {
                        let _ = hold.lock().unwrap().recv();
                        0
                    },
                    |_| -1,
                );
            }
            jobs.start(|| 7, |_| -1);
            let first = loop {
                jobs.pump(Instant::now());
                let wait = tokio::time::timeout(Duration::from_millis(5), results.recv());
                if let Ok(Some(event)) = wait.await {
                    break event;
                }
            };
            assert_eq!(first, 7);
            drop(release);
        });
    }

    #[test]
    fn a_panic_is_a_result() {
        runtime().block_on(async {
            let (ends, mut results) = tokio::sync::mpsc::unbounded_channel();
            let mut jobs = Jobs::new(ends);
            jobs.start(|| panic!("on purpose, for a test"), |text| text);
            jobs.pump(Instant::now());
            let event = results.recv().await.unwrap();
            assert!(event.ends_with("on purpose, for a test"), "{event}");
            // The thread goes on with the next one.
            jobs.start(|| String::from("fine"), |text| text);
            jobs.pump(Instant::now());
            assert_eq!(results.recv().await.unwrap(), "fine");
        });
    }
}
