//! The mappings of the file, kept in step with it: grown with it, mended after a fault, passed by while broken.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backing::Backing;
use crate::borders::{self, FilePlace, Places};
use crate::commit::Committer;
use crate::io::device::Waiting;
use crate::limits::no_room_to_map;
use crate::mapped::changing::Changing;
use crate::mapped::mmap::Mapping;
use crate::mapped::page_set::PageSet;
use crate::mapped::page_tables::PageTables;
use crate::mapped::residency::Residency;
use crate::mapped::streams::Streams;
use crate::mapped::wanted::Wanted;
use crate::mapped::writer::Cache;
use crate::options::StoreError;
use crate::pages::Pages;
use engine::{Extent, Fault, SECTOR_BYTES};

/// Each further mapping is at least twice as long as the last, so this suffices for ever.
const MAX_VIEWS: usize = 48;
/// A mapping that had a fault is made whole again at most this often; meanwhile system calls serve it.
const MEND_INTERVAL: Duration = Duration::from_millis(250);

/// What requests, and operations under way, hold on to.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) backing: Backing,
    /// Keeps direct stores off the blocks at its ends.
    _place: Arc<FilePlace>,
    /// Whom errors of the page cache's upkeep concern; it holds on to this.
    committer: OnceLock<Weak<Committer>>,
    /// Mappings of the range, each longer than the one before; old ones stay, since readers may be inside.
    views: [OnceLock<View>; MAX_VIEWS],
    newest: AtomicUsize,
    /// End of what is known to exist, in bytes from the first served one; beyond it no page is touched.
    present: AtomicU64,
    growing: Mutex<()>,
    pub(crate) streams: Streams,
    pub(crate) changing: Changing,
    pub(crate) page_tables: PageTables,
    pub(crate) wanted: Wanted,
    mended: Mutex<Option<Instant>>,
    pub(crate) slow: AtomicU64,
    pub(crate) cold: AtomicU64,
}

/// One mapping of the range.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) mapping: Mapping,
    /// `None` where pages cannot leave memory (tmpfs, ramfs, hugetlbfs).
    pub(crate) residency: Option<Residency>,
    /// Where a read through the mapping would fill holes (tmpfs): the pages that surely exist (holes.rs).
    pub(super) existing: Option<PageSet>,
}

impl View {
    fn new(backing: &Backing, bytes: u64) -> io::Result<View> {
        let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping::of_file(
            Arc::clone(backing.file()),
            backing.position(0),
            len,
            !backing.read_only(),
        )?;
        let residency = (!backing.in_memory()).then(|| Residency::new(mapping.pages()));
        let existing = backing.has_costly_holes().then(|| PageSet::new(mapping.pages()));
        Ok(View {
            mapping,
            residency,
            existing,
        })
    }
}

