//! Holes of a file in memory (tmpfs), read without filling them.
//!
//! A read through the mapping fills a hole with a page of zeros, which stays; a system call reads the same zeros and takes no memory.
//! So a page is read through the mapping only when it surely exists: something was written to it here, the thread that warms up met
//! it, or a read brought something else than zeros from it.
//!
//! What is believed of a page decides by which of the two ways it is read, never what is read: either way gives what the file holds
//! at that moment, whoever wrote it. To be wrong costs a system call where the page exists, and a page where somebody else has
//! punched it away.

use std::ops::Range;

use super::views::{Core, View, extent_bytes};
use engine::Extent;

/// Bytes that are looked at together for something else than zero: one comparison for all.
const STEP: usize = 128;

impl View {
    /// Whether a read of this extent through the mapping might fill a hole.
    #[inline]
    pub(super) fn may_have_hole(&self, extent: Extent) -> bool {
        self.existing.as_ref().is_some_and(|existing| {
            let pages = self.mapping.pages_of(extent_bytes(extent));
            !existing.contains(*pages.start(), *pages.end())
        })
    }

    /// These pages of the mapping exist.
    #[inline]
    pub(super) fn note_existing(&self, first: usize, last: usize) {
        if let Some(existing) = &self.existing {
            existing.insert(first, last);
        }
    }

    /// This extent was written through the mapping.
    #[inline]
    pub(super) fn note_written(&self, extent: Extent) {
        let pages = self.mapping.pages_of(extent_bytes(extent));
        self.note_existing(*pages.start(), *pages.end());
    }

    /// These bytes were given back: the pages that lie in them whole exist no more, nor in memory.
    pub(super) fn forget(&self, bytes: Range<usize>) {
        let bytes = bytes.start..bytes.end.min(self.mapping.len());
        if let Some(residency) = self.residency.as_ref().filter(|_| !bytes.is_empty()) {
            residency.forget_pages(&self.mapping.pages_of(bytes.clone()));
        }
        let Some(existing) = self.existing.as_ref().filter(|_| !bytes.is_empty()) else {
            return;
        };
        let pages = self.mapping.pages_of(bytes.clone());
        let is_whole = |page: &usize| {
            let of_page = self.mapping.bytes_of(*page);
            bytes.start <= of_page.start && of_page.end <= bytes.end
        };
        let first = *pages.start() + usize::from(!is_whole(pages.start()));
        let end = *pages.end() + usize::from(is_whole(pages.end()));
        if first < end {
            existing.remove(first, end - 1);
        }
    }

    /// Notes the pages that a read brought something else than zeros from.
    fn learn(&self, extent: Extent, read: &[&mut [u8]]) {
        let mut at = extent_bytes(extent).start;
        for piece in read {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let page = *self.mapping.pages_of(at..at + 1).start();
                let (part, behind) = rest.split_at(rest.len().min(self.mapping.bytes_of(page).end - at));
                if !is_zero(part) {
                    self.note_existing(page, page);
                }
                (at, rest) = (at + part.len(), behind);
            }
        }
    }
}

impl Core {
    /// Reads what may have holes, without filling them. False: it could not be read so.
    pub(super) fn read_around_holes(&self, view: &View, extent: Extent, into: &mut [&mut [u8]]) -> bool {
        let is_read = self.backing.read_in_memory(extent, into);
        if is_read {
            view.learn(extent, into);
        }
        is_read
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(STEP)
        .all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
