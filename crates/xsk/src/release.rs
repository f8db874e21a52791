//! Taking a receive queue back from an owner that hangs in the kernel.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::dup2;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// What keeps a receive queue: the socket, and the mappings of its rings.
#[derive(Debug)]
pub(super) struct Holds {
    pub fd: RawFd,
    pub rings: [(NonNull<u8>, usize); 4],
}

// SAFETY: addresses of mappings and a number; what is done with them is done under the lock around this value.
unsafe impl Send for Holds {}

/// Frees the receive queue of a socket whose owner hangs in the kernel and will never run again: for the end of a process,
/// which the kernel cannot finish before that thread's system call returns.
#[derive(Debug, Clone)]
pub struct QueueRelease(Arc<Mutex<Option<Holds>>>);

impl QueueRelease {
    pub(super) fn new(holds: Holds) -> QueueRelease {
        QueueRelease(Arc::new(Mutex::new(Some(holds))))
    }

    /// The socket goes: from here on there is nothing to free.
    pub(super) fn forget(&self) {
        self.0.lock().take();
    }

    /// Closes the socket in the kernel. Its owner, should it go on all the same, finds empty rings of zeros and a descriptor that
    /// leads nowhere. Nothing happens where the socket was dropped.
    pub fn release(&self) {
        // Until the end: the socket's drop waits for it before it unmaps anything.
        let mut holds = self.0.lock();
        let Some(Holds { fd, rings }) = holds.take() else {
            return;
        };
        for (base, bytes) in rings {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            // SAFETY: the range is a mapping of the socket, which is alive: its drop takes `holds` away first. It is replaced in
            // one step by memory that is as readable and writable; what lies there is only ever plain integers that the kernel
            // may change at any time, and they are checked before use.
            let replaced = unsafe {
                mmap_anonymous(
                    base.as_ptr().cast(),
                    bytes,
                    ProtFlags::READ | ProtFlags::WRITE,
                    flags,
                )
            };
            debug_assert!(replaced.is_ok(), "mapping over an own mapping");
        }
        if let Ok(nowhere) = File::open("/dev/null") {
            // SAFETY: the socket owns the descriptor and is alive, as above; it is not closed here.
            let mut fd = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
            let _ = dup2(&nowhere, &mut fd);
        }
    }
}