impl Core {
    /// Maps what `backing` serves.
    ///
    /// # Errors
    /// [`StoreError::System`] when it cannot be mapped.
    pub(crate) fn new(backing: Backing, places: &Places) -> Result<Core, StoreError> {
        let path = backing.path().to_owned();
        // Before the first page comes in, so that it comes alone (see mmap.rs).
        if let Err(error) = rustix::fs::fadvise(backing.file(), 0, None, rustix::fs::Advice::Random) {
            tracing::debug!("{}: POSIX_FADV_RANDOM: {error}", path.display());
        }
        let bytes = backing.sectors() * SECTOR_BYTES;
        let view = View::new(&backing, bytes).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOMEM) => StoreError::TooLargeToMap {
                path,
                bytes,
                limit: no_room_to_map(bytes),
            },
            _ => StoreError::system(&path, "mapping", error),
        })?;
        let core = Core {
            _place: borders::cached(places, &backing)?,
            backing,
            committer: OnceLock::new(),
            views: [const { OnceLock::new() }; MAX_VIEWS],
            newest: AtomicUsize::new(0),
            present: AtomicU64::new(bytes),
            growing: Mutex::new(()),
            streams: Streams::default(),
            changing: Changing::default(),
            page_tables: PageTables::default(),
            wanted: Wanted::default(),
            mended: Mutex::new(None),
            slow: AtomicU64::new(0),
            cold: AtomicU64::new(0),
        };
        let _ = core.views[0].set(view);
        Ok(core)
    }

    pub(super) fn set_committer(&self, committer: &Arc<Committer>) {
        let _ = self.committer.set(Arc::downgrade(committer));
    }

    /// A write-back failed that the committer did not ask for: it is to find out now what that took down.
    pub(crate) fn write_back_failed(&self) {
        if let Some(committer) = self.committer.get().and_then(Weak::upgrade) {
            committer.suspect();
        }
    }

    /// The mapping, and what is known about its pages in memory (`None` where they never leave it).
    pub(crate) fn mapped(&self) -> (&Mapping, Option<&Residency>) {
        let view = self.view();
        (&view.mapping, view.residency.as_ref())
    }

    #[inline]
    pub(crate) fn view(&self) -> &View {
        let newest = self.newest.load(Ordering::Acquire);
        self.views[newest]
            .get()
            .expect("a view is set before its number is published")
    }

    /// The newest view, if it has all of the extent; with the epoch for [`Mapping::intact`]. `None`: it cannot be trusted now.
    #[inline]
    pub(crate) fn find(&self, extent: Extent) -> Option<(&View, u64)> {
        let view = self.view();
        let epoch = view.mapping.epoch();
        let end = extent.end() * SECTOR_BYTES;
        let is_whole = epoch.is_multiple_of(2)
            && end <= self.present.load(Ordering::Relaxed)
            && end <= view.mapping.len() as u64;
        is_whole.then_some((view, epoch))
    }

    /// On the worker, which does not wait: from the page cache by a system call. False: it is not all there, or a hole punch or
    /// discard has the file for itself.
    pub(crate) fn read_nowait(&self, extent: Extent, into: &mut [&mut [u8]]) -> bool {
        let inside = self.backing.device().gate.go_inside();
        inside.is_some() && self.backing.read_nowait(extent, into)
    }

    /// On the worker, where the file system can be asked not to wait: by pwrite, since a write through the mapping costs
    /// a page fault after every commit, two to three times as much. The pages are in memory or covered whole.
    ///
    /// # Errors
    /// Of the write. `Ok(false)`: it would have to wait, or cannot be asked not to.
    pub(crate) fn write_nowait(&self, extent: Extent, from: &[&[u8]]) -> Result<bool, Fault> {
        let written = self.backing.write_nowait(extent, from)?;
        // Before the caller's look at the notes, see `Committer::acknowledge`.
        fence(Ordering::SeqCst);
        if written {
            self.arrived(extent);
        }
        Ok(written)
    }

    /// Something met a page that is not the file's, or what is beyond the file's end: finds out, on a thread of the store.
    #[cold]
    pub(crate) fn recover_later(self: &Arc<Self>) {
        self.slow.fetch_add(1, Ordering::Relaxed);
        if self.backing.device().pool.waiting() == 0 {
            let core = Arc::clone(self);
            self.backing.device().pool.run(move || core.recover());
        }
    }

    /// Now and then: finds out how much of the file there is, and maps it again if a fault left a foreign page.
    fn recover(&self) {
        let Some(mut mended) = self.mended.try_lock() else {
            return;
        };
        if mended.is_some_and(|when| when.elapsed() < MEND_INTERVAL) {
            return;
        }
        *mended = Some(Instant::now());
        if let Ok(bytes) = self.backing.object_bytes() {
            let served = self.backing.sectors() * SECTOR_BYTES;
            let present = bytes.saturating_sub(self.backing.position(0)).min(served);
            self.present.store(present, Ordering::Relaxed);
        }
        for view in self.views.iter().map_while(OnceLock::get) {
            let forget = || view.residency.iter().for_each(Residency::forget_all);
            if let Err(error) = view.mapping.mend(forget) {
                tracing::warn!(
                    "{}: mapping again after a fault: {error}",
                    self.backing.path().display()
                );
            }
        }
    }

    /// Serves what the file has grown by.
    pub(crate) fn grow(&self) -> io::Result<u64> {
        let _one_at_a_time = self.growing.lock();
        let sectors = self.backing.measure()?;
        let bytes = sectors * SECTOR_BYTES;
        if sectors == self.backing.sectors() {
            return Ok(sectors);
        }
        let newest = self.newest.load(Ordering::Acquire);
        let mapped = self.view().mapping.len() as u64;
        if bytes > mapped {
            let slot = self.views.get(newest + 1).ok_or(io::ErrorKind::OutOfMemory)?;
            // Beyond the end of the file a mapping costs address space only.
            let view = View::new(&self.backing, bytes.max(mapped * 2))
                .or_else(|_| View::new(&self.backing, bytes))?;
            let _ = slot.set(view);
            self.newest.store(newest + 1, Ordering::Release);
        }
        self.present.store(bytes, Ordering::Relaxed);
        self.backing.set_sectors(sectors);
        Ok(sectors)
    }
}

/// An extent that was checked to lie inside, in bytes of the mapping.
#[inline]
pub(crate) fn extent_bytes(extent: Extent) -> Range<usize> {
    (extent.lba * SECTOR_BYTES) as usize..(extent.end() * SECTOR_BYTES) as usize
}

impl Cache for Core {
    fn write(&self, by: Waiting, extent: Extent, pieces: &[&[u8]]) -> Result<(), Fault> {
        let device = self.backing.device();
        let result = device.wait(by, || self.backing.write_slices(extent, pieces));
        // Before the caller's look at the notes, see `Committer::acknowledge`.
        fence(Ordering::SeqCst);
        match result {
            Ok(()) => self.arrived(extent),
            Err(_) => self.recover(),
        }
        result
    }

    fn name(&self) -> String {
        self.backing.name()
    }
}

impl Pages for Core {
    fn backing(&self) -> &Backing {
        &self.backing
    }

    fn arrived(&self, extent: Extent) {
        let view = self.view();
        if let Some(residency) = &view.residency {
            let pages = view.mapping.pages_of(extent_bytes(extent));
            residency.note(*pages.start(), *pages.end());
        }
    }

    fn gone(&self, extent: Extent) {
        for view in self.views.iter().map_while(OnceLock::get) {
            view.forget(extent_bytes(extent));
        }
    }
}
