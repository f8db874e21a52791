//! What a commit of a persistent overlay does, in this order: the delta goes to the medium, then the bits of what it holds.
//!
//! A bit on the medium before its data would show, after a power cut, zeros that nobody wrote. So the bits are taken before the delta's
//! fdatasync: all of them have their data in the page cache by then. Bits that are set later are the next commit's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use engine::{Extent, Fault, FaultKind, SECTOR_BYTES};

use super::marks::Marks;
use super::records;
use crate::backing::file_bytes;
use crate::commit::Medium;
use crate::io::gate::Gate;

/// Where a commit goes; a fake in tests.
pub(crate) trait Files: Send + Sync + std::fmt::Debug {
    /// Puts the delta's data on the medium.
    fn sync_delta(&self) -> io::Result<()>;
    /// Bytes that the delta has, without waiting for its disk.
    fn delta_bytes(&self) -> io::Result<u64>;
    /// Writes a page of records.
    fn write_page(&self, page: u64, bytes: &[u8]) -> io::Result<()>;
    /// Puts the records on the medium.
    fn sync_records(&self) -> io::Result<()>;
}

/// The real ones. Each is an opening of its own: the kernel tells each of a failed write-back once.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    pub(crate) delta: File,
    pub(crate) records: File,
    /// Of the disk that both are on.
    pub(crate) gate: Arc<Gate>,
}

impl Files for OpenFiles {
    fn sync_delta(&self) -> io::Result<()> {
        let _held = self.gate.write_back();
        Ok(rustix::fs::fdatasync(&self.delta)?)
    }

    fn delta_bytes(&self) -> io::Result<u64> {
        file_bytes(&self.delta)
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
    pub(crate) copy: u64,
    pub(crate) sectors: u64,
    /// For the log.
    pub(crate) name: String,
}

impl<F: Files> Durable<F> {
    fn put(&self, pages: &[u64]) -> io::Result<()> {
        let encode = |page: &u64| records::encode(self.copy, *page, |index| self.marks.bits_of(index));
        let taken: Vec<Vec<u8>> = pages.iter().map(encode).collect();
        // Zeros of a file that is cut would take the place of what is known on the medium.
        self.marks.check()?;
        self.files.sync_delta()?;
        if pages.is_empty() {
            return Ok(());
        }
        for (page, bytes) in pages.iter().zip(&taken) {
            self.files.write_page(*page, bytes)?;
        }
        self.files.sync_records()
    }
}

impl<F: Files> Durable<F> {
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
