//! Enters what a file in memory (tmpfs) holds into the page table before requests need it.
//!
//! Otherwise the first request to each 64 KiB pays a page fault, 3 µs: after a start one request in sixty is that much
//! slower. Files on a disk are left to the kernel, which tells hot pages from cold ones by who touched them.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::{Mutex, MutexGuard};

use super::views::{Core, View};
use crate::io::threads::caught;
use crate::mapped::residency::BLOCK_PAGES;

/// The thread's niceness: requests come first.
const NICE: i32 = 19;

/// A store, and the first of its pages that was not looked at.
#[derive(Debug)]
struct Continuation {
    store: Weak<Core>,
    next_page: usize,
}

/// The thread that warms up for all stores, one after the other, so that they do not take the processor from requests.
#[derive(Debug, Default)]
pub(crate) struct WarmUp {
    /// What is to be done, the last one first; `None` while there is no thread.
    jobs: Mutex<Option<Vec<Continuation>>>,
    /// Held as long as the thread holds on to a store. Locked after `jobs`.
    working: Mutex<()>,
}

impl WarmUp {
    /// Adds a store, and starts the thread unless it runs. It ends when no store is left.
    pub(crate) fn start(self: &Arc<Self>, core: &Arc<Core>) {
        let continuation = Continuation {
            store: Arc::downgrade(core),
            next_page: 0,
        };
        let mut jobs = self.jobs.lock();
        if let Some(jobs) = &mut *jobs {
            return jobs.push(continuation);
        }
        let same = Arc::clone(self);
        match thread::Builder::new().name("warm up".to_owned()).spawn(move || {
            if caught(|| same.run()).is_err() {
                // The next store starts another thread.
                *same.jobs.lock() = None;
            }
        }) {
            Ok(_) => *jobs = Some(vec![continuation]),
            // Requests will do it.
            Err(error) => tracing::debug!("no thread to warm up with: {error}"),
        }
    }

    /// Takes out a store that is to be closed: afterwards the thread does not keep its file open, or its lock.
    pub(crate) fn stop(&self, core: &Arc<Core>) {
        let mut jobs = self.jobs.lock();
        let Some(waiting) = &mut *jobs else { return };
        let before = waiting.len();
        waiting.retain(|continuation| !std::ptr::eq(continuation.store.as_ptr(), Arc::as_ptr(core)));
        let was_there = waiting.len() != before;
        drop(jobs);
        if was_there {
            drop(self.working.lock());
        }
    }

    fn run(&self) {
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!("nice {NICE}: {error}");
        }
        while let Some((core, block, working)) = self.next_block() {
            if let Err(error) = warm(core.view(), block) {
                tracing::debug!("{}: warming up: {error}", core.backing.path().display());
            }
            drop(core);
            drop(working);
        }
    }

    /// Pages to look at, at most a block, and the store they belong to.
    fn next_block(&self) -> Option<(Arc<Core>, Range<usize>, MutexGuard<'_, ()>)> {
        let mut jobs = self.jobs.lock();
        let waiting = jobs.as_mut()?;
        while let Some(continuation) = waiting.last_mut() {
            if let Some(core) = continuation.store.upgrade() {
                let end = (continuation.next_page + BLOCK_PAGES).min(core.mapped().0.pages());
                let block = continuation.next_page..end;
                if !block.is_empty() {
                    continuation.next_page = end;
                    return Some((core, block, self.working.lock()));
                }
            }
            waiting.pop();
        }
        *jobs = None;
        None
    }
}

/// Enters those of a block's pages that exist. To touch a hole would fill it.
fn warm(view: &View, block: Range<usize>) -> io::Result<()> {
    let mapping = &view.mapping;
    let mut pages = [0u8; BLOCK_PAGES];
    let pages = &mut pages[..block.len()];
    mapping.residency(block.start, pages)?;
    let mut at = block.start;
    for run in pages.chunk_by(|one, other| one & 1 == other & 1) {
        if run[0] & 1 == 1 {
            view.note_existing(at, at + run.len() - 1);
            mapping.populate(at..at + run.len())?;
        }
        at += run.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::time::{Duration, Instant};

    use crate::open::open;
    use crate::options::{StoreKind, StoreOptions};
    use crate::tests::mapped_bytes;

    #[test]
    fn what_is_there_is_entered_and_holes_stay_holes() {
        let directory = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("image");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(16 << 20).unwrap();
        // Not in the first block, not up to a block's end, and with a hole between.
        file.write_all_at(&vec![1; 3 << 20], 5 << 20).unwrap();
        file.write_all_at(&vec![2; 1 << 20], 12 << 20).unwrap();
        let store = open(&StoreOptions::new(StoreKind::Mmap, &path)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while mapped_bytes(path.to_str().unwrap()) != 4 << 20 {
            assert!(
                Instant::now() < deadline,
                "{}",
                mapped_bytes(path.to_str().unwrap())
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(file.metadata().unwrap().blocks() * 512, 4 << 20);
        store.close().unwrap();
    }

    #[test]
    fn a_store_that_is_closed_meanwhile_gives_its_file_back() {
        let directory = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("image");
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        for _ in 0..200 {
            // Another writer is refused as long as anyone holds the file.
            let store = open(&StoreOptions::new(StoreKind::Mmap, &path)).unwrap();
            drop(store);
        }
    }
}
