//! Memory that many threads read and write through raw copies: a shared mapping of a file, or anonymous.
//!
//! No reference to the memory ever exists, only copies in and out. Overlapping copies at the same time are kept
//! apart by the caller (`super`'s ordering rule); what other processes do to a file shows as whatever bytes they
//! write, which is data to us and nothing else.

use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::mm::{
    Advice, MapFlags, MlockFlags, ProtFlags, madvise, mlock_with, mmap, mmap_anonymous, munmap,
};

use crate::mapped::sigbus::Guard;

/// A line of the processor's cache.
const LINE_BYTES: usize = 64;

/// Bytes that are brought in line by line before they are asked for: a request of an ordinary frame.
const HINT_BYTES: usize = 1024;

/// Bytes that memcpy loads all at once, before it stores the first: longer copies wait for one cold line after the other.
const COPY_BYTES: usize = 512;

/// A mapping of `len` usable bytes.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    /// Where the usable bytes begin: a file's range need not begin on a page.
    lead: usize,
    len: usize,
    /// Mapped bytes, whole pages.
    total: usize,
    page_shift: u32,
    /// For a file: to map it again after a fault, and who notices faults.
    file: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    file: Arc<File>,
    position: u64,
    prot: ProtFlags,
    guard: Guard,
}

// SAFETY: the memory is reached by copies only, from any thread; who copies what when is ordered by the callers, as
// the module says, and base and lengths never change.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from byte `position`, shared, and asks for single pages instead of read-ahead.
    /// It may reach beyond the end of the file: what the file grows by appears by itself.
    ///
    /// # Errors
    /// Of mmap, for example no address space left.
    pub(crate) fn of_file(file: Arc<File>, position: u64, len: usize, writable: bool) -> io::Result<Mapping> {
        let page_bytes = page_bytes(file.as_fd());
        let lead = (position % page_bytes as u64) as usize;
        let position = position - lead as u64;
        let total = (lead + len).next_multiple_of(page_bytes);
        let prot = match writable {
            true => ProtFlags::READ | ProtFlags::WRITE,
            false => ProtFlags::READ,
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { mmap(ptr::null_mut(), total, prot, MapFlags::SHARED, &file, position)? };
        let mut mapping = Mapping {
            base: NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            lead,
            len,
            total,
            page_shift: rustix::param::page_size().ilog2(),
            file: None,
        };
        mapping.advise_random();
        mapping.file = Some(Watched {
            file,
            position,
            prot,
            guard: Guard::new(base as usize, total, page_bytes)?,
        });
        Ok(mapping)
    }

    /// Zeros, taking memory only where it is written.
    ///
    /// # Errors
    /// Of mmap.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        let total = len.next_multiple_of(rustix::param::page_size());
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), total, prot, flags)? };
        Ok(Mapping {
            base: NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            lead: 0,
            len,
            total,
            page_shift: rustix::param::page_size().ilog2(),
            file: None,
        })
    }

    /// Usable bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Odd while a page of the mapping is not the file's; take it before a copy, give it to [`Mapping::intact`].
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.file.as_ref().map_or(0, |watched| watched.guard.epoch())
    }

    /// Whether copies since `epoch` was taken met the file's pages and no others.
    #[inline]
    pub(crate) fn intact(&self, epoch: u64) -> bool {
        // The copy's loads come before this look at the epoch, also in the eyes of the processor; for its stores see `write`.
        fence(Ordering::Acquire);
        epoch.is_multiple_of(2) && self.epoch() == epoch
    }

    /// Maps the file again after a fault, if no other fault comes in between. `forget` is to forget what is known of its pages in the
    /// page table, before the mapping counts as whole again.
    ///
    /// # Errors
    /// Of mmap.
    pub(crate) fn mend(&self, forget: impl FnOnce()) -> io::Result<()> {
        let Some(watched) = &self.file else { return Ok(()) };
        let total = self.total;
        watched.guard.mend(|| {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: replaces exactly our own mapping, by one of the same file, range and rights; the kernel does
            // it in one step under its lock, so concurrent copies see the one or the other.
            let base = unsafe {
                mmap(
                    self.base.as_ptr().cast(),
                    total,
                    watched.prot,
                    flags,
                    &watched.file,
                    watched.position,
                )?
            };
            debug_assert_eq!(base, self.base.as_ptr().cast());
            self.advise_random();
            forget();
            Ok(())
        })
    }

    /// Starts to bring the bytes at `at` into the processor's cache, if they lie in the mapping: of many the first ones, and
    /// the first line of each page. There the page walk is what costs; the lines that follow the processor foresees by itself.
    #[inline]
    pub(crate) fn prefetch(&self, at: usize, bytes: usize) {
        let Some(end) = at.checked_add(bytes).filter(|end| *end <= self.len) else {
            return;
        };
        let near = end.min(at + HINT_BYTES);
        for line in (at..near).step_by(LINE_BYTES) {
            self.hint(line);
        }
        if near < end {
            let page_bytes = 1 << self.page_shift;
            let next_page = (self.lead + near).next_multiple_of(page_bytes) - self.lead;
            for page in (next_page..end).step_by(page_bytes) {
                self.hint(page);
            }
        }
    }

    /// Starts to bring in the line of byte `at`, which lies in the mapping.
    #[inline]
    fn hint(&self, at: usize) {
        debug_assert!(at < self.len);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch never faults; the address is inside the mapping all the same.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.base.as_ptr().add(self.lead + at).cast()) };
        }
    }

    /// Copies from byte `at` into the pieces.
    #[inline]
    pub(crate) fn read(&self, at: usize, into: &mut [&mut [u8]]) {
        let mut from = self.pointer(at, into.iter().map(|piece| piece.len()).sum());
        for piece in into {
            // SAFETY: `pointer` checked that all pieces together lie in the mapping; a piece is ours alone and
            // cannot overlap the mapping, which nobody has a reference to.
            unsafe {
                copy(from, piece.as_mut_ptr(), piece.len());
                from = from.add(piece.len());
            }
        }
    }

    /// Copies the pieces to byte `at`. Not for read-only mappings.
    #[inline]
    pub(crate) fn write(&self, at: usize, from: &[&[u8]]) {
        assert!(self.writable(), "write to a read-only mapping");
        let mut to = self.pointer(at, from.iter().map(|piece| piece.len()).sum());
        for piece in from {
            // SAFETY: `pointer` checked that all pieces together lie in the mapping, which is writable; nobody has
            // a reference into it.
            unsafe {
                copy(piece.as_ptr(), to, piece.len());
                to = to.add(piece.len());
            }
        }
        // The stores come before the caller's looks at the epoch (`intact`) and at the notes of what is dirty (`Committer::acknowledge`).
        fence(Ordering::SeqCst);
    }

    /// The word at byte `at`, a multiple of 8, of a writable mapping that begins on a page. Where it is used, all access is by words.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(
            self.writable() && self.lead == 0 && at.is_multiple_of(8),
            "no word of its own"
        );
        let word = self.pointer(at, 8).cast();
        // SAFETY: `pointer` checked that the 8 bytes lie in the mapping, which lives as long as `self` and is writable; it begins
        // on a page, so the word is aligned; and all access to it is atomic, as the caller promises.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// Keeps in memory what is touched of it from here on.
    ///
    /// # Errors
    /// Of mlock, as when the process may not lock so much.
    pub(crate) fn lock_touched(&self) -> io::Result<()> {
        // SAFETY: our own mapping; its content does not change.
        unsafe { mlock_with(self.base.as_ptr().cast(), self.total, MlockFlags::ONFAULT)? };
        Ok(())
    }

    /// Whole pages of `range` (bytes) read as zeros again and take no memory. Only for anonymous memory.
    ///
    /// # Errors
    /// Of madvise.
    pub(crate) fn discard(&self, range: Range<usize>) -> io::Result<()> {
        assert!(self.file.is_none(), "only anonymous memory forgets its content");
        let page_bytes = rustix::param::page_size();
        let (start, end) = (
            range.start.next_multiple_of(page_bytes),
            range.end - range.end % page_bytes,
        );
        if start < end {
            let base = self.pointer(start, end - start);
            // SAFETY: the range lies in our own anonymous mapping, to which nobody has references.
            unsafe { madvise(base.cast(), end - start, Advice::LinuxDontNeed)? };
        }
        Ok(())
    }

    /// Takes pages of a file out of the page table; they stay in the page cache, and the next touch enters them again.
    ///
    /// # Errors
    /// Of madvise.
    pub(crate) fn unmap(&self, pages: Range<usize>) -> io::Result<()> {
        self.advise_pages(pages, Advice::LinuxDontNeed)
    }

    /// Enters pages of a file into the page table, without changing them; a hole of a file in memory would be filled.
    /// Minimum kernel: 5.14.
    ///
    /// # Errors
    /// Of madvise: EFAULT beyond the file's end.
    pub(crate) fn populate(&self, pages: Range<usize>) -> io::Result<()> {
        self.advise_pages(pages, Advice::LinuxPopulateRead)
    }

    /// Advice that moves pages in or out of the page table. Not for anonymous memory, where that can lose them.
    fn advise_pages(&self, pages: Range<usize>, advice: Advice) -> io::Result<()> {
        assert!(self.file.is_some(), "anonymous memory would be lost");
        assert!(pages.end << self.page_shift <= self.total, "beyond the mapping");
        // SAFETY: the range lies in our own shared mapping of a file, whose content lives in the page cache.
        unsafe {
            let start = self.base.as_ptr().add(pages.start << self.page_shift);
            madvise(start.cast(), pages.len() << self.page_shift, advice)?;
        }
        Ok(())
    }

    /// Which pages of the mapping's pages `[first, first + pages.len())` are in memory, one byte a page, bit 0.
    ///
    /// # Errors
    /// Of mincore.
    pub(crate) fn residency(&self, first: usize, pages: &mut [u8]) -> io::Result<()> {
        let page_bytes = rustix::param::page_size();
        assert!(
            (first + pages.len()) * page_bytes <= self.total,
            "beyond the mapping"
        );
        // SAFETY: the range lies in our mapping, and the vector has a byte for each of its pages.
        let result = unsafe {
            libc::mincore(
                self.base.as_ptr().add(first * page_bytes).cast(),
                pages.len() * page_bytes,
                pages.as_mut_ptr(),
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The mapping's pages that these bytes, at least one, lie in.
    #[inline]
    pub(crate) fn pages_of(&self, bytes: Range<usize>) -> RangeInclusive<usize> {
        // A shift: a division by a number that the compiler does not know would cost more than the rest.
        (self.lead + bytes.start) >> self.page_shift..=(self.lead + bytes.end - 1) >> self.page_shift
    }

    /// The usable bytes that lie in a page of the mapping.
    pub(crate) fn bytes_of(&self, page: usize) -> Range<usize> {
        let page_bytes = rustix::param::page_size();
        let start = (page * page_bytes).saturating_sub(self.lead);
        let end = ((page + 1) * page_bytes).saturating_sub(self.lead);
        start.min(self.len)..end.min(self.len)
    }

    /// A page's index in /proc/self/pagemap.
    pub(crate) fn table_index(&self, page: usize) -> u64 {
        (self.base.as_ptr() as usize / rustix::param::page_size() + page) as u64
    }

    /// Pages of the mapping.
    pub(crate) fn pages(&self) -> usize {
        self.total / rustix::param::page_size()
    }

    fn writable(&self) -> bool {
        self.file
            .as_ref()
            .is_none_or(|watched| watched.prot.contains(ProtFlags::WRITE))
    }

    /// Address of byte `at`, checked to have `bytes` bytes behind it.
    #[inline]
    fn pointer(&self, at: usize, bytes: usize) -> *mut u8 {
        let end = at.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.len), "outside the mapping");
        // SAFETY: lead + len bytes are mapped, and at <= len.
        unsafe { self.base.as_ptr().add(self.lead + at) }
    }

    /// Read-ahead would bring folios of up to 2 MiB, and one write to such a folio dirties all of it.
    fn advise_random(&self) {
        // SAFETY: advice on our own mapping that changes no content.
        let advised = unsafe { madvise(self.base.as_ptr().cast(), self.total, Advice::Random) };
        if let Err(error) = advised {
            tracing::debug!("madvise(MADV_RANDOM): {error}");
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // The guard first: from here on faults at these addresses are not ours.
        self.file = None;
        // SAFETY: our own mapping, and `&mut self` says that no copy is under way.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.total) } {
            tracing::warn!("munmap: {error}");
        }
    }
}

