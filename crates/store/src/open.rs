//! From options to the store that they ask for.

use std::sync::Arc;

use engine::Store;

use crate::backing::Backing;
use crate::commit::policy::Losses;
use crate::completion_queue::CompletionQueue;
use crate::direct::DirectStore;
use crate::mapped::MappedStore;
use crate::null::NullStore;
use crate::options::{StoreError, StoreKind, StoreOptions};
use crate::ram::{RamStore, volatile_sectors};

/// Opens what `options` name.
///
/// A file is locked against other writers by byte range (an open file description lock, so that several exports
/// of one process may serve disjoint ranges of one file); a block device to be written is opened exclusively.
///
/// # Errors
/// [`StoreError`]; its message names the path, the bad value and what is possible.
pub fn open(options: &StoreOptions) -> Result<Arc<dyn Store<CompletionQueue>>, StoreError> {
    open_with_losses(options, Losses::default())
}

/// The same for whoever keeps lost writes in mind: what an earlier process lost is known, and a new loss is told.
///
/// # Errors
/// As [`open`].
pub fn open_with_losses(
    options: &StoreOptions,
    losses: Losses,
) -> Result<Arc<dyn Store<CompletionQueue>>, StoreError> {
    if options.shared && options.kind != StoreKind::Direct {
        return Err(StoreError::SharedNeedsDirect {
            path: options.path.clone(),
            kind: options.kind,
        });
    }
    match options.kind {
        StoreKind::Mmap => {
            let backing = Backing::open(options)?;
            Ok(Arc::new(MappedStore::new(backing, options, losses)?))
        }
        StoreKind::Direct => Ok(Arc::new(DirectStore::open(options, losses)?)),
        StoreKind::Ram => Ok(Arc::new(RamStore::open(options)?)),
        StoreKind::Null => Ok(Arc::new(NullStore::new(volatile_sectors(options)?))),
    }
}
