//! Enters what a file in memory (tmpfs) holds into the page table before requests need it.
//!
//! Otherwise the first request to each 64 KiB pays a page fault, 3 µs: after a start one request in sixty is that much
//! slower. Files on a disk are left to the kernel, which tells hot pages from cold ones by who touched them.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::Mutex;

use super::super::mmap::Mapping;
use super::super::residency::BLOCK_PAGES;
use super::views::Core;

/// The thread's niceness: requests come first.
const NICE: i32 = 19;

/// Stores whose turn is yet to come; `None` while there is no thread.
static WAITING: Mutex<Option<Vec<Weak<Core>>>> = Mutex::new(None);

/// Starts it, in one thread for all stores, which ends when none is left.
pub(super) fn start(core: &Arc<Core>) {
    let mut waiting = WAITING.lock();
    if let Some(stores) = &mut *waiting {
        return stores.push(Arc::downgrade(core));
    }
    match thread::Builder::new().name("warm up".to_owned()).spawn(run) {
        Ok(_) => *waiting = Some(vec![Arc::downgrade(core)]),
        // Requests will do it.
        Err(error) => tracing::debug!("no thread to warm up with: {error}"),
    }
}

fn run() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("nice {NICE}: {error}");
    }
    while let Some(store) = next() {
        let mut page = 0;
        // Not held for longer than a block takes: the store may be closed meanwhile.
        while let Some(core) = store.upgrade() {
            let (mapping, _) = core.mapped();
            if page >= mapping.pages() {
                break;
            }
            let end = (page + BLOCK_PAGES).min(mapping.pages());
            if let Err(error) = warm(mapping, page, end) {
                tracing::debug!("{}: warming up: {error}", core.backing.path().display());
                break;
            }
            page = end;
        }
    }
}

fn next() -> Option<Weak<Core>> {
    let mut waiting = WAITING.lock();
    let store = waiting.as_mut().and_then(Vec::pop);
    if store.is_none() {
        *waiting = None;
    }
    store
}

/// Pages `first..end`, at most a block: those that exist. To touch a hole would fill it.
fn warm(mapping: &Mapping, first: usize, end: usize) -> io::Result<()> {
    let mut pages = [0u8; BLOCK_PAGES];
    let pages = &mut pages[..end - first];
    mapping.residency(first, pages)?;
    let mut at = first;
    for run in pages.chunk_by(|one, other| one & 1 == other & 1) {
        if run[0] & 1 == 1 {
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

    use super::super::super::{StoreKind, StoreOptions, open};

    /// Bytes of the process's mapping of `path` that are in the page table.
    fn mapped_bytes(path: &str) -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| !line.ends_with(path));
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

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
}
