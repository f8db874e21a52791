//! What an image's operations share with the store and outlive it with: whether it is still ours, and what was counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use engine::{Fault, FaultKind};
use parking_lot::Mutex;

use super::cluster::Client;
use super::error::Errno;

/// Is told, once, that a store is fenced and why. Called by any thread, and must not block.
pub type OnFence = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a store without its lock is fenced.
pub(crate) const LOST_LOCK: &str =
    "its exclusive lock is gone: another client has taken it, or the image was removed";

/// The part of a store that its operations hold.
pub(crate) struct Shared {
    client: Arc<Client>,
    fenced: AtomicBool,
    /// Whoever opens it anew.
    told: Mutex<Option<OnFence>>,
    /// Operations that librbd has.
    in_flight: AtomicUsize,
    /// Operations that ended well: proof that the image is ours.
    succeeded: AtomicU64,
    faults: AtomicU64,
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
    pub(crate) fn new(client: Arc<Client>, told: Option<OnFence>) -> Shared {
        Shared {
            client,
            fenced: AtomicBool::new(false),
            told: Mutex::new(told),
            in_flight: AtomicUsize::new(0),
            succeeded: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        }
    }

    /// Whether somebody else may write the image. True for all images of a client that was shut out.
    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire) || self.client.is_blocklisted()
    }

    /// The same as far as the client is concerned.
    pub(crate) fn is_shut_out(&self) -> bool {
        self.client.is_blocklisted()
    }

    /// Somebody else may write the image from now on.
    pub(crate) fn fence(&self, reason: &str) {
        self.fenced.store(true, Ordering::Release);
        self.client.retire();
        let told = self.told.lock().take();
        if let Some(told) = told {
            told(reason);
        }
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

    pub(crate) fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}

/// An operation under way, as long as it lives.
#[derive(Debug)]
pub(crate) struct Flight(Arc<Shared>);

impl Flight {
    pub(crate) fn new(shared: &Arc<Shared>) -> Flight {
        shared.in_flight.fetch_add(1, Ordering::AcqRel);
        Flight(Arc::clone(shared))
    }

    /// Its end, as the engine knows it.
    pub(crate) fn end<T>(&self, result: Result<T, Errno>, kind: FaultKind, lba: u64) -> Result<T, Fault> {
        if result.is_ok() {
            self.0.succeeded.fetch_add(1, Ordering::Relaxed);
        }
        result.map_err(|errno| self.0.fault(kind, lba, errno))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(errno: i32, kind: FaultKind) -> (FaultKind, bool, bool, usize) {
        let (client, told) = (Arc::new(Client::default()), Arc::new(AtomicUsize::new(0)));
        let counts = Arc::clone(&told);
        let on_fence: OnFence = Arc::new(move |_| {
            counts.fetch_add(1, Ordering::Relaxed);
        });
        let shared = Arc::new(Shared::new(Arc::clone(&client), Some(on_fence)));
        let fault = Flight::new(&shared)
            .end::<()>(Err(Errno(errno)), kind, 7)
            .unwrap_err();
        let _ = Flight::new(&shared).end::<()>(Err(Errno(errno)), kind, 8);
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
}
