//! A receive queue, as others than its owner see it: whether it is there, and giving it back although its owner hangs.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::umem::{Mapping, lead_nowhere};

/// Tells whether a socket has its receive queue, and frees it where its owner hangs in the kernel and will never run again: for the
/// end of a process, which the kernel cannot finish before that thread's system call returns. It does not keep the socket alive.
///
/// Minimum kernel: as [`Socket`](super::Socket).
#[derive(Debug, Clone)]
pub struct QueueRelease {
    fd: Weak<OwnedFd>,
    rings: [Weak<Mapping>; 4],
}

impl QueueRelease {
    /// The socket and the mappings of its rings are what keeps a queue.
    pub(super) fn new(fd: &Arc<OwnedFd>, rings: [&Arc<Mapping>; 4]) -> QueueRelease {
        QueueRelease {
            fd: Arc::downgrade(fd),
            rings: rings.map(Arc::downgrade),
        }
    }

    /// Whether the socket still has its queue. The kernel takes it away for good when the interface is removed or moved to another
    /// network namespace, and says so to nobody who waits: poll only waits on (`xsk_notifier`, `xsk_poll`, net/xdp/xsk.c). Costs a system call.
    /// False where the socket was dropped.
    pub fn is_bound(&self) -> bool {
        let unbound = |fd: Arc<OwnedFd>| matches!(send(&fd, &[], SendFlags::DONTWAIT), Err(Errno::NXIO));
        self.fd.upgrade().is_some_and(|fd| !unbound(fd))
    }

    /// Closes the socket in the kernel. Its owner, should it go on all the same, finds empty rings and a descriptor that leads
    /// nowhere. Nothing happens where the socket was dropped.
    pub fn release(&self) {
        for ring in self.rings.iter().filter_map(Weak::upgrade) {
            ring.blank();
        }
        if let Some(fd) = self.fd.upgrade() {
            lead_nowhere(&fd);
        }
    }
}
