//! What the store of an export is opened with, and whether another configuration can go on with it: a leaf, for those who decide
//! and those who open.

use crate::config::{ExportConfig, Overlay};
use crate::store::{CephOptions, StoreKind, StoreOptions};

/// What a store is made from; another value needs another store.
pub(super) fn store_options(config: &ExportConfig) -> StoreOptions {
    StoreOptions {
        kind: config.store,
        format: config.format,
        path: config.path.clone(),
        offset: config.offset,
        length: config.length,
        read_only: config.read_only || config.overlay != Overlay::None,
        shared: config.shared,
        prealloc: config.prealloc,
        flush_interval: config.flush_interval,
        on_lost_write: config.on_lost_write,
        // Whatever else is served has nothing to do with it.
        ceph: match config.store {
            StoreKind::Rbd => (*config.ceph).clone(),
            _ => CephOptions::default(),
        },
        takeover: None,
    }
}

/// Whether the second configuration can go on with what was opened for the first.
pub(super) fn same_store(one: &ExportConfig, other: &ExportConfig) -> bool {
    let disks = |config: &ExportConfig| {
        (
            // Which kind is a matter of each machine's next copy.
            config.overlay == Overlay::None,
            config.overlay_dir.clone(),
        )
    };
    let group = |config: &ExportConfig| {
        config
            .failover
            .as_ref()
            .map(|group| (group.name.clone(), group.detect, group.command.clone()))
    };
    let has_disks = [one, other].iter().any(|config| config.overlay != Overlay::None);
    store_options(one) == store_options(other)
        && one.state_name == other.state_name
        && group(one) == group(other)
        && (!has_disks || disks(one) == disks(other))
}
