//! Work that may block, on threads. A job that hangs in the kernel keeps no other from starting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc::UnboundedSender;

use super::guard::caught;
use crate::store::limits::no_thread;

/// Jobs at a time, as long as they get on.
const AT_A_TIME: usize = 8;
/// A job that takes longer does not count any more: it waits for a disk, not for a CPU.
const QUICK: Duration = Duration::from_millis(50);

/// How long after it was told that there is no further thread it is not told again.
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// Threads that jobs may have at most, whatever hangs.
const THREADS_MAX: usize = 16384;

/// What a job does; its result is an event.
pub(super) type Work<E> = Box<dyn FnOnce() -> E + Send>;

/// When the thread took the job that it has now; `None`: it has none.
type Since = Arc<Mutex<Option<Instant>>>;

/// Jobs that wait, and threads that take one after the other. One of them is kept from the start: where the system gives no other, it
/// does what there is.
#[derive(Debug)]
pub(super) struct Jobs<E> {
    shared: Arc<Shared<E>>,
    /// Further threads, which end when no job waits.
    runners: Vec<Since>,
    /// When it was told that there is no further thread.
    told: Option<Instant>,
}

#[derive(Debug)]
struct Shared<E> {
    ends: UnboundedSender<E>,
    queue: Mutex<Queue<E>>,
    /// The kept thread has something to look for.
    filled: Condvar,
}

#[derive(Debug)]
struct Queue<E> {
    jobs: VecDeque<Job<E>>,
    /// Why there was no further thread, to be told by the kept one: the limits are read from files.
    refused: Option<std::io::Error>,
    /// No other thread can be had for what waits.
    needs_kept: bool,
    is_over: bool,
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
    ///
    /// # Errors
    /// When the system gives no thread at all.
    pub(super) fn new(ends: UnboundedSender<E>) -> std::io::Result<Jobs<E>> {
        let queue = Queue {
            jobs: VecDeque::new(),
            refused: None,
            needs_kept: false,
            is_over: false,
        };
        let shared = Arc::new(Shared {
            ends,
            queue: Mutex::new(queue),
            filled: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        thread().spawn(move || theirs.keep())?;
        Ok(Jobs {
            shared,
            runners: Vec::new(),
            told: None,
        })
    }

    /// Queues a job; when it panics, `failed` makes the event from what the panic said.
    pub(super) fn start(
        &mut self,
        work: impl FnOnce() -> E + Send + 'static,
        failed: impl FnOnce(String) -> E + Send + 'static,
    ) {
        self.shared.queue.lock().jobs.push_back(Job {
            work: Box::new(work),
            failed: Box::new(failed),
        });
    }

    /// Sees to it that jobs which wait are taken.
    pub(super) fn pump(&mut self, now: Instant) {
        self.runners.retain(|runner| runner.lock().is_some());
        let waiting = self.shared.queue.lock().jobs.len();
        if waiting == 0 {
            return;
        }
        let is_quick = |since: Option<Instant>| since.is_some_and(|since| now < since + QUICK);
        let quick = self
            .runners
            .iter()
            .filter(|runner| is_quick(*runner.lock()))
            .count();
        let wanted = AT_A_TIME.saturating_sub(quick).min(waiting);
        for _ in 0..wanted {
            let runner = Arc::new(Mutex::new(Some(now)));
            let (shared, since) = (Arc::clone(&self.shared), Arc::clone(&runner));
            let started = match self.runners.len() < THREADS_MAX {
                true => thread().spawn(move || shared.run(&since)),
                false => Err(std::io::Error::other("as many jobs hang as may have a thread")),
            };
            match started {
                Ok(_) => self.runners.push(runner),
                // Tried again in a moment.
                Err(error) => return self.refused(error, now),
            }
        }
    }

    /// Has the kept thread do what waits. It is not asked before: a job that hangs would keep it from those that find no other.
    fn refused(&mut self, error: std::io::Error, now: Instant) {
        let mut queue = self.shared.queue.lock();
        queue.needs_kept = true;
        if self.told.is_none_or(|told| now >= told + TELL_AGAIN) {
            self.told = Some(now);
            queue.refused = Some(error);
        }
        self.shared.filled.notify_one();
    }

    /// When [`Jobs::pump`] may have something to do though nothing has ended.
    pub(super) fn next_time(&self, now: Instant) -> Option<Instant> {
        (!self.shared.queue.lock().jobs.is_empty()).then_some(now + QUICK)
    }

    /// Has something done, and waits for it at most for `limit`; false: it has not ended. Other events wait.
    pub(super) async fn aside(
        &mut self,
        limit: Duration,
        work: impl FnOnce() -> E + Send + 'static,
        failed: fn(String) -> E,
    ) -> bool {
        let (done, mut is_done) = tokio::sync::oneshot::channel::<()>();
        let work = move || {
            // Dropped at the end, however that comes: this is the answer.
            let _done = done;
            work()
        };
        self.start(work, failed);
        let end = Instant::now() + limit;
        loop {
            let now = Instant::now();
            self.pump(now);
            let until = self.next_time(now).map_or(end, |next| next.min(end));
            match tokio::time::timeout_at(until.into(), &mut is_done).await {
                Ok(_) => return true,
                Err(_) if Instant::now() >= end => return false,
                Err(_) => {}
            }
        }
    }
}

impl<E> Drop for Jobs<E> {
    fn drop(&mut self) {
        self.shared.queue.lock().is_over = true;
        self.shared.filled.notify_one();
    }
}

fn thread() -> std::thread::Builder {
    std::thread::Builder::new().name("xblade-job".to_owned())
}

impl<E> Shared<E> {
    /// Takes jobs until none is left.
    fn run(&self, runner: &Mutex<Option<Instant>>) {
        loop {
            let next = {
                let mut queue = self.queue.lock();
                let next = queue.jobs.pop_front();
                // Under the queue's lock: whoever queues a job later finds out that this thread has ended.
                *runner.lock() = next.is_some().then(Instant::now);
                next
            };
            let Some(job) = next else { return };
            let event = caught(job.work).unwrap_or_else(job.failed);
            // Fails only while the process ends.
            let _ = self.ends.send(event);
        }
    }

    /// The same for ever.
    fn keep(&self) {
        let since = Mutex::new(None);
        loop {
            let mut queue = self.queue.lock();
            while !std::mem::take(&mut queue.needs_kept) {
                if queue.is_over {
                    return;
                }
                self.filled.wait(&mut queue);
            }
            let refused = queue.refused.take();
            drop(queue);
            if let Some(error) = refused {
                tracing::warn!(
                    "opening, closing and looking after exports goes by one thread, slower: {}",
                    no_thread(&error)
                );
            }
            self.run(&since);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    }

    #[test]
    fn jobs_that_hang_keep_nobody_from_starting() {
        let runtime = runtime();
        let (release, hold) = mpsc::channel::<()>();
        let hold = std::sync::Arc::new(std::sync::Mutex::new(hold));
        runtime.block_on(async {
            let (ends, mut results) = tokio::sync::mpsc::unbounded_channel();
            let mut jobs = Jobs::new(ends).unwrap();
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
            let mut jobs = Jobs::new(ends).unwrap();
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
