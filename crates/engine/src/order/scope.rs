//! What operations conflict with, and what makes two of them the same.

use aoe_common::Mac;

use crate::mutants::{self, Mutant};
use crate::store::fault::Extent;

/// What an entry does, as far as order is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Read,
    /// READ VERIFY: a read that sends nothing and may take long. One at a time.
    Verify,
    /// WRITE and TRIM.
    Write,
    /// Covers only writes that were answered: waits for nothing.
    Flush,
    /// A change of the config string: one at a time, beside data.
    Admin,
    /// A change of mask or reservation: alone.
    Fence,
}

/// Sectors `first..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub first: u64,
    pub end: u64,
}

impl Span {
    pub(crate) const NONE: Span = Span { first: 0, end: 0 };

    pub(crate) fn of(extent: Extent) -> Span {
        Span {
            first: extent.lba,
            end: extent.lba.saturating_add(extent.count),
        }
    }

    /// From the first to the last sector of all of them.
    pub(crate) fn around(extents: &[Extent]) -> Span {
        let spans = || extents.iter().map(|&extent| Span::of(extent));
        Span {
            first: spans().map(|span| span.first).min().unwrap_or(0),
            end: spans().map(|span| span.end).max().unwrap_or(0),
        }
    }

    pub(crate) fn overlaps(self, other: Span) -> bool {
        if mutants::is(Mutant::OverlapByFirstSector) {
            return self.first == other.first;
        }
        self.first < other.end && other.first < self.end
    }
}

/// Class and place of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub class: Class,
    pub span: Span,
}

impl Scope {
    /// Whether this is a write of all that the other touches: it conflicts with whatever conflicts with that one.
    pub(crate) fn covers(self, other: Scope) -> bool {
        let of_sectors = matches!(other.class, Class::Read | Class::Write);
        let inside = self.span.first <= other.span.first && other.span.end <= self.span.end;
        of_sectors && inside && self.class == Class::Write && !mutants::is(Mutant::OverlapByFirstSector)
    }

    pub(crate) fn conflicts(self, other: Scope) -> bool {
        use Class::{Admin, Fence, Flush, Read, Verify, Write};
        match (self.class, other.class) {
            (Read | Verify | Write, Read | Verify | Write) if mutants::is(Mutant::ConflictsIgnored) => false,
            (Fence, Read | Verify | Write) | (Read | Verify | Write, Fence)
                if mutants::is(Mutant::NoFence) =>
            {
                false
            }
            (Fence, _) | (_, Fence) | (Admin, Admin) | (Verify, Verify) => true,
            (Admin | Flush, _) | (_, Admin | Flush) | (Read, Read | Verify) | (Verify, Read) => false,
            (Read | Verify, Write) | (Write, Read | Verify | Write) => self.span.overlaps(other.span),
        }
    }
}

/// What makes two requests the same one. Never the tag: initiators send a lost request again under a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub opcode: u8,
    pub lba: u64,
    pub count: u64,
    /// Of a read: nothing is gained by taking two hosts that read the same sectors for one, and one of them would
    /// have to ask again. A write from another address is the same write by another path.
    pub source: Option<Mac>,
    /// Of the payload; 0 for reads.
    pub digest: u128,
}
