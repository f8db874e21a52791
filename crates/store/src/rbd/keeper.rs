//! A thread for each open image: it follows the image's size, and finds out on its own when an idle image is lost to somebody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::Errno;
use super::fence::{LOST_LOCK, Shared};
use super::opening::OpenedImage;
use crate::io::threads::caught;

/// How often an image without I/O is asked for.
const PACE: Duration = Duration::from_secs(1);
/// The same for a gateway of a failover group, in the time that it answers without a word of Ceph's.
const LOOKS_IN_A_LEASE: u32 = 3;
/// So many times as often while nobody is answered because Ceph has not been heard.
const SILENT_LOOKS: u32 = 8;
/// librbd's calls are deep, and this is what its own threads get along with.
const STACK_BYTES: usize = 1 << 20;

/// Wakes the thread.
#[derive(Debug, Default)]
pub(super) struct Wakeup {
    state: Mutex<WakeupState>,
    condition: Condvar,
}

#[derive(Debug, Default)]
struct WakeupState {
    changed: bool,
    stop: bool,
}

impl Wakeup {
    /// The image's header has changed.
    pub(super) fn changed(&self) {
        self.state.lock().changed = true;
        self.condition.notify_one();
    }

    fn stop(&self) {
        self.state.lock().stop = true;
        self.condition.notify_one();
    }

    /// Returns at the next look; false: the last one was.
    fn wait(&self, pace: Duration) -> bool {
        let mut state = self.state.lock();
        let end = Instant::now() + pace;
        while !state.stop && !state.changed {
            if self.condition.wait_until(&mut state, end).timed_out() {
                break;
            }
        }
        state.changed = false;
        !state.stop
    }
}

/// What the thread finds out.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) bytes: AtomicU64,
    /// Its header is not there any more: what reads as zeros may have been data.
    pub(super) gone: AtomicBool,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Keeper {
    wakeup: Arc<Wakeup>,
    thread: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn start(
        opened: Arc<OpenedImage>,
        locked: bool,
        wakeup: Arc<Wakeup>,
        shared: Arc<Shared>,
        seen: Arc<Seen>,
    ) -> std::io::Result<Keeper> {
        let pace = shared.lease().map_or(PACE, |lease| lease / LOOKS_IN_A_LEASE);
        let look = Look {
            opened,
            locked,
            shared,
            seen,
            without_lock: 0,
        };
        let for_thread = Arc::clone(&wakeup);
        let thread = std::thread::Builder::new()
            .name("rbd-image".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || look.run(&for_thread, pace))?;
        Ok(Keeper { wakeup, thread })
    }

    /// Ends it. Waits for what it has asked the cluster.
    pub(super) fn end(self) {
        self.wakeup.stop();
        // It has ended anyhow.
        let _ = self.thread.join();
    }
}

struct Look {
    opened: Arc<OpenedImage>,
    locked: bool,
    shared: Arc<Shared>,
    seen: Arc<Seen>,
    /// Looks in a row that found no lock: librbd lets go of it for a moment when it takes up a lost connection again.
    without_lock: u32,
}

impl Look {
    fn run(mut self, wakeup: &Wakeup, pace: Duration) {
        // A lock that is not there is looked for again at the usual pace: librbd has it back in a moment.
        let pace_now = |look: &Look| match look.shared.has_lapsed() && look.without_lock == 0 {
            true => pace / SILENT_LOOKS,
            false => pace,
        };
        while wakeup.wait(pace_now(&self)) {
            if self.shared.is_shut_out() {
                // Another image of the same client may have found out first.
                self.shared.shut_out();
            }
            if self.shared.is_fenced() {
                return;
            }
            // A panic costs one look. Where looks prove that the lock is still there, several of them cost the lease.
            if caught(|| self.look()).is_err() {
                tracing::error!("looking after an image in Ceph panicked, a bug in xblade");
            }
        }
    }

    fn look(&mut self) {
        match self.opened.image.bytes() {
            Ok(bytes) => self.seen.bytes.store(bytes, Ordering::Release),
            Err(errno) => self.failed(errno),
        }
        // Operations that end well prove that Ceph answers, and not that the lock is still there: it can be removed without shutting its
        // owner out.
        match self.locked {
            true => self.ask_for_lock(),
            false => self.ask_for_header(),
        }
    }

    fn ask_for_lock(&mut self) {
        let asked = self.shared.asked();
        match self.opened.image.is_lock_owner() {
            Ok(true) => {
                self.without_lock = 0;
                self.shared.proven(asked);
            }
            Ok(false) if self.without_lock == 0 => self.without_lock = 1,
            Ok(false) => return self.shared.fence(LOST_LOCK),
            Err(errno) => return self.failed(errno),
        }
        self.seen.gone.store(false, Ordering::Release);
    }

    /// Who has the lock stands in the header: whatever the answer, the image is there.
    fn ask_for_header(&mut self) {
        match self.opened.image.lock_owner() {
            Ok(_) => self.seen.gone.store(false, Ordering::Release),
            Err(errno) => self.failed(errno),
        }
    }

    fn failed(&self, errno: Errno) {
        match errno.0 {
            libc::ESHUTDOWN | libc::ENOTCONN => self.shared.shut_out(),
            libc::ENOENT => self.seen.gone.store(true, Ordering::Release),
            // The next look asks again; an initiator learns what comes of its own requests.
            _ => tracing::debug!("looking after an image in Ceph: {errno}"),
        }
    }
}
