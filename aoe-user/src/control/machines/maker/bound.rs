//! Has the next process know which address runs on which copy.

use std::collections::{BTreeSet, HashSet};

use super::super::content::Content;
use super::super::naming::DiskName;
use super::Maker;
use super::copies::Copies;
use crate::config::{Overlay, OverlayReset};

impl Maker {
    /// At the start: these disks are left of an earlier process, also such as ended with the host. Whoever had one may be running on it, whatever the configuration says now.
    pub(super) fn take_bound(&self, left: &BTreeSet<DiskName>) {
        let bound = self.bound.read().into_iter();
        let bound = bound.filter(|(_, name)| left.contains(name));
        self.shared.table.write().keep_of_before(bound);
    }

    /// Writes who has which of these disks or gets it when they ask, where that is news.
    pub(super) fn write_bound(&self, disks: &HashSet<DiskName>) {
        let addresses = self.shared.table.read().addresses_of(disks);
        self.bound.write(addresses, || {
            let outlives_host = |name| self.start.listed.has(name);
            // Where copies begin anew with a boot, it is kept whose ended with the host.
            let at_boot = self.start.settings.config.overlay_reset == OverlayReset::Boot;
            at_boot || matches!(self.copies, Copies::Clones(..)) || disks.iter().any(outlives_host)
        });
    }

    /// The same for all copies. One that is not served at the moment is still its machine's.
    pub(super) fn note_bound(&self) {
        let written = self.bound.disks();
        let copies: HashSet<DiskName> = {
            let disks = self.shared.disks.lock();
            let copies = disks.iter().filter(|(name, disk)| match &disk.instance {
                Some(instance) => is_copy(&instance.content),
                None => written.contains(*name),
            });
            copies.map(|(name, _)| name.clone()).collect()
        };
        self.write_bound(&copies);
    }

    /// A disk is about to be served to the addresses of its machine.
    pub(super) fn note_bound_to(&self, name: &DiskName, content: &Content) {
        let macs = self.shared.table.read().served(name);
        if is_copy(content) && !self.bound.has(&macs, name) {
            self.note_bound();
        }
    }
}

fn is_copy(content: &Content) -> bool {
    content.kind() != Overlay::None
}
