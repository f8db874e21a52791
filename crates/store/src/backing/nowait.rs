//! I/O through the page cache that a worker may do itself: it is done at once or not at all (`RWF_NOWAIT`).

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use super::{Backing, short_file};
use engine::{Extent, Fault, FaultKind, SECTOR_BYTES};

/// Pieces of one request.
const PIECES: usize = 16;

impl Backing {
    /// Reads what is all in memory. False: it is not, or the file system cannot be asked.
    pub(crate) fn read_nowait(&self, extent: Extent, into: &mut [&mut [u8]]) -> bool {
        self.read_whole(extent, into, ReadWriteFlags::NOWAIT)
    }

    /// Reads what a file in memory has, its holes as zeros. False: it was cut short, or something else is wrong.
    pub(crate) fn read_in_memory(&self, extent: Extent, into: &mut [&mut [u8]]) -> bool {
        // Not NOWAIT: tmpfs refuses it, and has nothing to wait for but what was swapped out, as a page fault would.
        self.read_whole(extent, into, ReadWriteFlags::empty())
    }

    fn read_whole(&self, extent: Extent, into: &mut [&mut [u8]], flags: ReadWriteFlags) -> bool {
        if into.len() > PIECES {
            return false;
        }
        let mut slices: ArrayVec<IoSliceMut<'_>, PIECES> =
            into.iter_mut().map(|piece| IoSliceMut::new(piece)).collect();
        let read = preadv2(&self.file, &mut slices, self.position(extent.lba), flags);
        read.is_ok_and(|bytes| bytes as u64 == extent.count * SECTOR_BYTES)
    }

    /// Writes, if that takes no waiting. `Ok(false)`: it would, in part at least, or the file system cannot be asked; whether it
    /// can is learnt once. Never makes a file longer that someone cut short.
    ///
    /// # Errors
    /// [`FaultKind::Write`] with the first sector that was not taken.
    pub(crate) fn write_nowait(&self, extent: Extent, from: &[&[u8]]) -> Result<bool, Fault> {
        if self.no_nowait.load(Ordering::Relaxed) || from.len() > PIECES {
            return Ok(false);
        }
        let at = self.position(extent.lba);
        self.check_inside(at..at + extent.count * SECTOR_BYTES)?;
        let slices: ArrayVec<IoSlice<'_>, PIECES> = from.iter().map(|piece| IoSlice::new(piece)).collect();
        match pwritev2(&self.file, &slices, at, ReadWriteFlags::NOWAIT) {
            Ok(bytes) => Ok(bytes as u64 == extent.count * SECTOR_BYTES),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::OPNOTSUPP | Errno::INVAL) => {
                self.no_nowait.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(self.fault_at(FaultKind::Write, at, error.into())),
        }
    }

    /// Refuses a write beyond the object's end, which would make a file longer that someone cut short.
    pub(super) fn check_inside(&self, bytes: std::ops::Range<u64>) -> Result<(), Fault> {
        let end = self
            .object_bytes()
            .map_err(|error| self.fault_at(FaultKind::Write, bytes.start, error))?;
        if bytes.end > end {
            return Err(self.fault_at(FaultKind::Write, bytes.start.max(end), short_file()));
        }
        Ok(())
    }
}
