//! Pages that are in memory and not in this process's page table: read by a system call that does not wait, and entered into the table
//! by a thread of the store. A worker that touched one would wait for the page's lock, which write-back to a disk that hangs may hold.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::views::{Core, View, extent_bytes};
use crate::io::threads::caught;
use crate::mapped::residency::{Residency, WINDOW_PAGES};
use crate::tick::Tick;
use engine::Extent;

/// What comes within this time is entered together: to wake a thread for each window would cost more than to enter it.
const GATHER: Duration = Duration::from_millis(2);

impl Core {
    /// Whether a worker may touch the pages: they are in the page table, and the disk does not seem to hang, for which pages that were
    /// evicted since would make it wait.
    #[inline]
    pub(super) fn may_touch(&self, residency: &Residency, view: &View, extent: Extent, now: Tick) -> bool {
        let pages = view.mapping.pages_of(extent_bytes(extent));
        residency.is_entered(&pages, now) && !self.backing.device().is_stuck(now)
    }

    /// Copies from the mapping. False: what it met may not be the file's.
    #[inline]
    pub(super) fn copy(
        self: &Arc<Self>,
        view: &View,
        epoch: u64,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> bool {
        view.mapping.read(extent_bytes(extent).start, into);
        let intact = view.mapping.intact(epoch);
        if !intact {
            self.recover_later();
        }
        intact
    }

    /// Reads pages that may not be touched, if they are in memory. False: they are not.
    #[cold]
    pub(super) fn read_untouched(
        self: &Arc<Self>,
        (view, epoch): (&View, u64),
        residency: &Residency,
        extent: Extent,
        now: Tick,
        into: &mut [&mut [u8]],
    ) -> bool {
        let pages = view.mapping.pages_of(extent_bytes(extent));
        let was_fresh = residency.is_fresh(&pages, now);
        let was_known = residency.is_in_memory(&pages, now);
        if !was_known {
            self.read_ahead(view, residency, &pages);
        }
        // Asked for just before while the disk seems to hang, or write-back may have all of its requests: a system call starts to read what has
        // been evicted, and would wait.
        let device = self.backing.device();
        let is_known = was_known && !device.is_stuck(now) && !device.gate.is_writing_back();
        if !is_known && !residency.look(&view.mapping, &pages, now) {
            residency.note_absent(&pages);
            self.cold.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if !was_fresh && self.may_touch(residency, view, extent, now) {
            return self.copy(view, epoch, extent, into);
        }
        if !self.read_nowait(extent, into) {
            return false;
        }
        residency.note(*pages.start(), *pages.end());
        for window in pages.start() / WINDOW_PAGES..=pages.end() / WINDOW_PAGES {
            if residency.wants(window) {
                self.enter_later(window);
            }
        }
        true
    }

    fn enter_later(self: &Arc<Self>, window: usize) {
        if self.wanted.add(window) {
            let core = Arc::downgrade(self);
            let begun = self.backing.device().pool.try_run(move || {
                if caught(|| enter(&core)).is_err()
                    && let Some(core) = core.upgrade()
                {
                    core.wanted.give_up();
                }
            });
            if !begun {
                self.wanted.give_up();
            }
        }
    }

    /// Touches what is in memory of a window. Waits for the disk, if it must. Not during a hole punch or discard, which would find pages
    /// entered that it has taken away: whoever reads there wants them again.
    fn enter_window(&self, window: usize) {
        let view = self.view();
        let Some(residency) = &view.residency else { return };
        let Some(_inside) = self.backing.device().gate.go_inside() else {
            residency.want_again(window);
            return;
        };
        residency.enter(window, |page| {
            let (epoch, bytes) = (view.mapping.epoch(), view.mapping.bytes_of(page));
            if bytes.is_empty() || !epoch.is_multiple_of(2) {
                return false;
            }
            let mut byte = [0];
            view.mapping.read(bytes.start, &mut [&mut byte]);
            std::hint::black_box(byte);
            view.mapping.intact(epoch)
        });
    }
}

/// Enters what is wanted until nothing is.
fn enter(core: &Weak<Core>) {
    while let Some(core) = core.upgrade()
        && let Some(windows) = core.wanted.take()
    {
        for window in windows {
            core.enter_window(window);
        }
        drop(core);
        std::thread::sleep(GATHER);
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::{Sender, channel};
    use std::time::Instant;

    use super::*;
    use crate::backing::Backing;
    use crate::commit::Losses;
    use crate::completion_queue::CompletionQueue;
    use crate::mapped::MappedStore;
    use crate::options::{StoreKind, StoreOptions};
    use crate::registry::StoreRegistry;
    use crate::tests::{Driver, mapped_bytes};
    use engine::{Step, Store};

    const TIMEOUT: Duration = Duration::from_secs(60);
    const FIRST: Extent = Extent { lba: 0, count: 2 };

    /// An image that is in memory, as what has just been written is, and a worker. Not on tmpfs, where pages cannot leave memory.
    fn image() -> (tempfile::TempDir, PathBuf, Arc<MappedStore>, Driver) {
        let directory = tempfile::tempdir_in(".").unwrap();
        let path = directory.path().canonicalize().unwrap().join("image");
        std::fs::write(&path, vec![7; 4 << 20]).unwrap();
        let options = StoreOptions::new(StoreKind::Mmap, &path);
        let registry = StoreRegistry::default();
        let backing = Backing::open(&options, registry.disks()).unwrap();
        let store = Arc::new(MappedStore::new(backing, &options, &registry, Losses::default()).unwrap());
        let same: Arc<dyn Store<CompletionQueue>> = store.clone();
        (directory, path, store, Driver::new(&same))
    }

    /// Keeps all threads of a store busy until the senders are dropped.
    fn occupy(store: &MappedStore) -> Vec<Sender<()>> {
        let occupy = |_| {
            let (open, gate) = channel::<()>();
            store.core.backing.device().pool.run(move || {
                let _ = gate.recv();
            });
            open
        };
        (0..64).map(occupy).collect()
    }

    /// Reads the first sectors on the worker. False: it would have had to wait, as for a hole punch of another test in a file on the
    /// same disk.
    fn read_at_once(store: &MappedStore, driver: &mut Driver) -> bool {
        let (mut buffer, token) = ([0; 1024], driver.token());
        let step = store.read(&mut driver.queue, token, FIRST, &mut [&mut buffer]);
        let is_done = matches!(step, Ok(Step::Done));
        assert!(!is_done || buffer == [7; 1024]);
        is_done
    }

    /// Until `is_so`, which is asked again and again.
    fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Until a worker may touch the first pages.
    fn wait_until_entered(store: &MappedStore, driver: &mut Driver) {
        wait_until("nobody enters the pages", || {
            assert_eq!(driver.read(FIRST.lba, FIRST.count).unwrap(), [7; 1024]);
            may_touch(store, driver)
        });
    }

    fn may_touch(store: &MappedStore, driver: &Driver) -> bool {
        let view = store.core.view();
        let residency = view.residency.as_ref().expect("not a file in memory");
        store.core.may_touch(residency, view, FIRST, driver.queue.tick())
    }

    fn mapped(path: &Path) -> u64 {
        mapped_bytes(path.to_str().unwrap())
    }

    #[test]
    fn a_worker_reads_what_is_in_memory_without_a_page_fault_and_a_thread_enters_it() {
        let (_directory, path, store, mut driver) = image();
        let gates = occupy(&store);
        let mut at_once = 0;
        wait_until("reads of what is in memory have to wait", || {
            at_once += usize::from(read_at_once(&store, &mut driver));
            at_once == 100
        });
        assert_eq!(mapped(&path), 0, "the worker touched a page");
        drop(gates);
        wait_until_entered(&store, &mut driver);
        assert!(mapped(&path) > 0);
    }

    #[test]
    fn nothing_is_entered_during_a_hole_punch() {
        let (_directory, _path, store, mut driver) = image();
        wait_until_entered(&store, &mut driver);
        let core = &store.core;
        let view = core.view();
        let residency = view.residency.as_ref().expect("not a file in memory");
        let pages = view.mapping.pages_of(extent_bytes(FIRST));
        let punching = core.backing.device().gate.exclusive();
        crate::pages::Pages::gone(&**core, FIRST);
        assert!(!may_touch(&store, &driver), "it begins");
        // Till the hole is there the pages seem to be in memory.
        assert!(residency.look(&view.mapping, &pages, driver.queue.tick()));
        residency.wants(0);
        core.enter_window(0);
        assert!(!may_touch(&store, &driver));
        assert!(residency.wants(0), "nobody asks for the window again");
        drop(punching);
        // Other tests punch holes in files on the same disk.
        wait_until("the window is not entered", || {
            core.enter_window(0);
            may_touch(&store, &driver)
        });
    }

    #[test]
    fn what_was_given_back_is_not_touched_any_more() {
        let (_directory, _path, store, mut driver) = image();
        wait_until_entered(&store, &mut driver);
        driver.trim(&[FIRST]).unwrap();
        assert!(!may_touch(&store, &driver));
    }
}
