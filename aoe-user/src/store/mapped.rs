//! The `mmap` store: sectors are copied from and to a shared mapping of the file.
//!
//! A request for resident pages is a bounds check, a look at the residency map and a copy. Anything else leaves that
//! path: cold pages, faults and durable writes.

use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::backing::Backing;
use super::committer::{Committer, Medium, Task};
use super::fetch::{ColdRead, Pages, ReadAhead, Streams, Verify, Warm};
use super::folios::{self, Folios};
use super::lane::Tick;
use super::mmap::Mapping;
use super::residency::{BLOCK_PAGES, Residency};
use super::{
    Durability, Extent, Fault, FaultKind, Lane, SECTOR_BYTES, Step, Store, StoreError, Token, Traits,
};

/// Each further mapping is at least twice as long as the last, so this suffices for ever.
const MAX_VIEWS: usize = 48;
/// A mapping that had a fault is made whole again at most this often; meanwhile system calls serve it.
const MEND_INTERVAL: Duration = Duration::from_millis(250);

/// Serves a file or block device through its page cache.
#[derive(Debug)]
pub(super) struct MappedStore {
    core: Arc<Core>,
    committer: Arc<Committer>,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) backing: Backing,
    /// Mappings of the range, each longer than the one before; old ones stay, since readers may be inside.
    views: [OnceLock<View>; MAX_VIEWS],
    newest: AtomicUsize,
    /// End of what is known to exist, in bytes from the first served one; beyond it no page is touched.
    present: AtomicU64,
    growing: Mutex<()>,
    streams: Streams,
    pub(super) folios: Folios,
    mended: Mutex<Option<Instant>>,
    slow: AtomicU64,
    cold: AtomicU64,
}

#[derive(Debug)]
struct View {
    mapping: Mapping,
    /// `None` where pages cannot leave memory (tmpfs, ramfs, hugetlbfs).
    residency: Option<Residency>,
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
        Ok(View { mapping, residency })
    }
}

impl MappedStore {
    /// Maps what `backing` serves.
    ///
    /// # Errors
    /// [`StoreError::System`] when it cannot be mapped.
    pub(super) fn new(backing: Backing, flush_interval: Duration) -> Result<MappedStore, StoreError> {
        let path = backing.path().to_owned();
        // Before the first page comes in, so that it comes alone (see mmap.rs).
        if let Err(error) = rustix::fs::fadvise(backing.file(), 0, None, rustix::fs::Advice::Random) {
            tracing::debug!("{}: POSIX_FADV_RANDOM: {error}", path.display());
        }
        let bytes = backing.sectors() * SECTOR_BYTES;
        let view = View::new(&backing, bytes).map_err(|error| StoreError::system(&path, "mapping", error))?;
        let core = Arc::new(Core {
            backing,
            views: [const { OnceLock::new() }; MAX_VIEWS],
            newest: AtomicUsize::new(0),
            present: AtomicU64::new(bytes),
            growing: Mutex::new(()),
            streams: Streams::default(),
            folios: Folios::default(),
            mended: Mutex::new(None),
            slow: AtomicU64::new(0),
            cold: AtomicU64::new(0),
        });
        let _ = core.views[0].set(view);
        let committer = Committer::new(Arc::clone(&core) as Arc<dyn Medium>, flush_interval);
        Ok(MappedStore { core, committer })
    }

    /// The end of a write whose data is in the page cache.
    #[inline]
    fn written(&self, lane: &mut Lane, token: Token, extent: Extent, durability: Durability) -> Step {
        match durability {
            Durability::WriteBack => {
                self.committer.note_write();
                Step::Done
            }
            Durability::Durable => {
                lane.commit(&self.committer, token, Task::Write(extent.lba));
                Step::Later
            }
        }
    }
}

impl Drop for MappedStore {
    fn drop(&mut self) {
        self.committer.abandon();
    }
}

impl Core {
    /// The mapping, and what is known about its pages in memory (`None` where they never leave it).
    pub(super) fn mapped(&self) -> (&Mapping, Option<&Residency>) {
        let view = self.view();
        (&view.mapping, view.residency.as_ref())
    }

    #[inline]
    fn view(&self) -> &View {
        let newest = self.newest.load(Ordering::Acquire);
        self.views[newest]
            .get()
            .expect("a view is set before its number is published")
    }

