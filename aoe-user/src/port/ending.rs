//! How a worker ends: its queue is free at once, what it left with the disks is seen to until they answer.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use tracing::{error, warn};

use crate::store::CompletionQueue;

/// Who is told, on the worker's thread, that a worker has panicked. Must not block.
#[derive(Clone)]
pub struct Alarm(Arc<dyn Fn() + Send + Sync>);

impl Alarm {
    /// Calls this.
    pub fn new(call: impl Fn() + Send + Sync + 'static) -> Alarm {
        Alarm(Arc::new(call))
    }
}

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Alarm")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    Stopped,
    Panicked,
}

/// The worker's side.
pub(super) struct WorkerEnd {
    shared: Arc<(Mutex<State>, Condvar)>,
    alarm: Alarm,
}

/// Control's side.
#[derive(Debug)]
pub(super) struct Ending(Arc<(Mutex<State>, Condvar)>);

impl WorkerEnd {
    /// Both sides of a worker that serves.
    pub(super) fn new(alarm: &Alarm) -> (WorkerEnd, Ending) {
        let shared = Arc::new((Mutex::new(State::Serving), Condvar::new()));
        let ending = Ending(Arc::clone(&shared));
        let alarm = alarm.clone();
        (WorkerEnd { shared, alarm }, ending)
    }

    /// The queue is free: the worker was stopped, or has panicked. Only the first call counts.
    pub(super) fn tell(&mut self, panicked: bool) {
        let (state, told) = &*self.shared;
        let mut state = state.lock();
        if *state != State::Serving {
            return;
        }
        *state = if panicked { State::Panicked } else { State::Stopped };
        told.notify_all();
        drop(state);
        if panicked {
            (self.alarm.0)();
        }
    }
}

impl Drop for WorkerEnd {
    fn drop(&mut self) {
        // Said before, unless the thread panicked outside the part that is watched.
        self.tell(true);
    }
}

impl Ending {
    pub(super) fn has_panicked(&self) -> bool {
        *self.0.0.lock() == State::Panicked
    }

    /// Waits until the queue is free.
    pub(super) fn wait(&self) {
        let (state, told) = &*self.0;
        let mut state = state.lock();
        told.wait_while(&mut state, |state| *state == State::Serving);
    }
}

/// Waits for what a session has left with the stores. Until it is over nothing else is done to the same sectors.
pub(super) fn see_off(mut remains: engine::Remains<CompletionQueue>) {
    remains.completions();
    if remains.pending() == 0 {
        return;
    }
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    warn!(
        "{name}: {} operations are still with their disks; the sectors that they touch stay busy until the disks answer",
        remains.pending()
    );
    while remains.pending() > 0 {
        let queue = remains.completion_queue();
        queue.submit(Instant::now());
        if queue.prepare_sleep() {
            let mut fd = [PollFd::from_borrowed_fd(queue.fd(), PollFlags::IN)];
            if let Err(failed) = poll(&mut fd, None)
                && failed != rustix::io::Errno::INTR
            {
                // Without a way to wait for them the sectors stay busy.
                error!("{name}: poll: {failed}; the sectors stay busy until xblade is started again");
                std::mem::forget(remains);
                return;
            }
        }
        remains.completion_queue().awake();
        remains.completions();
    }
    warn!("{name}: the disks have answered all that was left with them");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counted() -> (Alarm, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let alarm = Alarm::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        (alarm, calls)
    }

    #[test]
    fn a_panic_raises_the_alarm_once_and_a_stop_does_not() {
        let (alarm, calls) = counted();
        let (mut end, ending) = WorkerEnd::new(&alarm);
        end.tell(false);
        drop(end);
        ending.wait();
        assert!(!ending.has_panicked());
        assert_eq!(calls.load(Ordering::SeqCst), 0);

        let (mut end, ending) = WorkerEnd::new(&alarm);
        end.tell(true);
        drop(end);
        ending.wait();
        assert!(ending.has_panicked());
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_thread_that_says_nothing_has_panicked() {
        let (alarm, calls) = counted();
        let (end, ending) = WorkerEnd::new(&alarm);
        drop(end);
        ending.wait();
        assert!(ending.has_panicked());
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
}
