//! The `ram` store: anonymous memory with a file's content, lost at exit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;

use crate::backing::Backing;
use crate::disks::Disks;
use crate::mapped::mmap::Mapping;
use crate::options::reading;
use crate::options::{StoreError, StoreOptions};
use engine::{Completions, Durability, Extent, Fault, FaultKind, SECTOR_BYTES, Step, Store, Token, Traits};

/// How much of the file is copied at a time when it is loaded.
const LOAD_BYTES: usize = 1 << 20;

/// Size of a store that does not keep its data: the file's range if there is a file, else what was asked for.
pub(crate) fn volatile_sectors(options: &StoreOptions, disks: &Disks) -> Result<u64, StoreError> {
    if options.path.exists() {
        return Ok(Backing::open(&reading(options), disks)?.sectors());
    }
    match options.length {
        0 => Err(StoreError::NoSize {
            path: options.path.clone(),
            kind: options.kind,
        }),
        sectors => Ok(sectors),
    }
}

/// A disk in memory. Takes memory only for what was not zero.
#[derive(Debug)]
pub(crate) struct RamStore {
    memory: Mapping,
    sectors: u64,
    read_only: bool,
}

impl RamStore {
    /// Memory of the size of the file's served range, and its content; without a file `options.length` sectors of
    /// zeros.
    ///
    /// # Errors
    /// [`StoreError`] when there is a file but it cannot be read, or neither file nor length.
    pub(crate) fn open(options: &StoreOptions, disks: &Disks) -> Result<RamStore, StoreError> {
        let sectors = volatile_sectors(options, disks)?;
        let failed = |doing| move |error: io::Error| StoreError::system(&options.path, doing, error);
        let bytes = usize::try_from(sectors.saturating_mul(SECTOR_BYTES)).unwrap_or(usize::MAX);
        let memory = Mapping::anonymous(bytes).map_err(failed("getting memory of its size"))?;
        if options.path.exists() {
            let backing = Backing::open(&reading(options), disks)?;
            load(backing.file(), backing.position(0), &memory).map_err(failed("loading"))?;
        }
        Ok(RamStore {
            memory,
            sectors,
            read_only: options.read_only,
        })
    }

    fn place(&self, extent: Extent, kind: FaultKind) -> Result<usize, Fault> {
        if extent.end() > self.sectors {
            return Err(Fault::outside(kind, extent));
        }
        if kind == FaultKind::Write && self.read_only {
            return Err(Fault {
                kind,
                lba: extent.lba,
                source: io::Error::from_raw_os_error(libc::EROFS),
            });
        }
        Ok((extent.lba * SECTOR_BYTES) as usize)
    }
}

/// Copies the file's data, not its holes, into fresh memory.
fn load(file: &File, start: u64, memory: &Mapping) -> io::Result<()> {
    let end = start + memory.len() as u64;
    let mut buffer = vec![0u8; LOAD_BYTES];
    let mut at = start;
    while at < end {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = data,
            // No more data: the rest is a hole.
            Err(rustix::io::Errno::NXIO) => break,
            // A file system or device that does not know: read everything.
            Err(_) => {}
        }
        let want = usize::try_from(end.saturating_sub(at))
            .unwrap_or(LOAD_BYTES)
            .min(LOAD_BYTES);
        match file.read_at(&mut buffer[..want], at)? {
            0 => break,
            n => {
                // Zeros need no memory.
                if buffer[..n].iter().any(|byte| *byte != 0) {
                    memory.write((at - start) as usize, &[&buffer[..n]]);
                }
                at += n as u64;
            }
        }
    }
    Ok(())
}

impl<C: Completions> Store<C> for RamStore {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(self.sectors)
    }

    fn traits(&self) -> Traits {
        Traits {
            trim: !self.read_only,
            zeroes_after_trim: !self.read_only,
            physical_exponent: 3,
        }
    }

    fn read(&self, _: &mut C, _: Token, extent: Extent, into: &mut [&mut [u8]]) -> Result<Step, Fault> {
        let at = self.place(extent, FaultKind::Read)?;
        self.memory.read(at, into);
        Ok(Step::Done)
    }

    fn write(
        &self,
        _: &mut C,
        _: Token,
        extent: Extent,
        from: &[&[u8]],
        _: Durability,
    ) -> Result<Step, Fault> {
        let at = self.place(extent, FaultKind::Write)?;
        self.memory.write(at, from);
        Ok(Step::Done)
    }

    fn flush(&self, _: &mut C, _: Token) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn trim(&self, _: &mut C, _: Token, extents: &[Extent]) -> Result<Step, Fault> {
        // As long as the largest page there is.
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        for extent in extents {
            let start = self.place(*extent, FaultKind::Write)?;
            let end = start + (extent.count * SECTOR_BYTES) as usize;
            let page = rustix::param::page_size();
            // Whole pages go back to the system; the edges are cleared.
            let (first, last) = (
                start.next_multiple_of(page).min(end),
                (end - end % page).max(start),
            );
            self.memory.write(start, &[&ZEROS[..first - start]]);
            if last >= first {
                self.memory.write(last, &[&ZEROS[..end - last]]);
                self.memory.discard(first..last).map_err(|source| Fault {
                    kind: FaultKind::Write,
                    lba: extent.lba,
                    source,
                })?;
            }
        }
        Ok(Step::Done)
    }

    fn verify(&self, _: &mut C, _: Token, extent: Extent) -> Result<Step, Fault> {
        self.place(extent, FaultKind::Read).map(|_| Step::Done)
    }

    fn prefetch(&self, extent: Extent) {
        let at = extent.lba.saturating_mul(SECTOR_BYTES);
        self.memory
            .prefetch(at as usize, extent.count.saturating_mul(SECTOR_BYTES) as usize);
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}
