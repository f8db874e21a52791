//! What a commit of a persistent overlay does, in this order: the delta goes to the medium, then the bits of what it holds.
//!
//! A bit on the medium before its data would show, after a power cut, zeros that nobody wrote. So the bits are taken before the delta's
//! fdatasync: all of them have their data in the page cache by then. Bits that are set later are the next commit's.
//!
//! After a failed write-back the kernel takes the pages for clean and never writes them again, so the next fdatasync succeeds without
//! them. From then on, before a bit goes to the medium, what the delta shows of its sector is made dirty once more: what is on the medium
//! is what everybody reads, whatever the kernel has kept of it. It never ends, because a write may have been in the cache when it was
//! taken for clean, and set its bit much later. The same holds for what an earlier process left, which may have met such a failure.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::{Extent, Fault, FaultKind, SECTOR_BYTES};

use super::marks::Marks;
use super::records;
use super::space::BLOCK_BYTES;
use crate::backing::file_bytes;
use crate::commit::Medium;
use crate::io::gate::Gate;
use crate::mapped::mmap::Mapping;

/// A bit a sector, eight sectors a block.
const BLOCKS_A_WORD: u64 = u64::BITS as u64 * SECTOR_BYTES / BLOCK_BYTES;

/// Where a commit goes; a fake in tests.
pub(crate) trait Files: Send + Sync + std::fmt::Debug {
    /// Puts the delta's data on the medium.
    fn sync_delta(&self) -> io::Result<()>;
    /// Has the kernel write these blocks of the delta once more, as they are in the page cache; ascending, at least one, and near each other.
    fn make_dirty(&self, blocks: &[u64]) -> io::Result<()>;
    /// Bytes that the delta has, without waiting for its disk.
    fn delta_bytes(&self) -> io::Result<u64>;
    /// Reads a page of records, as it was written last.
    fn read_page(&self, page: u64) -> io::Result<Vec<u8>>;
    /// Writes a page of records.
    fn write_page(&self, page: u64, bytes: &[u8]) -> io::Result<()>;
    /// Puts the records on the medium.
    fn sync_records(&self) -> io::Result<()>;
}

/// The real ones. Each is an opening of its own: the kernel tells each of a failed write-back once.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    /// To read and to write.
    pub(crate) delta: Arc<File>,
    pub(crate) records: File,
    /// Of the disk that both are on.
    pub(crate) gate: Arc<Gate>,
}

impl Files for OpenFiles {
    fn sync_delta(&self) -> io::Result<()> {
        let _held = self.gate.write_back();
        Ok(rustix::fs::fdatasync(&self.delta)?)
    }

    fn make_dirty(&self, blocks: &[u64]) -> io::Result<()> {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return Ok(());
        };
        // A store of what is there already, which no write of an initiator can get lost by, unlike by a read and a write of the block.
        let page_bytes = rustix::param::page_size() as u64;
        let start = first * BLOCK_BYTES / page_bytes * page_bytes;
        let bytes = (last + 1) * BLOCK_BYTES - start;
        let mapping = Mapping::of_file(Arc::clone(&self.delta), start, bytes as usize, true)?;
        let epoch = mapping.epoch();
        for block in blocks {
            let word = mapping.word((block * BLOCK_BYTES - start) as usize);
            let mut now = word.load(Ordering::Relaxed);
            while let Err(other) =
                word.compare_exchange(now, black_box(now), Ordering::SeqCst, Ordering::Relaxed)
            {
                now = other;
            }
        }
        match mapping.intact(epoch) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }

    fn delta_bytes(&self) -> io::Result<u64> {
        file_bytes(&self.delta)
    }

    fn read_page(&self, page: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; records::PAGE_BYTES as usize];
        self.records.read_exact_at(&mut bytes, records::position(page))?;
        Ok(bytes)
    }

    fn write_page(&self, page: u64, bytes: &[u8]) -> io::Result<()> {
        self.records.write_all_at(bytes, records::position(page))
    }

    fn sync_records(&self) -> io::Result<()> {
        let _held = self.gate.write_back();
        Ok(rustix::fs::fdatasync(&self.records)?)
    }
}

/// The medium of a persistent overlay.
#[derive(Debug)]
pub(crate) struct Durable<F> {
    pub(crate) files: F,
    pub(crate) marks: Arc<Marks>,
    /// A write-back failed once.
    pub(crate) failed: AtomicBool,
    pub(crate) copy: u64,
    pub(crate) sectors: u64,
    /// For the log.
    pub(crate) name: String,
}

/// Whether an earlier process left what is not on the medium: it may have met a failed write-back.
pub(crate) fn are_left(marks: &Marks) -> bool {
    let left = marks.take_changed();
    marks.give_changed_back(&left);
    !left.is_empty()
}

impl<F: Files> Durable<F> {
    fn put(&self, pages: &[u64]) -> io::Result<()> {
        let encode = |page: &u64| records::encode(self.copy, *page, |index| self.marks.bits_of(index));
        let taken: Vec<Vec<u8>> = pages.iter().map(encode).collect();
        // Zeros of a file that is cut would take the place of what is known on the medium.
        self.marks.check()?;
        self.sync_delta(pages)?;
        if pages.is_empty() {
            return Ok(());
        }
        for (page, bytes) in pages.iter().zip(&taken) {
            self.files.write_page(*page, bytes)?;
        }
        self.files.sync_records()
    }

