//! What an image's operations share with the store and outlive it with: whether it is still ours, and what was counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::{Fault, FaultKind};
use parking_lot::Mutex;

use super::cluster::CephClient;
use super::error::Errno;
use super::withheld::Withheld;

/// Is told, once, that a store is fenced and why. Called by any thread, and must not block.
pub(crate) type OnFence = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a store without its lock is fenced.
pub(crate) const LOST_LOCK: &str =
    "its exclusive lock is gone: another client has taken it, or the image was removed";

/// The part of a store that its operations hold.
pub(crate) struct Shared {
    client: Arc<CephClient>,
    fenced: AtomicBool,
    /// Whoever opens it anew.
    told: Mutex<Option<OnFence>>,
    /// Operations that librbd has.
    in_flight: AtomicUsize,
    lease: Option<Lease>,
    faults: AtomicU64,
    withheld: Withheld,
    /// The image is given back: all that ends is told, and answered by nobody.
    ends: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("fenced", &self.fenced)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(client: Arc<CephClient>, told: Option<OnFence>, lease: Option<Duration>) -> Shared {
        Shared {
            client,
            lease: lease.map(Lease::new),
            fenced: AtomicBool::new(false),
            told: Mutex::new(told),
            in_flight: AtomicUsize::new(0),
            faults: AtomicU64::new(0),
            withheld: Withheld::default(),
            ends: AtomicBool::new(false),
        }
    }

    /// Whether somebody else may write the image. True for all images of a client that was shut out.
    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire) || self.client.is_blocklisted()
    }

    /// How long it answers without a word of Ceph's.
    pub(crate) fn lease(&self) -> Option<Duration> {
        Some(self.lease.as_ref()?.limit)
    }

    /// Whether nobody may be answered now.
    pub(crate) fn is_silenced(&self) -> bool {
        self.is_fenced() || self.has_lapsed()
    }

    /// Whether Ceph has not been heard for as long as another gateway may need to take the image.
    pub(crate) fn has_lapsed(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::has_lapsed)
    }

    /// The time of a question to Ceph, for [`Shared::proven`].
    pub(crate) fn asked(&self) -> u64 {
        self.lease.as_ref().map_or(0, Lease::now_ms)
    }

    /// Ceph has said that the image was ours when it was asked: since then the answer may have waited for a process that was stopped.
    pub(crate) fn proven(&self, asked: u64) {
        if let Some(lease) = &self.lease {
            lease.proven_ms.fetch_max(asked, Ordering::Relaxed);
            if !lease.has_lapsed() {
                self.withheld.let_go();
            }
        }
    }

    /// Tells the end of an operation: at once, or when Ceph has been heard again and it may be answered. A write that was carried out and not answered
    /// would be sent again, and be carried out after newer ones.
    pub(crate) fn deliver(&self, post: impl FnOnce() + Send + 'static) {
        let is_over = || self.is_fenced() || self.ends.load(Ordering::Acquire);
        self.withheld.deliver(|| self.has_lapsed() && !is_over(), post);
    }

    /// The image is about to be given back.
    pub(crate) fn ends(&self) {
        self.ends.store(true, Ordering::Release);
        self.withheld.let_go();
    }

    /// The same as far as the client is concerned.
    pub(crate) fn is_shut_out(&self) -> bool {
        self.client.is_blocklisted()
    }

    /// Somebody else may write the image from now on.
    pub(crate) fn fence(&self, reason: &str) {
        self.fenced.store(true, Ordering::Release);
        self.client.retire();
        self.withheld.let_go();
        let told = self.told.lock().take();
        if let Some(told) = told {
            told(reason);
        }
    }

    /// The image is given back.
    pub(crate) fn tell_nobody(&self) {
        self.told.lock().take();
    }

    /// What an operation's error comes to.
    pub(crate) fn fault(&self, kind: FaultKind, lba: u64, errno: Errno) -> Fault {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let kind = match errno.0 {
            libc::ESHUTDOWN | libc::ENOTCONN => {
                self.shut_out();
                FaultKind::Gone
            }
            libc::EROFS if kind == FaultKind::Write => {
                self.fence(LOST_LOCK);
                FaultKind::Gone
            }
            libc::ETIMEDOUT => {
                // Nobody knows whether it will still be done: no answer is the only true one.
                self.fence("an operation timed out in Ceph (rados_osd_op_timeout must be 0)");
                FaultKind::Gone
            }
            libc::ENOENT => FaultKind::Gone,
            _ => kind,
        };
        let source = io::Error::from(errno);
        Fault { kind, lba, source }
    }

    /// The cluster refuses this client.
    pub(crate) fn shut_out(&self) {
        self.client.blocklist();
        self.fence("Ceph has shut this client out (blocklisted): another one has the image, or an administrator did it");
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}

/// How long a gateway of a failover group answers without a word of Ceph's. It keeps nothing safe, which the lock does: it
/// ends the answers of a gateway that has lost Ceph, so that the network turns to the one that took its place.
#[derive(Debug)]
struct Lease {
    start: Instant,
    limit: Duration,
    /// Milliseconds from the start to the last question that was answered well.
    proven_ms: AtomicU64,
}

impl Lease {
    fn new(limit: Duration) -> Lease {
        Lease {
            start: Instant::now(),
            limit,
            proven_ms: AtomicU64::new(0),
        }
    }

