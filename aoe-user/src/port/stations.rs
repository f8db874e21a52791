//! The addresses besides its own that an interface takes frames to: those of failover groups that are served there.

use std::collections::{BTreeMap, BTreeSet};

use aoe_common::Mac;
use tracing::error;

use super::Nic;
use crate::xsk::Station;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Stations(BTreeMap<Mac, Station>);

impl Stations {
    /// Has the interface take frames to these and no others.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<Mac>, nic: &Nic) {
        self.0.retain(|mac, _| wanted.contains(mac));
        for mac in wanted {
            if self.0.contains_key(mac) || *mac == nic.mac {
                continue;
            }
            match Station::add(nic.index, mac.0) {
                Ok(station) => drop(self.0.insert(*mac, station)),
                // It is tried again with the next change; in promiscuous mode they arrive all the same.
                Err(error) => error!(
                    "{}: it takes no frames to {mac}, the address of a failover group: {error}; `ip link set {} promisc on` has it \
                     take all",
                    nic.name, nic.name
                ),
            }
        }
    }
}
