//! Addresses that keep a disk whatever the configuration says, and who waits for it meanwhile.

use std::collections::BTreeSet;
use std::time::Instant;

use aoe_common::Mac;

use super::super::moved::{Claim, MovedAddress};
use super::super::naming::DiskName;
use super::Maker;

impl Maker {
    /// The disks that machines may be running on, served at the moment or not.
    pub(super) fn disks_in_use(&self) -> BTreeSet<DiskName> {
        // What ended may have its machine running on it all the same.
        let disks: Vec<(DiskName, bool)> = {
            let disks = self.shared.disks.lock();
            let disks = disks.iter();
            disks
                .map(|(name, disk)| (name.clone(), disk.instance.is_some() || disk.ended))
                .collect()
        };
        let in_use = disks.into_iter().filter(|(name, is_in_use)| match &self.writer {
            // Whoever changes the image itself does not keep it: the others wait for that to end.
            Some(writer) if writer == name => false,
            // Nobody runs on what could never be opened. What cannot be told may be there, and what is missed was.
            _ => {
                *is_in_use
                    || self.start.listed.has(name)
                    || self.copies.left(name).map_or(true, |left| left.is_some())
            }
        });
        in_use.map(|(name, _)| name).collect()
    }

    /// Logs who keeps a disk since a reload, or since a start under another configuration.
    pub(super) fn tell_moved(&self, moved: Vec<MovedAddress>) {
        for MovedAddress { mac, from, to } in moved {
            tracing::warn!(
                "{}: {mac} is of {to} by the configuration and keeps the disk of {from}, which it may be running on, until it boots by iPXE; \
                 nobody else gets that before: boot the machine at {mac}, or switch it off (`xblade overlay discard` takes that disk away)",
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
                    "{}: {mac} gets the disk of {name}, which {} kept when the configuration was changed: silent for {limit}",
                    self.address(),
                    list(macs)
                );
                false
            }
            Claim::Kept(macs) => {
                let keepers = list(macs);
                let why = format!(
                    "{keepers} had the copy before the configuration was changed and may be running on it: switch {keepers} off, or boot it by \
                     iPXE"
                );
                if self.waits_because(mac, why) {
                    tracing::warn!(
                        "{}: {mac} gets no disk yet: {keepers} had the disk of {name} before the configuration was changed and may be running on \
                         it; {mac} gets it when {keepers} has booted by iPXE or been silent for {limit}: switch {keepers} off",
                        self.address()
                    );
                }
                true
            }
        }
    }
}
