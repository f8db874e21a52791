//! The thread that puts changed states on the medium, so that no worker waits for a disk.
//!
//! Of each export only the newest state waits: whoever changes it thousands of times a second costs one write at a time
//! and no memory. All that waited for one round is synced together.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Files;
use super::key::StateKey;
use super::told::Told;
use crate::control::guard::caught;
use crate::target::Persistent;

/// How long the end of the process waits for a state disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Saves of one export that wait for the same write. The engine has one at a time under way.
const WAITING_MAX: usize = 256;

/// Least time between two log lines about a disk that fails.
const LOG_PACE: Duration = Duration::from_secs(1);

/// Hands states to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    ended: Mutex<Receiver<()>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    saves: HashMap<StateKey, Save>,
    closed: bool,
}

struct Save {
    state: Persistent,
    done: Vec<Told>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting")
            .field("saves", &self.saves.len())
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(files: Arc<Files>) -> io::Result<Writer> {
        let queue = Arc::new(Queue::default());
        let (alive, ended) = channel();
        let of_thread = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("xblade-state".into())
            .spawn(move || {
                // Dropped when the thread ends, however it does.
                let _alive = alive;
                of_thread.serve(&files);
            })?;
        Ok(Writer {
            queue,
            ended: Mutex::new(ended),
        })
    }

    /// Puts the state on the medium soon. Never blocks; of several for one export the last is written, and all are told.
    pub(super) fn save(&self, key: &StateKey, state: &Persistent, done: Told) {
        let mut waiting = self.queue.waiting.lock();
        let refused = if waiting.closed {
            Some((done, "the state writer has ended"))
        } else if let Some(save) = waiting.saves.get_mut(key) {
            save.state.clone_from(state);
            if save.done.len() < WAITING_MAX {
                save.done.push(done);
                None
            } else {
                Some((done, "too many changes wait for the disk"))
            }
        } else {
            let save = Save {
                state: state.clone(),
                done: vec![done],
            };
            waiting.saves.insert(key.clone(), save);
            self.queue.changed.notify_one();
            None
        };
        drop(waiting);
        if let Some((done, why)) = refused {
            done(Err(io::Error::other(why)));
        }
    }

    /// Has everything written that waits; says so where the disk does not let it.
    pub(super) fn close(&self) {
        self.queue.waiting.lock().closed = true;
        self.queue.changed.notify_one();
        if self.ended.lock().recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::error!(
                "the disk of the state directory does not answer: the last changes by initiators are lost \
                 (none of them was acknowledged)"
            );
        }
    }
}

impl Queue {
    /// All saves that wait; `None` at the end.
    fn next(&self) -> Option<HashMap<StateKey, Save>> {
        let mut waiting = self.waiting.lock();
        loop {
            if !waiting.saves.is_empty() {
                return Some(std::mem::take(&mut waiting.saves));
            }
            if waiting.closed {
                return None;
            }
            self.changed.wait(&mut waiting);
        }
    }

    fn serve(&self, files: &Files) {
        let mut last_log: Option<Instant> = None;
        while let Some(saves) = self.next() {
            let states: Vec<_> = saves.iter().map(|(key, save)| (key, &save.state)).collect();
            let results = caught(|| files.store_all(&states)).unwrap_or_else(|reason| {
                let failed = |_| Err(io::Error::other(reason.clone()));
                states.iter().map(failed).collect()
            });
            for ((key, save), result) in saves.into_iter().zip(results) {
                if let Err(error) = &result
                    && last_log.is_none_or(|last| last.elapsed() >= LOG_PACE)
                {
                    last_log = Some(Instant::now());
                    tracing::error!(
                        "{key}: cannot write {}: {error}; the initiator's change is not in force",
                        files.path(&key).display()
                    );
                }
                for done in save.done {
                    done(again(&result));
                }
            }
        }
    }
}

/// The same outcome for another one.
fn again(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(error.raw_os_error().map_or_else(
            || io::Error::other(error.to_string()),
            io::Error::from_raw_os_error,
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_flood_of_changes_of_one_export_waits_in_one_place() {
        let queue = Queue::default();
        let writer = Writer {
            queue: Arc::new(queue),
            ended: Mutex::new(channel().1),
        };
        let key: StateKey = "1.1".parse().unwrap();
        let (refused, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for number in 0..10_000 {
            let state = Persistent {
                string: format!("{number}").into_bytes(),
                ..Persistent::default()
            };
            let (refused, told) = (Arc::clone(&refused), Arc::clone(&told));
            writer.save(
                &key,
                &state,
                Box::new(move |result| {
                    told.fetch_add(1, Ordering::Relaxed);
                    if result.is_err() {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }),
            );
        }
        let saves = writer.queue.next().unwrap();
        assert_eq!(saves.len(), 1);
        let save = saves.into_values().next().unwrap();
        assert_eq!(save.state.string, b"9999", "the newest is written");
        assert_eq!(save.done.len(), WAITING_MAX);
        save.done.into_iter().for_each(|done| done(Ok(())));
        assert_eq!(told.load(Ordering::Relaxed), 10_000, "each is told once");
        assert_eq!(refused.load(Ordering::Relaxed), 10_000 - WAITING_MAX);
    }
}
