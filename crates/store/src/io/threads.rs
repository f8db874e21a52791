//! Threads for the stores of one device. They are started when there is something to do, and end when they have been idle.
//!
//! Where the system gives none (`pids.max`, RLIMIT_NPROC), what they would have done is done by one that is kept from the start,
//! one job after the other: slower, never an error. One for each device: what hangs keeps nobody waiting who has another disk.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::limits;

/// How long nobody tries again after the system gave no thread.
const RETRY: Duration = Duration::from_millis(100);
/// How long after it was told that there are none it is not told again.
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// Of each thread. What they do is a few calls deep; the rest is for what panics print.
const STACK_BYTES: usize = 512 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// What the kept thread is given.
enum Given {
    Job(Job),
    /// Told when all before it is done.
    Mark(std::sync::mpsc::Sender<()>),
}

/// What starts threads, and the one that is kept.
#[derive(Debug)]
pub(crate) struct Threads {
    kept: Arc<Kept>,
    id: ThreadId,
    refused: Mutex<Refused>,
}

/// When the system refused a thread, and when that was told.
#[derive(Debug, Default)]
struct Refused {
    at: Option<Instant>,
    told: Option<Instant>,
}

/// Who works for a store.
#[derive(Debug, Default)]
pub(crate) struct Working {
    /// Somebody does, and will look for more.
    pub(crate) running: bool,
    /// A thread of its own, also after its end, until it is waited for or followed by another.
    pub(crate) thread: Option<JoinHandle<()>>,
    /// The kept thread has worked, and may not have let go of the store yet.
    pub(crate) spared: bool,
}

/// The kept thread's work.
#[derive(Default)]
struct Kept {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    now: VecDeque<Given>,
    later: Vec<(Instant, Job)>,
    closed: bool,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

/// Does work whose thread is needed afterwards. A panic is told by its hook.
///
/// # Errors
/// When it panicked.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| io::Error::other("it panicked"))
}

impl Threads {
    /// With the thread that is kept.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn new() -> io::Result<Arc<Threads>> {
        let kept = Arc::new(Kept::default());
        let works = Arc::clone(&kept);
        let thread = std::thread::Builder::new()
            .name("disk spare".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || works.run())
            .map_err(|error| limits::refused(&error))?;
        Ok(Arc::new(Threads {
            kept,
            id: thread.thread().id(),
            refused: Mutex::default(),
        }))
    }

    /// Starts a thread; `None`: none can be had now, and [`Threads::spare`] is to do it.
    pub(crate) fn start(&self, name: String, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
        let mut refused = self.refused.lock();
        if refused.at.is_some_and(|at| at.elapsed() < RETRY) {
            return None;
        }
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .stack_size(STACK_BYTES);
        match thread.spawn(work) {
            Ok(thread) => {
                refused.at = None;
                Some(thread)
            }
            Err(error) => {
                refused.at = Some(Instant::now());
                if refused.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                    refused.told = refused.at;
                    // By the thread that is kept: the limits are read from files.
                    self.spare(move || {
                        tracing::warn!(
                            "{name}: {}; until then one thread does the work of all that wait for this disk, slower",
                            limits::no_thread(&error)
                        );
                    });
                }
                None
            }
        }
    }

    /// Has the kept thread do something, after what it was given before.
    pub(crate) fn spare(&self, job: impl FnOnce() + Send + 'static) {
        self.kept.give(Given::Job(Box::new(job)));
    }

    /// The same, at a time.
    pub(crate) fn spare_at(&self, at: Instant, job: impl FnOnce() + Send + 'static) {
        self.kept.work.lock().later.push((at, Box::new(job)));
        self.kept.changed.notify_one();
    }

    /// Whether this is the kept thread.
    pub(crate) fn is_spare(&self) -> bool {
        std::thread::current().id() == self.id
    }

    /// Waits until nobody works for a store any more, to the very end: whoever works holds the file, and with it the lock on it.
    /// `working` tells who does, `ended` when one has ended or somebody else goes on. False: a thread panicked.
    pub(crate) fn wait<S>(
        &self,
        mut state: MutexGuard<'_, S>,
        ended: &Condvar,
        working: impl Fn(&mut S) -> &mut Working,
    ) -> bool {
        let mut is_good = true;
        loop {
            let now = working(&mut state);
            if let Some(thread) = now.thread.take() {
                let has_ended = MutexGuard::unlocked(&mut state, || thread.join().is_ok());
                // One that panicked has not said that it ended.
                working(&mut state).running &= has_ended;
                is_good &= has_ended;
            } else if !now.running {
                break;
            } else if self.is_spare() {
                MutexGuard::unlocked(&mut state, || self.settle());
            } else {
                ended.wait(&mut state);
            }
        }
        let spared = std::mem::take(&mut working(&mut state).spared);
        drop(state);
        if spared {
            self.settle();
        }
        is_good
    }

    /// Waits until the kept thread has done what it was given before, and let go of it. On that thread itself: does it.
    pub(crate) fn settle(&self) {
        if self.is_spare() {
            return self.kept.do_all();
        }
        let (done, is_done) = std::sync::mpsc::channel();
        self.kept.give(Given::Mark(done));
        let _ = is_done.recv();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.kept.work.lock().closed = true;
        self.kept.changed.notify_one();
    }
}