/// Writes these bytes' dirty pages back and waits for that; no promise about the medium's cache.
///
/// # Errors
/// Of the write-back, or of an earlier one that `file` has not reported yet.
pub(crate) fn write_back(file: &File, bytes: Range<u64>) -> io::Result<()> {
    let flags =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (start, len) = (bytes.start as i64, (bytes.end - bytes.start) as i64);
    // SAFETY: no memory is handed over; the descriptor is open.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a fault must replace: a page, or on hugetlbfs a huge page.
fn page_bytes(file: BorrowedFd<'_>) -> usize {
    const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
    match rustix::fs::fstatfs(file) {
        Ok(stat) if stat.f_type == HUGETLBFS_MAGIC => stat.f_bsize as usize,
        _ => rustix::param::page_size(),
    }
}

/// Copies as [`ptr::copy_nonoverlapping`] does, in steps whose cache misses overlap.
///
/// # Safety
/// As for [`ptr::copy_nonoverlapping`].
#[inline]
unsafe fn copy(mut from: *const u8, mut to: *mut u8, len: usize) {
    let mut left = len;
    while left > 0 {
        let step = left.min(COPY_BYTES);
        // SAFETY: the caller's promise, for a part of the bytes; the pointers end behind the last one at most.
        unsafe {
            ptr::copy_nonoverlapping(from, to, step);
            (from, to) = (from.add(step), to.add(step));
        }
        left -= step;
    }
}
