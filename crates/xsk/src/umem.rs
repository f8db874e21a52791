//! Memory shared with the kernel, and the bytes of a frame in it.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::BorrowedFd;
use rustix::io::{Errno, dup2};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::frame::{Frame, Piece, Pieces, PiecesMut};
use super::live;

/// A line of the CPU's cache.
const LINE_BYTES: usize = 64;

/// A mapping that this value owns; unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a Mapping is an address range, valid in every thread until it is dropped; it hands out no references itself.
unsafe impl Send for Mapping {}
// SAFETY: as above; what is shared is only the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Fresh memory, all zero, page-aligned.
    pub(crate) fn anonymous(bytes: usize) -> Result<Mapping, Errno> {
        // Miri has no MAP_POPULATE.
        let populate = if cfg!(miri) {
            MapFlags::empty()
        } else {
            MapFlags::POPULATE
        };
        let flags = MapFlags::PRIVATE | populate;
        // SAFETY: the kernel picks the address, so no existing mapping is touched.
        let base =
            unsafe { mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        Mapping::own(base, bytes)
    }

    /// Memory of a socket (a ring), at its offset.
    pub(crate) fn of_socket(socket: BorrowedFd<'_>, bytes: usize, offset: u64) -> Result<Mapping, Errno> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: the kernel picks the address, so no existing mapping is touched.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                socket,
                offset,
            )
        }?;
        Mapping::own(base, bytes)
    }

    fn own(base: *mut std::ffi::c_void, bytes: usize) -> Result<Mapping, Errno> {
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        Ok(Mapping { base, bytes })
    }

    /// Lets go of what was mapped: fresh memory, all zero, takes its place in one step.
    pub(crate) fn blank(&self) {
        let (flags, rights) = (
            MapFlags::PRIVATE | MapFlags::FIXED,
            ProtFlags::READ | ProtFlags::WRITE,
        );
        // SAFETY: the range is this value's own and stays mapped, as readable and writable as before. What others read there are
        // plain integers that the kernel may change at any time, and that are checked before use.
        let replaced = unsafe { mmap_anonymous(self.base.as_ptr().cast(), self.bytes, rights, flags) };
        debug_assert!(replaced.is_ok(), "mapping over an owned mapping");
    }

    /// Where it begins.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of a mapping that only this value knows, and no reference into it outlives it:
        // Umem ties them to its own borrow, the rings hold the mapping as long as they live.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of an owned mapping");
    }
}

/// Closes what a descriptor leads to, whoever uses it; from then on it leads to /dev/null.
pub(super) fn lead_nowhere(fd: &OwnedFd) {
    let Ok(nowhere) = File::open("/dev/null") else {
        return;
    };
    // SAFETY: the descriptor is open as long as `fd` lives, and it is not closed here but replaced in one step.
    let mut same = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) });
    let _ = dup2(&nowhere, &mut same);
}

/// The frame memory of one socket: `chunks` chunks of `chunk_bytes`, in one piece.
#[derive(Debug)]
pub(super) struct Umem {
    memory: Mapping,
    id: u32,
    chunk_bytes: u32,
    chunks: u32,
}

impl Umem {
    /// Maps the memory. `chunk_bytes` is a power of two of at most 4096.
    pub(crate) fn new(chunks: u32, chunk_bytes: u32) -> Result<Umem, Errno> {
        assert!(
            chunk_bytes.is_power_of_two() && chunk_bytes <= 4096,
            "chunk size is checked by the configuration"
        );
        let bytes = (chunks as usize)
            .checked_mul(chunk_bytes as usize)
            .ok_or(Errno::NOMEM)?;
        let memory = Mapping::anonymous(bytes)?;
        let id = next_id();
        live::add(id);
        Ok(Umem {
            memory,
            id,
            chunk_bytes,
            chunks,
        })
    }

    /// Tells this memory's frames from those of every other socket of the process.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Where it begins, for the kernel.
    pub(crate) fn address(&self) -> u64 {
        self.memory.base().as_ptr().addr() as u64
    }

    /// Its length.
    pub(crate) fn bytes(&self) -> u64 {
        self.memory.bytes() as u64
    }

    /// A frame's bytes.
    #[inline]
    pub(crate) fn pieces<'a>(&'a self, frame: &'a Frame) -> Pieces<'a> {
        self.check_owner(frame);
        frame
            .pieces()
            .iter()
            .map(|piece| {
                let (start, len) = self.locate(piece);
                // SAFETY: `locate` returns memory inside this mapping, initialised by mmap. The frame holds the only token
                // for the chunk, so that neither the kernel nor another frame writes to it while the frame is borrowed.
                unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
            })
            .collect()
    }

    /// A frame's bytes, writable.
    #[inline]
    pub(crate) fn pieces_mut<'a>(&'a self, frame: &'a mut Frame) -> PiecesMut<'a> {
        self.check_owner(frame);
        frame
            .pieces_mut()
            .iter_mut()
            .map(|piece| {
                let (start, len) = self.locate(piece);
                // SAFETY: as in `pieces`; the exclusive borrow of the frame, whose pieces lie in different chunks, is the
                // exclusive right to these bytes.
                unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }
            })
            .collect()
    }

    /// The `N` bytes in front of a frame.
    #[inline]
    pub(crate) fn before<const N: usize>(&self, frame: &Frame) -> Option<[u8; N]> {
        self.check_owner(frame);
        let first = frame.pieces().first()?;
        let (start, _) = self.locate(first);
        if usize::from(first.offset) < N {
            return None;
        }
        // SAFETY: the frame begins at least N bytes after its chunk, so that these bytes belong to the chunk as well, memory
        // initialised by mmap. The frame holds the only token for the chunk: nobody writes to it now. Bytes have no alignment.
        Some(unsafe { start.as_ptr().sub(N).cast::<[u8; N]>().read() })
    }

    /// Starts to bring a frame's first `bytes` into this CPU's cache.
    #[inline]
    pub(crate) fn prefetch(&self, frame: &Frame, bytes: usize) {
        self.check_owner(frame);
        let Some(piece) = frame.pieces().first() else {
            return;
        };
        let (start, len) = self.locate(piece);
        for line in (0..len.min(bytes)).step_by(LINE_BYTES) {
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                // SAFETY: a prefetch never faults; the address is inside the mapping all the same.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(start.as_ptr().add(line).cast()) };
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = (start, line);
        }
    }

    /// A token of another socket would name memory that someone else writes to.
    pub(crate) fn check_owner(&self, frame: &Frame) {
        assert!(
            frame.umem() == self.id,
            "a frame was given to a socket that it does not come from"
        );
    }

    /// The memory of a piece, inside this mapping for certain.
    fn locate(&self, piece: &Piece) -> (NonNull<u8>, usize) {
        let (offset, len) = (u32::from(piece.offset), u32::from(piece.len));
        assert!(
            piece.chunk.index() < self.chunks && offset.saturating_add(len) <= self.chunk_bytes,
            "a piece lies inside its chunk, and its chunk inside the UMEM"
        );
        let at = (piece.chunk.index() as usize)
            .wrapping_mul(self.chunk_bytes as usize)
            .wrapping_add(offset as usize);
        // SAFETY: chunk index below `chunks` and offset + len within the chunk, both checked above, so that `at + len` is
        // at most the mapping's length; the multiplication did not wrap because the whole length did not in `new`.
        (unsafe { self.memory.base().add(at) }, len as usize)
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        live::remove(self.id);
    }
}

/// Never the same twice, which is what makes [`Umem::check_owner`] a proof.
fn next_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| id.checked_add(1));
    id.expect("fewer than 2^32 sockets in the life of a process")
}
