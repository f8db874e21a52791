//! The disk behind one store, as far as those must know it who do not want to wait for it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::file_system::{is_direct, notes_times_without_waiting, reads_without_waiting};
use crate::io::gate::{Gate, Gates};
use crate::io::pool::Pool;
use crate::tick::Tick;

/// After so many ticks in one system call a disk is taken to hang.
const STUCK_TICKS: u32 = 2;

/// What a thread of the store may be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// fdatasync.
    Commit,
    /// A write into the page cache, by the thread for those.
    Write,
    /// One by the thread that commits.
    LoneWrite,
}

/// One store's way to its disk.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) gate: Arc<Gate>,
    pub(crate) pool: Arc<Pool>,
    /// Whether a write that is asked not to wait does not.
    pub(crate) writes_nowait: bool,
    /// The same of a read.
    reads_nowait: bool,
    /// Whether reads go through the page cache.
    reads_by_cache: bool,
    /// When the system call under way began, plus one; 0: there is none. One for each [`Waiting`].
    since: [AtomicU32; 3],
}

impl Device {
    /// The disk of `file`, whose threads are named `name`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn of(file: &File, gates: &Gates, name: &str) -> io::Result<Arc<Device>> {
        let gate = gates.of(file)?;
        Ok(Arc::new(Device {
            pool: Pool::new(name, &gate.threads),
            gate,
            writes_nowait: notes_times_without_waiting(file),
            reads_nowait: reads_without_waiting(file),
            reads_by_cache: !is_direct(file),
            since: Default::default(),
        }))
    }

    /// Runs what may wait for the disk, on a thread of the store: [`Device::is_stuck`] knows of it.
    pub(crate) fn wait<T>(&self, what: Waiting, work: impl FnOnce() -> T) -> T {
        let _held = (what == Waiting::Commit).then(|| self.gate.write_back());
        let since = &self.since[what as usize];
        since.store(Tick::now().0.wrapping_add(1).max(1), Ordering::Relaxed);
        let result = work();
        since.store(0, Ordering::Relaxed);
        result
    }

    /// Whether a read that is asked not to wait may be begun by a worker now. Nobody asks the block layer not to wait for what is read into
    /// the page cache, and write-back may have all of the device's requests.
    pub(crate) fn may_read_at_once(&self) -> bool {
        self.reads_nowait && !(self.reads_by_cache && self.gate.is_writing_back())
    }

    /// Whether a thread of the store has waited for the disk suspiciously long.
    #[inline]
    pub(crate) fn is_stuck(&self, now: Tick) -> bool {
        self.since
            .iter()
            .any(|since| match since.load(Ordering::Relaxed) {
                0 => false,
                since => now.since(Tick(since.wrapping_sub(1))) >= STUCK_TICKS,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_return_is_noticed() {
        let file = tempfile::tempfile().unwrap();
        let device = Device::of(&file, &Gates::default(), "test").unwrap();
        let now = Tick::now();
        device.wait(Waiting::Commit, || {
            assert!(!device.is_stuck(now));
            assert!(!device.may_read_at_once(), "its requests may be taken");
            assert!(device.is_stuck(Tick(now.0 + STUCK_TICKS + 1)));
        });
        assert!(!device.is_stuck(Tick(now.0 + 100)));
    }
}