impl Kept {
    fn give(&self, what: Given) {
        self.work.lock().now.push_back(what);
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Given> {
        self.work.lock().now.pop_front()
    }

    /// All that waits, in the middle of a job: so whoever waits for that to end waits on.
    fn do_all(&self) {
        let mut marks = Vec::new();
        while let Some(next) = self.next() {
            match next {
                Given::Job(job) => drop(caught(job)),
                mark @ Given::Mark(_) => marks.push(mark),
            }
        }
        self.work.lock().now.extend(marks);
    }

    fn run(&self) {
        loop {
            while let Some(next) = self.next() {
                match next {
                    Given::Job(job) => drop(caught(job)),
                    // Whoever waits is there.
                    Given::Mark(done) => drop(done.send(())),
                }
            }
            let mut work = self.work.lock();
            let time = Instant::now();
            let due: Vec<_> = work.later.extract_if(.., |(at, _)| *at <= time).collect();
            work.now.extend(due.into_iter().map(|(_, job)| Given::Job(job)));
            if !work.now.is_empty() {
                continue;
            }
            if work.closed {
                return;
            }
            match work.later.iter().map(|(at, _)| *at).min() {
                Some(at) => drop(self.changed.wait_until(&mut work, at)),
                None => self.changed.wait(&mut work),
            }
        }
    }
}

#[cfg(test)]
impl Threads {
    /// As on a system that gives no further thread.
    pub(crate) fn refused() -> Arc<Threads> {
        let threads = Threads::new().unwrap();
        let far = Instant::now() + Duration::from_secs(86400);
        *threads.refused.lock() = Refused {
            at: Some(far),
            told: Some(far),
        };
        threads
    }

    /// As on one that gives them again.
    pub(crate) fn give_again(&self) {
        *self.refused.lock() = Refused::default();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn the_kept_thread_does_what_others_would_in_order_and_what_is_for_later_in_its_time() {
        let threads = Threads::refused();
        assert!(threads.start("none".to_owned(), || ()).is_none());
        let (done, order) = channel();
        let late = done.clone();
        let at = Instant::now() + Duration::from_millis(20);
        threads.spare_at(at, move || late.send((2, Instant::now() >= at)).unwrap());
        for number in 0..2 {
            let done = done.clone();
            threads.spare(move || done.send((number, true)).unwrap());
        }
        let all: Vec<(i32, bool)> = (0..3).map(|_| order.recv_timeout(TIMEOUT).unwrap()).collect();
        assert_eq!(all, [(0, true), (1, true), (2, true)]);
        threads.give_again();
        threads
            .start("some".to_owned(), move || done.send((3, true)).unwrap())
            .expect("a thread");
        assert_eq!(order.recv_timeout(TIMEOUT).unwrap(), (3, true));
    }

    #[test]
    fn whoever_settles_finds_all_done_and_may_be_the_kept_thread_itself() {
        let threads = Threads::refused();
        let (done, ends) = channel();
        let (first, second) = (done.clone(), done);
        let own = Arc::clone(&threads);
        threads.spare(move || {
            let inner = first.clone();
            own.spare(move || inner.send("given by a job").unwrap());
            own.settle();
            first.send("settled").unwrap();
        });
        threads.settle();
        drop(second);
        assert_eq!(ends.try_iter().collect::<Vec<_>>(), ["given by a job", "settled"]);
    }
}
