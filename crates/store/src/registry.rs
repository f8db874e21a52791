//! What the stores of one target know of each other.

use std::sync::Arc;

use crate::borders::Places;
use crate::disks::Disks;
use crate::mapped::warmup::WarmUp;
use crate::rbd::cluster::Clients;

/// Shared by all stores of a target: what they know of each other's disks and files, the exclusive opens of block devices, the
/// connections to Ceph and the thread that warms up. Clones are the same registry.
///
/// Stores of different registries know nothing of each other, like those of different processes: one file must not be written through
/// two of them in overlapping blocks.
#[derive(Clone, Debug, Default)]
pub struct StoreRegistry(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    disks: Disks,
    places: Places,
    clients: Clients,
    warm_up: Arc<WarmUp>,
}

impl StoreRegistry {
    pub(crate) fn disks(&self) -> &Disks {
        &self.0.disks
    }

    pub(crate) fn places(&self) -> &Places {
        &self.0.places
    }

    pub(crate) fn clients(&self) -> &Clients {
        &self.0.clients
    }

    pub(crate) fn warm_up(&self) -> &Arc<WarmUp> {
        &self.0.warm_up
    }
}
