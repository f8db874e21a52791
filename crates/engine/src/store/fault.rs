//! Sectors, and what can go wrong with them.

use std::io;

/// A run of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First sector, relative to the export.
    pub lba: u64,
    /// Sectors, at least 1.
    pub count: u64,
}

impl Extent {
    /// The sector after the last one; saturates, so that a nonsensical extent lies outside every store.
    pub fn end(self) -> u64 {
        self.lba.saturating_add(self.count)
    }
}

/// A failed operation: what the ATA registers need and what the operator must know.
#[derive(Debug, thiserror::Error)]
#[error("{kind} at sector {lba}: {source}")]
pub struct Fault {
    /// Which register values this becomes.
    pub kind: FaultKind,
    /// First sector that failed, relative to the export.
    pub lba: u64,
    /// The cause.
    pub source: io::Error,
}

impl Fault {
    /// For an extent that is not all inside the store. The engine checks before it asks; this is the second lock.
    pub fn outside(kind: FaultKind, extent: Extent) -> Fault {
        Fault {
            kind,
            lba: extent.lba,
            source: io::Error::new(io::ErrorKind::InvalidInput, "outside the export"),
        }
    }
}

/// Kinds of failure, as an initiator can tell them apart (`docs/conformance.md`, result table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The medium did not give the data (ATA UNC).
    Read,
    /// The medium did not take the data: I/O error, no space, a failed flush (ATA device fault).
    Write,
    /// The backing store is gone as a whole (AoE error 3, "device unavailable").
    Gone,
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FaultKind::Read => "read failed",
            FaultKind::Write => "write failed",
            FaultKind::Gone => "backing store unavailable",
        })
    }
}
