//! What pages need before a request can be served from them: read ahead of, brought in, in small folios.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::views::{Core, View};
use crate::completion_queue::CompletionQueue;
use crate::fetch::read_ahead;
use crate::mapped::folios;
use crate::mapped::residency::{BLOCK_PAGES, Residency};
use engine::{Extent, SECTOR_BYTES, Token};

impl Core {
    /// Reads ahead of a sequential reader that is at these pages.
    pub(crate) fn read_ahead(&self, view: &View, residency: &Residency, pages: &RangeInclusive<usize>) {
        let known = |first, last| residency.was_in_memory(first, last);
        let Some(ahead) = self.streams.advance(*pages.start(), *pages.end(), known) else {
            return;
        };
        let (first, last) = (ahead.start as usize, ahead.end as usize - 1);
        let bytes = view.mapping.bytes_of(first).start..view.mapping.bytes_of(last).end;
        if bytes.is_empty() || residency.was_in_memory(first, last) {
            return;
        }
        let start = self.backing.position(0);
        read_ahead(
            &self.backing,
            start + bytes.start as u64..start + bytes.end as u64,
        );
    }

    /// The sectors of those pages that a write covers in part only and that are not in memory: they must come in
    /// first, the others are simply written over.
    pub(crate) fn to_warm(
        &self,
        view: &View,
        residency: &Residency,
        pages: &RangeInclusive<usize>,
        extent: Extent,
    ) -> Option<Extent> {
        let written = extent.lba * SECTOR_BYTES..extent.end() * SECTOR_BYTES;
        let mut needed = [*pages.start(), *pages.end()].into_iter().filter(|page| {
            let bytes = view.mapping.bytes_of(*page);
            let covered = written.start <= bytes.start as u64 && bytes.end as u64 <= written.end;
            !covered && !residency.was_in_memory(*page, *page)
        });
        let first = needed.next()?;
        let last = needed.next().unwrap_or(first);
        let sector = |byte: usize| byte as u64 / SECTOR_BYTES;
        let lba = sector(view.mapping.bytes_of(first).start);
        let end = sector(view.mapping.bytes_of(last).end).min(self.backing.sectors());
        Some(Extent {
            lba,
            count: end - lba,
        })
    }

    /// Whether a write to these pages has to wait until their folios are small.
    #[inline]
    pub(crate) fn settle(
        self: &Arc<Self>,
        queue: &CompletionQueue,
        token: Token,
        residency: &Residency,
        pages: &RangeInclusive<usize>,
    ) -> bool {
        (pages.start() / BLOCK_PAGES..=pages.end() / BLOCK_PAGES)
            .any(|block| !residency.is_settled(block) && folios::settle(self, queue, token, residency, block))
    }
}