    /// The newest view, if its pages for the extent are in memory and the file's own; with the epoch for
    /// [`Mapping::intact`] and the place in the mapping.
    #[inline]
    fn find(&self, now: Tick, extent: Extent) -> Found<'_> {
        let view = self.view();
        let mapping = &view.mapping;
        let epoch = mapping.epoch();
        let end = extent.end() * SECTOR_BYTES;
        if epoch % 2 == 1 || end > self.present.load(Ordering::Relaxed) || end > mapping.len() as u64 {
            return Found::Broken;
        }
        if let Some(residency) = &view.residency {
            let pages = mapping.pages_of(extent_bytes(extent));
            if !residency.is_hot(*pages.start(), *pages.end(), now) {
                return Found::Unsure(view, residency, pages);
            }
        }
        Found::Hot(view, extent_bytes(extent).start, epoch)
    }

    /// Reads ahead of a sequential reader that is at these pages.
    fn read_ahead(&self, lane: &mut Lane, view: &View, residency: &Residency, pages: &RangeInclusive<usize>) {
        let known = |first, last| residency.was_hot(first, last);
        let Some(ahead) = self.streams.advance(*pages.start(), *pages.end(), known) else {
            return;
        };
        let (first, last) = (ahead.start as usize, ahead.end as usize - 1);
        let bytes = view.mapping.bytes_of(first).start..view.mapping.bytes_of(last).end;
        if bytes.is_empty() || residency.was_hot(first, last) {
            return;
        }
        let start = self.backing.position(0);
        ReadAhead::start(
            lane,
            &self.backing,
            start + bytes.start as u64..start + bytes.end as u64,
        );
    }

    /// The sectors of those pages that a write covers in part only and that are not in memory: they must come in
    /// first, the others are simply written over.
    fn to_warm(
        &self,
        view: &View,
        residency: &Residency,
        pages: &RangeInclusive<usize>,
        extent: Extent,
    ) -> Option<Extent> {
        let written = extent.lba * SECTOR_BYTES..extent.end() * SECTOR_BYTES;
        let mut needed = [*pages.start(), *pages.end()].into_iter().filter(|page| {
            let bytes = view.mapping.bytes_of(*page);
            let covered = written.start <= bytes.start as u64 && bytes.end as u64 <= written.end;
            !covered && !residency.was_hot(*page, *page)
        });
        let first = needed.next()?;
        let last = needed.next().unwrap_or(first);
        let sector = |byte: usize| byte as u64 / SECTOR_BYTES;
        let lba = sector(view.mapping.bytes_of(first).start);
        let end = sector(view.mapping.bytes_of(last).end).min(self.backing.sectors());
        Some(Extent {
            lba,
            count: end - lba,
        })
    }

    /// Whether a write to these pages has to wait until their folios are small.
    #[inline]
    fn settle(
        self: &Arc<Self>,
        lane: &mut Lane,
        token: Token,
        mapping: &Mapping,
        residency: &Residency,
        pages: &RangeInclusive<usize>,
    ) -> bool {
        (pages.start() / BLOCK_PAGES..=pages.end() / BLOCK_PAGES).any(|block| {
            !residency.is_settled(block) && folios::settle(self, lane, token, mapping, residency, block)
        })
    }

    /// After a fault, or beyond what exists: by system calls, which say what is wrong.
    #[cold]
    fn read_slowly(&self, extent: Extent, into: &mut [&mut [u8]]) -> Result<(), Fault> {
        self.slow.fetch_add(1, Ordering::Relaxed);
        let result = self.backing.read_slices(extent, into);
        self.recover();
        result
    }

    /// By pwrite, where the file system has to track dirty pages: a write through the mapping costs it a page fault
    /// after every commit, two to three times as much. The pages are in memory or covered whole.
    fn write_to_cache(&self, extent: Extent, from: &[&[u8]]) -> Result<(), Fault> {
        let result = self.backing.write_slices(extent, from);
        // Before the caller's look at the dirty flag, see `Committer::note_write`.
        fence(Ordering::SeqCst);
        match result {
            Ok(()) => self.arrived(extent),
            Err(_) => self.recover(),
        }
        result
    }

    /// As [`Core::read_slowly`]; writes again what may have gone into a page that was not the file's.
    #[cold]
    fn write_slowly(&self, extent: Extent, from: &[&[u8]]) -> Result<(), Fault> {
        self.slow.fetch_add(1, Ordering::Relaxed);
        let result = self.write_to_cache(extent, from);
        self.recover();
        result
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
            if let Err(error) = view.mapping.mend() {
                tracing::warn!(
                    "{}: mapping again after a fault: {error}",
                    self.backing.path().display()
                );
            }
        }
    }

    /// Serves what the file has grown by.
    fn grow(&self) -> io::Result<u64> {
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
fn extent_bytes(extent: Extent) -> Range<usize> {
    (extent.lba * SECTOR_BYTES) as usize..(extent.end() * SECTOR_BYTES) as usize
}

/// What [`Core::find`] finds.
enum Found<'a> {
    /// Copy, from this byte of the mapping, and compare the epoch afterwards.
    Hot(&'a View, usize, u64),
    /// Pages that may not be in memory.
    Unsure(&'a View, &'a Residency, RangeInclusive<usize>),
    /// The mapping cannot be trusted now.
    Broken,
}

impl Pages for Core {
    fn backing(&self) -> &Backing {
        &self.backing
    }

    fn arrived(&self, extent: Extent) {
        let View { mapping, residency } = self.view();
        if let Some(residency) = residency {
            let pages = mapping.pages_of(extent_bytes(extent));
            residency.note(*pages.start(), *pages.end());
        }
    }
}

impl Store for MappedStore {
    fn sectors(&self) -> u64 {
        self.core.backing.sectors()
    }

    fn refresh(&self) -> io::Result<u64> {
        self.core.grow()
    }

    fn traits(&self) -> Traits {
        self.core.backing.traits()
    }

    fn read(
        &self,
        lane: &mut Lane,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        let core = &self.core;
        core.backing.check(extent, FaultKind::Read)?;
        let mut found = core.find(lane.tick(), extent);
        if let Found::Unsure(view, residency, pages) = found {
            core.read_ahead(lane, view, residency, &pages);
            if !residency.look(&view.mapping, &pages, lane.tick()) {
                core.cold.fetch_add(1, Ordering::Relaxed);
                ColdRead::start(lane, core, token, extent);
                return Ok(Step::Later);
            }
            found = core.find(lane.tick(), extent);
        }
        if let Found::Hot(view, at, epoch) = found {
            view.mapping.read(at, into);
            if view.mapping.intact(epoch) {
                return Ok(Step::Done);
            }
        }
        core.read_slowly(extent, into)?;
        Ok(Step::Done)
    }

    fn write(
        &self,
        lane: &mut Lane,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault> {
        self.core.backing.check(extent, FaultKind::Write)?;
        self.core.backing.check_writable(extent)?;
        let core = &self.core;
        match core.find(lane.tick(), extent) {
            Found::Hot(
                View {
                    mapping,
                    residency: None,
                },
                at,
                epoch,
            ) => {
                mapping.write(at, from);
                if !mapping.intact(epoch) {
                    core.write_slowly(extent, from)?;
                }
            }
            Found::Hot(
                View {
                    mapping,
                    residency: Some(residency),
                },
                ..,
            ) => {
                let pages = mapping.pages_of(extent_bytes(extent));
                if core.settle(lane, token, mapping, residency, &pages) {
                    return Ok(Step::Later);
                }
                core.write_to_cache(extent, from)?;
            }
            Found::Unsure(view, residency, pages) => {
                let hot = residency.look(&view.mapping, &pages, lane.tick());
                if core.settle(lane, token, &view.mapping, residency, &pages) {
                    return Ok(Step::Later);
                }
                if !hot {
                    core.cold.fetch_add(1, Ordering::Relaxed);
                    if let Some(warm) = core.to_warm(view, residency, &pages, extent) {
                        Warm::start(lane, core, token, warm);
                        return Ok(Step::Later);
                    }
                }
                core.write_to_cache(extent, from)?;
            }
            Found::Broken => core.write_slowly(extent, from)?,
        }
        Ok(self.written(lane, token, extent, durability))
    }

    fn flush(&self, lane: &mut Lane, token: Token) -> Result<Step, Fault> {
        if self.core.backing.read_only() {
            return Ok(Step::Done);
        }
        lane.commit(&self.committer, token, Task::Flush);
        Ok(Step::Later)
    }

    fn trim(&self, lane: &mut Lane, token: Token, extents: &[Extent]) -> Result<Step, Fault> {
        for extent in extents {
            self.core.backing.check(*extent, FaultKind::Write)?;
        }
        lane.commit(&self.committer, token, Task::Trim(extents.to_vec()));
        Ok(Step::Later)
    }

    fn verify(&self, lane: &mut Lane, token: Token, extent: Extent) -> Result<Step, Fault> {
        self.core.backing.check(extent, FaultKind::Read)?;
        Verify::start(lane, &self.core, token, extent, 1);
        Ok(Step::Later)
    }

    fn prefetch(&self, extent: Extent) {
        if extent.end() <= self.sectors() {
            let bytes = extent_bytes(extent);
            self.core.view().mapping.prefetch(bytes.start, bytes.len());
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = vec![
            ("faults", self.core.backing.faults()),
            ("replaced", u64::from(self.core.backing.is_replaced())),
            ("slow", self.core.slow.load(Ordering::Relaxed)),
            ("cold", self.core.cold.load(Ordering::Relaxed)),
            ("folios_changed", self.core.folios.changed()),
        ];
        counters.extend(self.committer.counters());
        counters
    }

    fn close(&self) -> io::Result<()> {
        match self.core.backing.read_only() {
            true => Ok(()),
            false => self.committer.close(),
        }
    }
}

impl Medium for Core {
    fn commit(&self) -> io::Result<()> {
        self.backing.sync()
    }

    fn trim(&self, extent: Extent) -> io::Result<()> {
        self.backing.punch(extent)
    }

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        self.backing.fault(FaultKind::Write, lba, source)
    }

    fn name(&self) -> String {
        self.backing.name()
    }
}
