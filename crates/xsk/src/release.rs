//! Giving a receive queue back although its owner hangs.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use super::umem::{Mapping, lead_nowhere};

/// Frees the receive queue of a socket whose owner hangs in the kernel and will never run again: for the end of a process,
/// which the kernel cannot finish before that thread's system call returns. It does not keep the socket alive.
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
