//! A machine's copy that is a clone in Ceph.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crate::store::{CLONE_PINNED, CompletionQueue, Golden, Metadata, OverlayTotals, Store, pinned_text};

/// An open clone.
#[derive(Debug)]
pub(super) struct CloneDisk {
    pub(super) store: Arc<dyn Store<CompletionQueue>>,
    pub(super) metadata: Option<Arc<dyn Metadata>>,
    /// The image that other clones are made of now.
    pub(super) golden: Golden,
    pub(super) persistent: bool,
    pub(super) pinned: AtomicBool,
    /// It was made of an earlier snapshot.
    pub(super) old: bool,
    /// It was made when it was opened: whether anything was written to it is known.
    pub(super) new: bool,
    pub(super) opened: SystemTime,
}

impl CloneDisk {
    /// Whether anybody but its own export has it.
    pub(super) fn is_held(&self) -> bool {
        // Store and metadata are the same.
        Arc::strong_count(&self.store) > 2 + usize::from(self.metadata.is_some())
    }

    /// Whether it is as its image is.
    pub(super) fn is_untouched(&self) -> bool {
        self.new && self.count("sectors_written") == 0 && self.count("sectors_trimmed") == 0
    }

    /// Has it stay when its machine boots, or not any more. Blocks.
    pub(super) fn set_pinned(&self, pinned: bool) -> io::Result<()> {
        let Some(metadata) = &self.metadata else {
            return Err(io::Error::other("it has no metadata"));
        };
        metadata.set(CLONE_PINNED, pinned_text(pinned))?;
        self.pinned.store(pinned, Ordering::Relaxed);
        Ok(())
    }

    /// Ceph alone knows which of its reads end in the image.
    pub(super) fn totals(&self) -> OverlayTotals {
        OverlayTotals {
            golden_sectors: 0,
            delta_sectors: self.count("sectors_read"),
            written_sectors: self.count("sectors_written"),
            since: self.opened,
        }
    }

    fn count(&self, name: &str) -> u64 {
        let counters = self.store.counters();
        counters
            .iter()
            .find(|(counter, _)| *counter == name)
            .map_or(0, |(_, count)| *count)
    }
}
