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
use crate::registry::StoreRegistry;

/// Opens what `options` name, as the only store of its target.
///
/// A file is locked against other writers by byte range (an open file description lock, so that several exports
/// of one process may serve disjoint ranges of one file); a block device to be written is opened exclusively.
///
/// # Errors
/// [`StoreError`]; its message names the path, the bad value and what is possible.
pub fn open(options: &StoreOptions) -> Result<Arc<dyn Store<CompletionQueue>>, StoreError> {
    Ok(open_with(options, Context::default())?.store)
}

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// The sectors.
    pub store: Arc<dyn Store<CompletionQueue>>,
    /// What is kept beside them, where the storage has room for that and may be written.
    pub metadata: Option<Arc<dyn Metadata>>,
}

/// What a store has to do with the rest of its target.
#[derive(Clone, Default)]
pub struct Context {
    /// The other stores.
    pub registry: StoreRegistry,
    /// Who hears of lost writes; those of an earlier process are known.
    pub losses: Losses,
    /// Who hears of a store that another client has taken: it is to be closed and opened anew.
    pub fenced: Option<OnFence>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("losses", &self.losses)
            .finish_non_exhaustive()
    }
}

/// The same as one of several stores, for whoever wants to hear of what happens to it.
///
/// # Errors
/// As [`open`].
pub fn open_with(options: &StoreOptions, context: Context) -> Result<Opened, StoreError> {
    let Context {
        registry,
        losses,
        fenced,
    } = context;
    if options.shared && options.kind != StoreKind::Direct {
        return Err(StoreError::SharedNeedsDirect {
            path: options.path.clone(),
            kind: options.kind,
        });
    }
    let mut metadata = None;
    let store: Arc<dyn Store<CompletionQueue>> = match options.kind {
        StoreKind::Mmap => {
            let backing = Backing::open(options, registry.disks())?;
            Arc::new(MappedStore::new(backing, options, &registry, losses)?)
        }
        StoreKind::Direct => Arc::new(DirectStore::open(options, &registry, losses)?),
        StoreKind::Rbd => {
            let store = Arc::new(RbdStore::open(options, registry.clients(), fenced)?);
            if store.keeps_metadata() {
                metadata = Some(Arc::clone(&store) as _);
            }
            store
        }
        StoreKind::Nbd => Arc::new(NbdStore::open(options)?),
        StoreKind::Ram => Arc::new(RamStore::open(options, registry.disks())?),
        StoreKind::Null => Arc::new(NullStore::new(volatile_sectors(options, registry.disks())?)),
    };
    Ok(Opened { store, metadata })
}
