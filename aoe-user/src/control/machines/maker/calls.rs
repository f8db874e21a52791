//! Calls to a storage cluster, which has no limit of time of its own: one that is not answered keeps its own machine waiting, and nobody
//! else of the export.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;

use crate::control::guard::caught;

/// How long the others of an export wait for one call.
const LIMIT: Duration = Duration::from_secs(10);
/// The same while others are not answered: more than one image may be out of reach.
const LIMIT_BESIDE: Duration = Duration::from_secs(2);

/// The calls of one export.
#[derive(Debug)]
pub(super) struct Calls {
    limit: Duration,
    limit_beside: Duration,
    /// What was given up after the shorter time: the next call about it has the longer one, so that what only takes a while comes to its
    /// end.
    hurried: Mutex<HashSet<String>>,
    /// Those that were not answered in time, by what they are about.
    late: Mutex<HashMap<String, Late>>,
}

/// It goes on, and ends at some time; what it brings then is given up.
#[derive(Debug)]
struct Late {
    since: Instant,
    thread: JoinHandle<()>,
}

impl Calls {
    pub(super) fn new() -> Calls {
        Calls::within(LIMIT, LIMIT_BESIDE)
    }

    fn within(limit: Duration, limit_beside: Duration) -> Calls {
        Calls {
            limit,
            limit_beside,
            hurried: Mutex::default(),
            late: Mutex::default(),
        }
    }

    /// Makes a call about something, and waits for its end, for a time. Two calls about the same never run at a time: who knows what the
    /// first one does yet.
    ///
    /// # Errors
    /// Its own; and while one is not answered.
    pub(super) fn about<T: Send + 'static>(
        &self,
        what: &str,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let since = Instant::now();
        if let Some(late) = self.late.lock().get(what)
            && !late.thread.is_finished()
        {
            let ago = Duration::from_secs(late.since.elapsed().as_secs());
            bail!(
                "Ceph has not answered for {}: look at `ceph health`",
                humantime::format_duration(ago)
            );
        }
        let was_hurried = self.hurried.lock().remove(what);
        let limit = {
            let mut late = self.late.lock();
            late.retain(|_, late| !late.thread.is_finished());
            match late.is_empty() || was_hurried {
                true => self.limit,
                false => self.limit.min(self.limit_beside),
            }
        };
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("overlay clone".into())
            .spawn(move || {
                // What nobody waits for any more is closed here.
                let _ = tell.send(caught(call));
            })
            .context("starting a thread")?;
        match told.recv_timeout(limit) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => bail!("{panic}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the call ended without a result"),
            Err(RecvTimeoutError::Timeout) => {
                self.late.lock().insert(what.to_owned(), Late { since, thread });
                if limit < self.limit {
                    self.hurried.lock().insert(what.to_owned());
                }
                bail!(
                    "Ceph has not answered for {}: look at `ceph health`",
                    humantime::format_duration(limit)
                )
            }
        }
    }

    /// Waits for those that are late, however long that takes: whoever opens the export again knows nothing of them, and a clone that is
    /// being taken away is not to be opened.
    pub(super) fn finish(&self) {
        let late = std::mem::take(&mut *self.late.lock());
        for (_, late) in late {
            // Its panic was told.
            let _ = late.thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_not_answered_keeps_others_waiting_for_a_time_and_its_own_until_it_ends() {
        let calls = Calls::within(Duration::from_secs(1), LIMIT_BESIDE);
        let (answer, answered) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel();
        let hangs = move || {
            let _ = answered.recv();
            let _ = end.send(());
            Ok(())
        };
        let error = calls.about("pc17", hangs).unwrap_err();
        assert!(error.to_string().contains("not answered for 1s"), "{error}");
        assert!(calls.about("pc17", || Ok(())).is_err(), "it is at work yet");
        assert_eq!(calls.about("pc18", || Ok(7)).unwrap(), 7);
        drop(answer);
        calls.finish();
        assert!(ended.try_recv().is_ok(), "its end is waited for");
        calls.about("pc17", || Ok(())).unwrap();
        let own = calls.about::<()>("pc17", || bail!("no such pool")).unwrap_err();
        assert_eq!(own.to_string(), "no such pool");
        // A panic prints a lot.
        let panic = Calls::new().about::<()>("pc17", || panic!("on purpose, for a test"));
        assert!(panic.unwrap_err().to_string().contains("on purpose"));
    }
    #[test]
    fn a_call_that_takes_longer_than_it_may_beside_others_has_more_time_the_next_time() {
        const BESIDE: Duration = Duration::from_millis(20);
        let calls = Calls::within(Duration::from_secs(1), BESIDE);
        let (answer, answered) = mpsc::channel::<()>();
        let hangs = move || {
            let _ = answered.recv();
            Ok(())
        };
        calls.about("pc17", hangs).unwrap_err();
        let calls = Calls {
            limit: Duration::from_secs(60),
            ..calls
        };
        let takes_a_while = || {
            std::thread::sleep(5 * BESIDE);
            Ok(7)
        };
        calls.about("pc18", takes_a_while).unwrap_err();
        while !calls.late.lock()["pc18"].thread.is_finished() {
            std::thread::sleep(BESIDE);
        }
        assert_eq!(calls.about("pc18", takes_a_while).unwrap(), 7);
        drop(answer);
        calls.finish();
    }
}