    fn has_lapsed(&self) -> bool {
        let silent_ms = self
            .now_ms()
            .saturating_sub(self.proven_ms.load(Ordering::Relaxed));
        Duration::from_millis(silent_ms) > self.limit
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// An operation under way, as long as it lives.
#[derive(Debug)]
pub(crate) struct OutstandingOperation {
    shared: Arc<Shared>,
    asked: u64,
}

impl OutstandingOperation {
    pub(crate) fn new(shared: &Arc<Shared>) -> OutstandingOperation {
        shared.in_flight.fetch_add(1, Ordering::AcqRel);
        OutstandingOperation {
            shared: Arc::clone(shared),
            asked: shared.asked(),
        }
    }

    /// Its end, as the engine knows it.
    pub(crate) fn end<T>(&self, result: Result<T, Errno>, kind: FaultKind, lba: u64) -> Result<T, Fault> {
        if result.is_ok() {
            self.shared.proven(self.asked);
        }
        result.map_err(|errno| self.shared.fault(kind, lba, errno))
    }

    /// See [`Shared::deliver`].
    pub(crate) fn deliver(&self, post: impl FnOnce() + Send + 'static) {
        self.shared.deliver(post);
    }
}

impl Drop for OutstandingOperation {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(errno: i32, kind: FaultKind) -> (FaultKind, bool, bool, usize) {
        let (client, told) = (Arc::new(CephClient::default()), Arc::new(AtomicUsize::new(0)));
        let counts = Arc::clone(&told);
        let on_fence: OnFence = Arc::new(move |_| {
            counts.fetch_add(1, Ordering::Relaxed);
        });
        let shared = Arc::new(Shared::new(Arc::clone(&client), Some(on_fence), None));
        let fault = OutstandingOperation::new(&shared)
            .end::<()>(Err(Errno(errno)), kind, 7)
            .unwrap_err();
        let _ = OutstandingOperation::new(&shared).end::<()>(Err(Errno(errno)), kind, 8);
        assert_eq!((fault.lba, shared.in_flight(), shared.faults()), (7, 0, 2));
        (
            fault.kind,
            shared.is_fenced(),
            client.is_blocklisted(),
            told.load(Ordering::Relaxed),
        )
    }

    #[test]
    fn what_says_that_the_image_is_not_ours_fences_and_is_told_once() {
        assert_eq!(
            ended(libc::ESHUTDOWN, FaultKind::Read),
            (FaultKind::Gone, true, true, 1)
        );
        assert_eq!(
            ended(libc::ENOTCONN, FaultKind::Write),
            (FaultKind::Gone, true, true, 1)
        );
        assert_eq!(
            ended(libc::EROFS, FaultKind::Write),
            (FaultKind::Gone, true, false, 1)
        );
        assert_eq!(
            ended(libc::ETIMEDOUT, FaultKind::Write),
            (FaultKind::Gone, true, false, 1)
        );
    }

    #[test]
    fn other_errors_are_the_initiators() {
        assert_eq!(
            ended(libc::ENOENT, FaultKind::Read),
            (FaultKind::Gone, false, false, 0)
        );
        for errno in [libc::ENOSPC, libc::EDQUOT, libc::EIO] {
            assert_eq!(
                ended(errno, FaultKind::Write),
                (FaultKind::Write, false, false, 0)
            );
        }
        assert_eq!(
            ended(libc::EIO, FaultKind::Read),
            (FaultKind::Read, false, false, 0)
        );
    }

    #[test]
    fn an_answer_proves_that_the_image_was_ours_when_it_was_asked_for() {
        let limit = Duration::from_millis(50);
        let shared = Arc::new(Shared::new(Arc::default(), None, Some(limit)));
        let old = OutstandingOperation::new(&shared);
        while !shared.has_lapsed() {
            std::thread::yield_now();
        }
        assert!(shared.is_silenced() && !shared.is_fenced());
        // As for a process that was stopped with the answer on its way.
        old.end(Ok(()), FaultKind::Read, 0).unwrap();
        assert!(shared.is_silenced());
        // However slow this machine is, it is quick enough once.
        let answers = |()| {
            OutstandingOperation::new(&shared)
                .end(Ok(()), FaultKind::Read, 0)
                .unwrap();
            !shared.is_silenced()
        };
        assert!(std::iter::repeat_n((), 1000).any(answers));
    }

    /// It would be sent again otherwise, and be carried out after what others have written since.
    #[test]
    fn what_ends_while_nobody_may_be_answered_is_told_when_it_may_be() {
        let told = Arc::new(AtomicUsize::new(0));
        let tells = |shared: &Shared| {
            let told = Arc::clone(&told);
            shared.deliver(move || {
                told.fetch_add(1, Ordering::Relaxed);
            });
        };
        let limit = Duration::from_millis(50);
        let lapsed = || {
            let shared = Shared::new(Arc::new(CephClient::default()), None, Some(limit));
            while !shared.has_lapsed() {
                std::thread::yield_now();
            }
            shared
        };
        tells(&Shared::new(Arc::new(CephClient::default()), None, None));
        assert_eq!(told.load(Ordering::Relaxed), 1, "nothing is in the way");
        let shared = lapsed();
        tells(&shared);
        // An answer to an old question says nothing of now.
        shared.proven(0);
        assert_eq!(told.load(Ordering::Relaxed), 1);
        // A thread that is not run for so long is late again.
        while told.load(Ordering::Relaxed) == 1 {
            shared.proven(shared.asked());
        }
        assert_eq!(told.load(Ordering::Relaxed), 2);
        // Whoever is shut out, or gives the image back, tells all: nobody is answered.
        for over in [|shared: &Shared| shared.fence("on purpose"), Shared::ends] {
            let shared = lapsed();
            let before = told.load(Ordering::Relaxed);
            tells(&shared);
            assert_eq!(told.load(Ordering::Relaxed), before);
            over(&shared);
            tells(&shared);
            assert_eq!(told.load(Ordering::Relaxed), before + 2);
        }
    }
}
