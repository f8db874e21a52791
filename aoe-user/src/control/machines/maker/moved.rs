//! Addresses that keep a disk over a reload, and who waits for it meanwhile.

use std::time::Instant;

use aoe_common::Mac;

use super::super::moved::{Claim, MovedAddress};
use super::super::naming::DiskName;
use super::Maker;

impl Maker {
    /// Logs who keeps a disk since a reload.
    pub(super) fn tell_moved(&self, moved: Vec<MovedAddress>) {
        for MovedAddress { mac, from, to } in moved {
            tracing::warn!(
                "{}: {mac} is of {to} now and keeps the disk of {from} until it boots, which it may be running on; nobody else gets that \
                 before; `xblade overlay discard` takes it away",
                self.address()
            );
        }
    }

    /// Whether an address has to wait for a disk because others keep it, which is logged once.
    pub(super) fn is_kept_from(&mut self, name: &DiskName, mac: Mac) -> bool {
        let (claim, limit) = {
            let mut table = self.shared.table.write();
            (table.claim(name, mac, Instant::now()), table.silent_limit())
        };
        let list = |macs: Vec<Mac>| macs.iter().map(Mac::to_string).collect::<Vec<_>>().join(", ");
        let limit = humantime::format_duration(limit);
        match claim {
            Claim::Free => false,
            Claim::Released(macs) => {
                tracing::warn!(
                    "{}: {mac} gets the disk of {name}, which {} kept over a reload: silent for {limit}",
                    self.address(),
                    list(macs)
                );
                false
            }
            Claim::Kept(macs) => {
                if self.waits.insert(mac) {
                    let keepers = list(macs);
                    tracing::warn!(
                        "{}: {mac} gets no disk yet: {keepers} had the disk of {name} before a reload and may be running on it; {mac} gets it \
                         when {keepers} has booted by iPXE or been silent for {limit}, or after a restart of xblade: switch {keepers} off",
                        self.address()
                    );
                }
                true
            }
        }
    }
}
