//! From options to the store that they ask for.

use std::sync::Arc;

use engine::Store;

use crate::backing::Backing;
use crate::commit::policy::Losses;
use crate::completion_queue::CompletionQueue;
use crate::direct::DirectStore;
use crate::mapped::MappedStore;
use crate::metadata::Metadata;
use crate::nbd::NbdStore;
use crate::null::NullStore;
use crate::options::{StoreError, StoreKind, StoreOptions};
use crate::ram::{RamStore, volatile_sectors};
use crate::rbd::{OnFence, RbdStore};

/// Opens what `options` name.
///
/// A file is locked against other writers by byte range (an open file description lock, so that several exports
/// of one process may serve disjoint ranges of one file); a block device to be written is opened exclusively.
///
/// # Errors
/// [`StoreError`]; its message names the path, the bad value and what is possible.
pub fn open(options: &StoreOptions) -> Result<Arc<dyn Store<CompletionQueue>>, StoreError> {
    Ok(open_with(options, Reports::default())?.store)
}

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// The sectors.
    pub store: Arc<dyn Store<CompletionQueue>>,
    /// What is kept beside them, where the storage has room for that and may be written.
    pub metadata: Option<Arc<dyn Metadata>>,
}

/// Who hears of what happens to a store later.
#[derive(Clone, Default)]
pub struct Reports {
    /// Of lost writes; those of an earlier process are known.
    pub losses: Losses,
    /// Of a store that another client has taken: it is to be closed and opened anew.
    pub fenced: Option<OnFence>,
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports")
            .field("losses", &self.losses)
            .finish_non_exhaustive()
    }
}

/// The same for whoever wants to hear of what happens to it.
///
/// # Errors
/// As [`open`].
pub fn open_with(options: &StoreOptions, reports: Reports) -> Result<Opened, StoreError> {
    let losses = reports.losses;
    if options.shared && options.kind != StoreKind::Direct {
        return Err(StoreError::SharedNeedsDirect {
            path: options.path.clone(),
            kind: options.kind,
        });
    }
    let mut metadata = None;
    let store: Arc<dyn Store<CompletionQueue>> = match options.kind {
        StoreKind::Mmap => {
            let backing = Backing::open(options)?;
            Arc::new(MappedStore::new(backing, options, losses)?)
        }
        StoreKind::Direct => Arc::new(DirectStore::open(options, losses)?),
        StoreKind::Rbd => {
            let store = Arc::new(RbdStore::open(options, reports.fenced)?);
            if store.keeps_metadata() {
                metadata = Some(Arc::clone(&store) as _);
            }
            store
        }
        StoreKind::Nbd => Arc::new(NbdStore::open(options)?),
        StoreKind::Ram => Arc::new(RamStore::open(options)?),
        StoreKind::Null => Arc::new(NullStore::new(volatile_sectors(options)?)),
    };
    Ok(Opened { store, metadata })
}
