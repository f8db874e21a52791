//! The thread that puts changed states where they are kept, so that no worker waits for a disk. [`SaveMachine`] decides what is
//! written when.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::ThreadId;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::key::StateKey;
use super::told::Told;
use crate::control::guard::caught;
use crate::store::limits::refused;
use crate::store::saves::{Save, SaveAction, SaveMachine, Time};
use crate::target::Persistent;

/// Where states are kept.
pub(super) trait Medium: Send + 'static {
    /// Puts states where they survive a power cut; one result for each. May block.
    fn store_all(&self, states: &[(&StateKey, &Persistent)]) -> Vec<io::Result<()>>;

    /// What failed, for the log.
    fn describe(&self, key: &StateKey) -> String;
}

/// Hands states to the thread, which ends with this.
#[derive(Debug)]
pub(super) struct StateWriter {
    shared: Arc<Shared>,
    ended: Mutex<Receiver<()>>,
    thread: ThreadId,
}

#[derive(Debug)]
struct Shared {
    machine: Mutex<SaveMachine<StateKey, Told>>,
    changed: Condvar,
    /// The machine's time begins here.
    start: Instant,
}

impl StateWriter {
    /// Starts the thread.
    pub(super) fn start(name: &str, medium: impl Medium) -> io::Result<StateWriter> {
        let shared = Arc::new(Shared {
            machine: Mutex::new(SaveMachine::new()),
            changed: Condvar::new(),
            start: Instant::now(),
        });
        let (alive, ended) = channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped when the thread ends, however it does.
            let _alive = alive;
            // A panic costs the round that it happened in: who waited for that is told, since dropped.
            while let Err(panic) = caught(|| of_thread.write_all(&medium)) {
                tracing::error!("the thread that keeps strings, masks and reservations: {panic}");
                of_thread.machine.lock().round_is_lost();
            }
        });
        let thread = thread.map_err(|error| refused(&error))?;
        Ok(StateWriter {
            shared,
            ended: Mutex::new(ended),
            thread: thread.thread().id(),
        })
    }

    /// Puts the state on the medium soon. Never blocks; of several for one export the last is written, and all are told.
    pub(super) fn save(&self, key: &StateKey, state: &Persistent, done: Told) {
        let refused = self.shared.machine.lock().save(key.clone(), state, done);
        self.shared.changed.notify_one();
        if let Some(answer) = refused {
            (answer.who)(answer.result);
        }
    }

    /// Has everything written that waits; false where the medium does not let it for a while. The thread itself, when it tells
    /// somebody who ends the writer, does not wait: it writes the rest afterwards.
    pub(super) fn close(&self) -> bool {
        let until = self.shared.start + self.shared.close();
        if std::thread::current().id() == self.thread {
            return true;
        }
        let left = until.saturating_duration_since(Instant::now());
        self.ended.lock().recv_timeout(left) != Err(RecvTimeoutError::Timeout)
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) -> Time {
        let until = self.machine.lock().close(self.start.elapsed());
        self.changed.notify_one();
        until
    }

    /// What is to be written; `None` at the end.
    fn next(&self) -> Option<Vec<Save<StateKey, Told>>> {
        let mut machine = self.machine.lock();
        loop {
            match machine.poll() {
                SaveAction::Write(round) => return Some(round),
                SaveAction::Wait => self.changed.wait(&mut machine),
                SaveAction::End => return None,
            }
        }
    }

    /// Writes until the end.
    fn write_all(&self, medium: &impl Medium) {
        while let Some(round) = self.next() {
            self.write(round, medium);
        }
    }

    fn write(&self, round: Vec<Save<StateKey, Told>>, medium: &impl Medium) {
        let states: Vec<_> = round.iter().map(|save| (&save.key, &save.state)).collect();
        let results = caught(|| medium.store_all(&states)).unwrap_or_else(|reason| {
            let failed = |_| Err(io::Error::other(reason.clone()));
            states.iter().map(failed).collect()
        });
        drop(states);
        let outcome = self.machine.lock().done(round, results, self.start.elapsed());
        if let Some((key, error, count)) = outcome.report {
            let more = match count {
                1 => String::new(),
                count => format!(" ({count} such failures since the last report)"),
            };
            tracing::error!(
                "{}: {error}; the initiator's change is not in force{more}",
                medium.describe(&key)
            );
        }
        for answer in outcome.answers {
            (answer.who)(answer.result);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;
    use std::time::Duration;

    use engine::{Completions as _, Event};

    use super::super::told::completes;
    use super::*;
    use crate::store::{CompletionQueue, Token};

    /// Says what it has written.
    struct Listing(std::sync::mpsc::Sender<StateKey>);

    impl Medium for Listing {
        fn store_all(&self, states: &[(&StateKey, &Persistent)]) -> Vec<io::Result<()>> {
            let put =
                |(key, _): &(&StateKey, &Persistent)| self.0.send((*key).clone()).map_err(io::Error::other);
            states.iter().map(put).collect()
        }

        fn describe(&self, key: &StateKey) -> String {
            key.to_string()
        }
    }

    /// Says when it has begun to write, and goes on when it is let.
    struct Gated(Sender<()>, Receiver<()>);

    impl Medium for Gated {
        fn store_all(&self, states: &[(&StateKey, &Persistent)]) -> Vec<io::Result<()>> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            states.iter().map(|_| Ok(())).collect()
        }

        fn describe(&self, key: &StateKey) -> String {
            key.to_string()
        }
    }

    /// Whether the state is kept that this operation saves.
    fn is_kept(queue: &mut CompletionQueue, token: Token) -> bool {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(completion) = queue.next() {
                assert_eq!(completion.token, token);
                return matches!(completion.event, Event::Finished(Ok(_)));
            }
            assert!(Instant::now() < end, "no answer in a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_panic_of_the_thread_is_told_and_the_next_change_is_kept() {
        let ((begun, begins), (open, gate)) = (channel(), channel());
        let writer = StateWriter::start("test", Gated(begun, gate)).unwrap();
        let mut queue = CompletionQueue::new().unwrap();
        let save = |told| writer.save(&"1.1".parse().unwrap(), &Persistent::default(), told);
        save(Box::new(drop));
        begins.recv().unwrap();
        // Together in the next round: the first one panics, and the other is behind it.
        save(Box::new(|_| panic!("on purpose, for a test")));
        save(completes(queue.handle(), 1));
        drop(open);
        assert!(!is_kept(&mut queue, 1), "nobody has told it");
        save(completes(queue.handle(), 2));
        assert!(is_kept(&mut queue, 2));
        assert!(writer.close(), "the thread works on");
    }

    #[test]
    fn whoever_is_told_may_end_the_writer_and_what_waits_is_written_all_the_same() {
        let (put, written) = channel();
        let writer = Arc::new(StateWriter::start("test", Listing(put)).unwrap());
        let (first, second): (StateKey, StateKey) = ("1.1".parse().unwrap(), "1.2".parse().unwrap());
        let (closed, ended) = channel();
        // The last one who has it is the writer's own thread.
        let (last, behind) = (Arc::clone(&writer), second.clone());
        let told = move |_: io::Result<()>| {
            last.save(&behind, &Persistent::default(), Box::new(drop));
            closed.send(last.close()).unwrap();
        };
        writer.save(&first, &Persistent::default(), Box::new(told));
        drop(writer);
        assert!(ended.recv().unwrap(), "it waited for itself");
        // Its end, after the rest.
        assert_eq!(written.iter().collect::<Vec<_>>(), [first, second]);
    }
}