    /// Puts the delta on the medium, with all that these pages are about to say it has.
    fn sync_delta(&self, pages: &[u64]) -> io::Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            self.make_dirty(pages)?;
        }
        let result = self.files.sync_delta();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
            // At once: what is dirty stays in the page cache. The next commit does it again.
            let since = self.marks.take_changed();
            self.marks.give_changed_back(&since);
            let again = [pages, &since].concat();
            if let Err(error) = self.make_dirty(&again) {
                tracing::debug!(
                    "{}: what was not written cannot be made dirty: {error}",
                    self.name
                );
            }
        }
        result
    }

    /// What these pages are to say is the delta's, and do not say yet. Holes stay holes.
    fn make_dirty(&self, pages: &[u64]) -> io::Result<()> {
        for page in pages {
            let known = records::decode(self.copy, *page, &self.files.read_page(*page)?);
            let known = known.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            let mut blocks = Vec::new();
            for (index, known) in (page * records::PAGE_WORDS..).zip(known) {
                let new = self.marks.bits_of(index) & !known;
                let of_word = (0..).zip(new.to_le_bytes());
                let written = of_word.filter(|(_, sectors)| *sectors != 0);
                blocks.extend(written.map(|(block, _)| index * BLOCKS_A_WORD + block));
            }
            blocks.retain(|block| self.marks.space().takes(*block));
            if !blocks.is_empty() {
                self.files.make_dirty(&blocks)?;
            }
        }
        Ok(())
    }

    /// The sectors that the delta lacks because somebody cut it short.
    fn cut(&self) -> Option<Extent> {
        let lba = self.files.delta_bytes().ok()? / SECTOR_BYTES;
        let count = self.sectors.checked_sub(lba).filter(|count| *count > 0)?;
        Some(Extent { lba, count })
    }
}

impl<F: Files> Medium for Durable<F> {
    fn commit(&self) -> io::Result<()> {
        let pages = self.marks.take_changed();
        let result = self.put(&pages);
        if result.is_err() {
            self.marks.give_changed_back(&pages);
        }
        result
    }

    fn take_cut(&self) -> Option<Extent> {
        self.cut()
    }

    fn is_cut(&self) -> bool {
        self.cut().is_some()
    }

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        tracing::warn!("{}: {source}", self.name);
        Fault {
            kind: FaultKind::Write,
            lba,
            source,
        }
    }

    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn name(&self) -> String {
        let name = self.name.rsplit('/').next().unwrap_or_default();
        name.to_owned()
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::StoreRegistry;

    const BLOCKS: u64 = 64;

    /// Bytes of a mapped file that the kernel would write.
    fn dirty_bytes(path: &std::path::Path) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut of_file = false;
        let mut bytes = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("Shared_Dirty:" | "Private_Dirty:") if of_file => {
                    bytes += words.next().unwrap().parse::<u64>().unwrap() << 10;
                }
                Some(word) if !word.ends_with(':') => of_file = line.ends_with(path.to_str().unwrap()),
                _ => {}
            }
        }
        bytes
    }

    #[test]
    fn what_is_made_dirty_is_written_once_more_and_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("delta");
        let mut options = File::options();
        let delta = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        delta.set_len(BLOCKS * BLOCK_BYTES).unwrap();
        let content: Vec<u8> = (0..4 * BLOCK_BYTES).map(|at| (at % 251) as u8).collect();
        delta.write_all_at(&content, 3 * BLOCK_BYTES).unwrap();
        delta.sync_all().unwrap();
        let gate = StoreRegistry::default().disks().gates.of(&delta).unwrap();
        let delta = Arc::new(delta);
        let records = tempfile::tempfile().unwrap();
        let files = OpenFiles {
            delta: Arc::clone(&delta),
            records,
            gate,
        };
        let view = Mapping::of_file(Arc::clone(&delta), 0, (BLOCKS * BLOCK_BYTES) as usize, false).unwrap();
        let mut read = vec![0; content.len()];
        view.read(3 * BLOCK_BYTES as usize, &mut [&mut read]);
        if dirty_bytes(&path) > 0 {
            return crate::skip("a file system that keeps everything in memory");
        }
        files.make_dirty(&[3, 5]).unwrap();
        let pages = if rustix::param::page_size() as u64 == BLOCK_BYTES {
            2
        } else {
            1
        };
        assert!(dirty_bytes(&path) >= pages * BLOCK_BYTES);
        files.sync_delta().unwrap();
        assert_eq!(dirty_bytes(&path), 0);
        view.read(3 * BLOCK_BYTES as usize, &mut [&mut read]);
        assert!(read == content);
        // What nobody has any more is no data.
        delta.set_len(BLOCK_BYTES).unwrap();
        files.make_dirty(&[60]).unwrap_err();
    }
}
