//! What a machine's disk is made of: a copy of the image, or the image itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clone::CloneDisk;
use crate::config::Overlay;
use crate::store::{CompletionQueue, Golden, Health, OverlayStore, OverlayTotals, OverlayUsage, Store};

/// Where a machine's sectors are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// In a copy of its own, as far as it has written them.
    Copy(Arc<OverlayStore>),
    /// In a clone of its own in Ceph.
    Clone(Arc<CloneDisk>),
    /// In the image: to be read, or to be changed by the one machine that may.
    Image(Golden),
}

impl Content {
    pub(super) fn store(&self) -> Arc<dyn Store<CompletionQueue>> {
        match self {
            Content::Copy(store) => Arc::clone(store) as _,
            Content::Clone(clone) => Arc::clone(&clone.store),
            Content::Image(golden) => Arc::clone(golden.store()),
        }
    }

    pub(super) fn golden(&self) -> &Golden {
        match self {
            Content::Copy(store) => store.golden(),
            Content::Clone(clone) => &clone.golden,
            Content::Image(golden) => golden,
        }
    }

    /// The kind of copy.
    pub(super) fn kind(&self) -> Overlay {
        match self {
            Content::Copy(store) if store.is_persistent() => Overlay::Persistent,
            Content::Clone(clone) if clone.persistent => Overlay::Persistent,
            Content::Copy(_) | Content::Clone(_) => Overlay::Volatile,
            Content::Image(_) => Overlay::None,
        }
    }

    /// Whether its machine changes the image itself.
    pub(super) fn writes_image(&self) -> bool {
        matches!(self, Content::Image(golden) if golden.is_writable())
    }

    /// Whether what is written to it outlives a boot of its machine.
    pub(super) fn is_kept(&self) -> bool {
        self.kind() == Overlay::Persistent || self.writes_image()
    }

    /// Whether the operator has it stay when its machine boots.
    pub(super) fn is_pinned(&self) -> bool {
        match self {
            Content::Copy(store) => store.is_pinned(),
            Content::Clone(clone) => clone.pinned.load(Ordering::Relaxed),
            Content::Image(_) => false,
        }
    }

    /// Whether nothing was written to it since it began.
    pub(super) fn is_untouched(&self) -> bool {
        match self {
            Content::Copy(store) => store.usage().written_sectors == 0,
            Content::Clone(clone) => clone.is_untouched(),
            Content::Image(_) => true,
        }
    }

    /// Whether others that begin anew get another image.
    pub(super) fn is_old(&self) -> bool {
        match self {
            Content::Clone(clone) => clone.old,
            Content::Copy(_) | Content::Image(_) => !self.golden().is_current(),
        }
    }

    /// Whether it is as it was after a boot of its machine.
    pub(super) fn stays(&self) -> bool {
        self.is_kept() || self.is_pinned()
    }

    /// What its machine has read and written; `None`: it has no copy.
    pub(super) fn totals(&self) -> Option<OverlayTotals> {
        match self {
            Content::Copy(store) => Some(store.totals()),
            Content::Clone(clone) => Some(clone.totals()),
            Content::Image(_) => None,
        }
    }

    /// Its machine boots: what it does is counted from here on.
    pub(super) fn count_anew(&self) {
        if let Content::Copy(store) = self {
            store.count_anew();
        }
    }

    pub(super) fn usage(&self) -> OverlayUsage {
        match self {
            Content::Copy(store) => store.usage(),
            Content::Clone(_) | Content::Image(_) => OverlayUsage::default(),
        }
    }

    pub(super) fn health(&self) -> Health {
        match self {
            Content::Copy(store) => store.health(),
            Content::Clone(_) => self.store().health(),
            Content::Image(golden) => golden.health(),
        }
    }

    /// Whether it cannot be told any more what it holds.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Content::Copy(store) if store.is_unknown())
    }

    /// How long what was written has waited for a commit.
    pub(super) fn uncommitted_us(&self) -> Option<u64> {
        self.store().uncommitted_us()
    }

    /// Another limit of the space that it takes.
    pub(super) fn set_limit(&self, bytes: u64) {
        if let Content::Copy(store) = self {
            store.set_limit(bytes);
        }
    }

    /// Whether requests of an export under earlier settings may still write to it; its own export has it, and the disk.
    pub(super) fn is_held(&self) -> bool {
        match self {
            Content::Copy(store) => Arc::strong_count(store) > 2,
            Content::Clone(clone) => clone.is_held(),
            Content::Image(golden) => golden.is_writable() && Arc::strong_count(golden.store()) > 2,
        }
    }

    /// Commits what was written, and lets go of it. An image that is only read is the others' too.
    pub(super) fn close(&self) -> io::Result<()> {
        if matches!(self, Content::Image(golden) if !golden.is_writable()) {
            return Ok(());
        }
        let store = self.store();
        let result = store.close();
        store.unlock();
        result
    }
}
