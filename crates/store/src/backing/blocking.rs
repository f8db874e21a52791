//! Plain blocking I/O on a backing object, for the paths where nothing is gained by being quick.

use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use arrayvec::ArrayVec;
use rustix::fs::FallocateFlags;

use super::Backing;
use crate::io::device::Waiting;
use engine::{Extent, Fault, FaultKind, SECTOR_BYTES};

/// Pieces that one system call writes.
const PIECES: usize = 64;

impl Backing {
    /// Puts the file's dirty pages on the medium.
    ///
    /// # Errors
    /// Of fdatasync.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let synced = self
            .disk
            .wait(Waiting::Commit, || rustix::fs::fdatasync(&self.file));
        Ok(synced?)
    }

    /// Gives an extent's space back; it reads as zeros afterwards. A medium discards whole blocks only: the parts of blocks at the
    /// ends are written with zeros. `begins` is called when no worker is in a system call on the device any more.
    ///
    /// # Errors
    /// Of fallocate or pwrite.
    pub(crate) fn punch(&self, extent: Extent, begins: impl FnOnce()) -> io::Result<()> {
        let (start, end) = (self.position(extent.lba), self.position(extent.end()));
        let first = start.next_multiple_of(self.block).min(end);
        let last = (end - end % self.block).max(first);
        let _held = self.disk.gate.exclusive();
        begins();
        self.write_zeros(start, first)?;
        if first < last {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Not every descriptor of a device may drop its dirty pages: only the one that has it for itself.
            let claim = self.claim.lock().clone();
            let file = claim.as_ref().unwrap_or(&self.file);
            rustix::fs::fallocate(file, flags, first, last - first)?;
        }
        self.write_zeros(last, end)
    }

    /// Writes less than a block of zeros.
    fn write_zeros(&self, start: u64, end: u64) -> io::Result<()> {
        match end - start {
            0 => Ok(()),
            bytes => self.file.write_all_at(&vec![0; bytes as usize], start),
        }
    }

    /// Writes by system call into the page cache; may block. Never makes a file longer that someone cut short.
    ///
    /// # Errors
    /// [`FaultKind::Write`] with the first sector that was not taken.
    pub(crate) fn write_slices(&self, extent: Extent, from: &[&[u8]]) -> Result<(), Fault> {
        let mut at = self.position(extent.lba);
        self.check_inside(at..at + extent.count * SECTOR_BYTES)?;
        for pieces in from.chunks(PIECES) {
            let mut slices: ArrayVec<IoSlice<'_>, PIECES> =
                pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut slices = &mut slices[..];
            IoSlice::advance_slices(&mut slices, 0);
            while !slices.is_empty() {
                match rustix::io::pwritev(&self.file, slices, at) {
                    Ok(0) => {
                        return Err(self.fault_at(FaultKind::Write, at, io::ErrorKind::WriteZero.into()));
                    }
                    Ok(n) => {
                        at += n as u64;
                        IoSlice::advance_slices(&mut slices, n);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(self.fault_at(FaultKind::Write, at, error.into())),
                }
            }
        }
        Ok(())
    }
}
