//! How much space a delta takes, and the limit of it. Counted by blocks, so that the data path asks no file system. And what is full, from the
//! first write that is refused until there is room again.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytemuck::allocation::zeroed_slice_box;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use engine::{Extent, Fault, FaultKind, SECTOR_BYTES};

/// What file systems allocate by.
pub(crate) const BLOCK_BYTES: u64 = 4096;
const BLOCK: u64 = BLOCK_BYTES / SECTOR_BYTES;

/// A file system with less is full: whoever frees less has freed nothing worth speaking of.
const ROOM_BYTES: u64 = 1 << 20;

/// Why writes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Full {
    /// The overlay takes as much as it may.
    Limit,
    /// The file system of its delta has no room.
    Delta,
    /// The file system of its bits has none: a tmpfs.
    Bits,
}

/// What is full, each until there is room again.
#[derive(Debug, Default)]
struct Refusals {
    limit: AtomicBool,
    delta: AtomicBool,
    bits: AtomicBool,
}

/// The blocks of one delta that take space.
#[derive(Debug)]
pub(crate) struct Space {
    /// One bit a block. Zeros that take memory where the delta has something.
    blocks: Box<[AtomicU64]>,
    used: AtomicU64,
    /// In blocks; `u64::MAX`: none.
    limit: AtomicU64,
    refused: AtomicU64,
    full: Refusals,
    /// For the log.
    name: String,
}

impl Space {
    /// What `delta` takes now, of `sectors`.
    ///
    /// # Errors
    /// Of lseek.
    pub(crate) fn of(delta: &File, sectors: u64, limit_bytes: u64, name: String) -> io::Result<Space> {
        let words = sectors.div_ceil(BLOCK).div_ceil(64) as usize;
        let space = Space {
            blocks: zeroed_slice_box(words),
            used: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            full: Refusals::default(),
            name,
        };
        space.set_limit(limit_bytes);
        let mut at = 0;
        while let Some(data) = seek(delta, SeekFrom::Data(at))? {
            let hole = seek(delta, SeekFrom::Hole(data))?.unwrap_or(sectors * SECTOR_BYTES);
            for block in data / BLOCK_BYTES..hole.div_ceil(BLOCK_BYTES) {
                if space.mark(block) {
                    space.used.fetch_add(1, Ordering::Relaxed);
                }
            }
            at = hole;
        }
        Ok(space)
    }

    /// Another limit in bytes; 0: none.
    pub(crate) fn set_limit(&self, bytes: u64) {
        let blocks = match bytes {
            0 => u64::MAX,
            bytes => bytes / BLOCK_BYTES,
        };
        self.limit.store(blocks, Ordering::Relaxed);
        self.full.limit.store(false, Ordering::Relaxed);
    }

    /// Bytes that take space.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed) * BLOCK_BYTES
    }

    /// Writes that found no space.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Marks a block; true when it was free.
    fn mark(&self, block: u64) -> bool {
        let bit = 1 << (block % 64);
        !self.takes(block) && self.blocks[(block / 64) as usize].fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Whether a block takes space; else it is a hole.
    pub(crate) fn takes(&self, block: u64) -> bool {
        self.blocks[(block / 64) as usize].load(Ordering::Relaxed) & (1 << (block % 64)) != 0
    }

    fn give_back(&self, block: u64) {
        let (word, bit) = (&self.blocks[(block / 64) as usize], 1 << (block % 64));
        if word.fetch_and(!bit, Ordering::Relaxed) & bit != 0 {
            self.used.fetch_sub(1, Ordering::Relaxed);
            self.full.limit.store(false, Ordering::Relaxed);
        }
    }

    /// Space for a write; what it has already costs nothing.
    ///
    /// # Errors
    /// Beyond the limit, as on a full disk.
    pub(crate) fn claim(&self, extent: Extent) -> Result<(), Fault> {
        let blocks = extent.lba / BLOCK..extent.end().div_ceil(BLOCK);
        let new = blocks.clone().filter(|block| !self.takes(*block)).count() as u64;
        if new == 0 {
            return Ok(());
        }
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |used: u64| Some(used + new).filter(|used| *used <= limit);
        // Counted before any of them is marked: who finds one marked relies on it.
        if self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
        {
            let taken = blocks.filter(|block| self.mark(*block)).count() as u64;
            // Others have come first to the rest, and counted it too.
            self.used.fetch_sub(new.saturating_sub(taken), Ordering::Relaxed);
            return Ok(());
        }
        self.refuse(Full::Limit);
        Err(Fault {
            kind: FaultKind::Write,
            lba: extent.lba,
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        })
    }

    /// A write was refused for this reason.
    #[cold]
    fn refuse(&self, why: Full) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if self.full.of(why).swap(true, Ordering::Relaxed) {
            return;
        }
        let name = &self.name;
        match why {
            Full::Limit => tracing::error!(
                "{name}: the overlay is full (overlay_limit, {} bytes): writes to new places fail until it is reset or the limit is raised",
                self.limit.load(Ordering::Relaxed) * BLOCK_BYTES
            ),
            Full::Delta => tracing::error!(
                "{name}: the file system of overlay_dir is full: writes to new places fail until there is room"
            ),
            Full::Bits => tracing::error!(
                "{name}: the tmpfs where it is noted what the overlay holds is full: writes to new parts of 16 MiB fail until there is room"
            ),
        }
    }

    /// A write failed in one of the files: of the delta, or with its bits.
    pub(crate) fn note_failure(&self, error: &io::Error, of: Full) {
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
            self.refuse(of);
        }
    }

    /// What is full; the one that the operator sets first.
    pub(crate) fn full(&self) -> Option<Full> {
        let all = [Full::Limit, Full::Delta, Full::Bits];
        all.into_iter()
            .find(|full| self.full.of(*full).load(Ordering::Relaxed))
    }

    /// Looks whether there is room again where these files are. May wait for a disk.
    pub(crate) fn look(&self, delta: &Path, bits: &Path) {
        for (file, full) in [(delta, Full::Delta), (bits, Full::Bits)] {
            let flag = self.full.of(full);
            if flag.load(Ordering::Relaxed) && free_bytes(file).is_ok_and(|free| !is_full(free)) {
                flag.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Whole blocks of `extent` have become holes.
    pub(crate) fn release(&self, extent: Extent) {
        for block in extent.lba.div_ceil(BLOCK)..extent.end() / BLOCK {
            self.give_back(block);
        }
    }
}

impl Refusals {
    fn of(&self, full: Full) -> &AtomicBool {
        match full {
            Full::Limit => &self.limit,
            Full::Delta => &self.delta,
            Full::Bits => &self.bits,
        }
    }
}

/// What a user without special rights may still write to the file system of `path`, in bytes. May wait for a disk.
///
/// # Errors
/// Of statvfs.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether so few bytes are none.
pub fn is_full(free_bytes: u64) -> bool {
    free_bytes < ROOM_BYTES
}

pub(super) fn seek(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, to) {
        Ok(at) => Ok(Some(at)),
        // Nothing but a hole from there on.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
