//! Work that may block, on threads. A job that hangs in the kernel keeps no other from starting.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

/// Jobs at a time, as long as they get on.
const AT_A_TIME: usize = 8;
/// A job that takes longer does not count any more: it waits for a disk, not for a CPU.
const QUICK: Duration = Duration::from_millis(50);

/// Threads that jobs may have at most, whatever hangs.
pub(super) const THREADS_MAX: usize = 16384;

/// What a job does; its result is an event.
pub(super) type Work<E> = Box<dyn FnOnce() -> E + Send>;

/// Starts jobs and remembers which are under way.
#[derive(Debug)]
pub(super) struct Jobs<E> {
    ends: UnboundedSender<Ended<E>>,
    queue: VecDeque<Job<E>>,
    running: HashMap<u64, Instant>,
    last: u64,
}

/// A job has ended.
#[derive(Debug)]
pub(super) struct Ended<E> {
    job: u64,
    /// What came out.
    pub event: E,
}

impl<E> Ended<E> {
    /// For events that come by the same way and from no job.
    pub fn of_no_job(event: E) -> Ended<E> {
        Ended { job: 0, event }
    }
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
    /// Results are sent to `ends`, and each must be told to [`Jobs::ended`].
    pub fn new(ends: UnboundedSender<Ended<E>>) -> Jobs<E> {
        Jobs {
            ends,
            queue: VecDeque::new(),
            running: HashMap::new(),
            last: 0,
        }
    }

    /// Queues a job; when it panics, `failed` makes the event from what the panic said.
    pub fn start(
        &mut self,
        work: impl FnOnce() -> E + Send + 'static,
        failed: impl FnOnce(String) -> E + Send + 'static,
    ) {
        self.queue.push_back(Job {
            work: Box::new(work),
            failed: Box::new(failed),
        });
    }

    /// Starts what may start. Must be called inside the runtime.
    pub fn pump(&mut self, now: Instant) {
        let mut quick = self
            .running
            .values()
            .filter(|start| now < **start + QUICK)
            .count();
        while quick < AT_A_TIME
            && let Some(job) = self.queue.pop_front()
        {
            self.last += 1;
            let (id, ends) = (self.last, self.ends.clone());
            self.running.insert(id, now);
            quick += 1;
            tokio::task::spawn_blocking(move || {
                let event = catch_unwind(AssertUnwindSafe(job.work))
                    .unwrap_or_else(|panic| (job.failed)(format!("internal error: {}", panic_text(&*panic))));
                // Fails only while the process ends.
                let _ = ends.send(Ended { job: id, event });
            });
        }
    }

    /// Forgets a job that has ended.
    pub fn ended(&mut self, ended: &Ended<E>) {
        self.running.remove(&ended.job);
    }

    /// When [`Jobs::pump`] may start another job though none has ended.
    pub fn next_time(&self, now: Instant) -> Option<Instant> {
        if self.queue.is_empty() {
            return None;
        }
        let ends = self.running.values().map(|start| *start + QUICK);
        ends.filter(|end| *end > now).min()
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".into())
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
                if let Ok(Some(ended)) = wait.await {
                    break ended.event;
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
            let ended = results.recv().await.unwrap();
            assert_eq!(ended.event, "internal error: on purpose, for a test");
            jobs.ended(&ended);
            assert!(jobs.running.is_empty());
        });
    }
}
