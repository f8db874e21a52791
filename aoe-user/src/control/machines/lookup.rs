//! How workers find a machine's disk, and ask for what is not there.
//!
//! Addresses can be forged, and a scan of the network comes from any of them. So a machine that nobody named is told that there is a disk
//! when it looks, and gets one of its own when it uses that: with its first ATA command.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use aoe_common::Mac;
use engine::SeenDisk;

use super::{ASKING_MAX, Asked, DiskName, Disks, FRESH, Network, Order, Table, pause};
use crate::config::{OverlayReset, Unknown};
use crate::target::Export;

impl Disks {
    /// Asks for a disk, once.
    fn ask(&self, source: Mac, order: Order) {
        let mut asking = self.shared.asking.lock();
        let now = Instant::now();
        let waits = |asked: &Asked| asked.until.is_none_or(|until| now < until);
        if asking.get(&source).is_some_and(waits) {
            return;
        }
        if asking.len() >= ASKING_MAX {
            asking.retain(|_, asked| waits(asked));
        }
        if asking.len() < ASKING_MAX {
            asking.insert(source, Asked::now());
            self.order(order);
        }
    }

    pub(super) fn network(&self) -> Arc<Network> {
        Arc::clone(&self.shared.table.read().network)
    }

    /// A machine boots from another export on its network: whatever it ran on, it does not any more. What ended with the host goes; it would stay silent
    /// for ever, because a machine looks for one disk when it boots.
    pub(super) fn boots_elsewhere(&self, source: Mac) {
        let is_one = |table: &Table| {
            let name = (!table.ended.is_empty()).then(|| table.name_of(source)).flatten();
            name.filter(|name| table.ended.contains(name))
        };
        let ended = is_one(&self.shared.table.read());
        // It looks once, and nobody else asks in its place: what else is asked for must not be in the way. Once said is enough.
        if let Some(name) = ended
            && self.shared.table.write().ended.remove(&name)
        {
            self.order(Order::BootElsewhere(source));
        }
    }

    /// What there is for an address that was heard; true: it is to be asked for.
    fn found(&self, source: Mac) -> (SeenDisk<Export>, bool) {
        let table = self.shared.table.read();
        if let Some(kept) = table.kept.get(&source) {
            kept.heard.note(Instant::now());
        }
        if let Some(instance) = table.by_mac.get(&source) {
            instance.heard.note(Instant::now());
            return (SeenDisk::Ready(Arc::clone(&instance.export)), false);
        }
        match table.turns_away(source) {
            true => (SeenDisk::Nothing, false),
            false if table.may_begin(source) => (SeenDisk::Unmade, false),
            false => (SeenDisk::Nothing, true),
        }
    }
}

impl Table {
    pub(super) fn remove(&mut self, name: &DiskName) {
        self.by_mac.retain(|_, instance| instance.name != *name);
    }

    /// Nobody but those with a name or a disk gets one.
    pub(super) fn turns_away(&self, mac: Mac) -> bool {
        let has_no_place = || self.unknown == Unknown::Refuse || (self.full && !self.known.contains(&mac));
        !self.named.contains_key(&mac) && !self.kept.contains_key(&mac) && has_no_place()
    }

    /// Whether there is nothing yet of a machine that nobody named, and nothing in the way of its first disk. What else there may be is the
    /// thread's to find out, also that there is no place, which it logs.
    fn may_begin(&self, mac: Mac) -> bool {
        let is_new = !self.named.contains_key(&mac)
            && !self.kept.contains_key(&mac)
            && !self.known.contains(&mac)
            && !self.ended.contains(&DiskName::Unknown(mac));
        is_new && !self.is_written && self.known.len() < self.unknown_max
    }
}

impl engine::Machines<Export> for Disks {
    fn instance(&self, source: Mac) -> Option<Arc<Export>> {
        match self.found(source) {
            (SeenDisk::Ready(own), _) => return Some(own),
            (SeenDisk::Unmade, _) | (_, true) => self.ask(source, Order::Open(source)),
            (SeenDisk::Nothing, false) => {}
        }
        None
    }

    fn look(&self, source: Mac) -> SeenDisk<Export> {
        let (found, is_wanted) = self.found(source);
        if is_wanted {
            self.ask(source, Order::Open(source));
        }
        found
    }

    fn boots(&self, source: Mac) -> bool {
        self.overlay_exports.tell_boot(self, source);
        {
            let table = self.shared.table.read();
            match table.by_mac.get(&source) {
                Some(_) if table.kept.contains_key(&source) => {}
                Some(instance) if table.reset != OverlayReset::Boot || instance.content.stays() => {
                    instance.content.count_anew();
                    return true;
                }
                Some(instance) if instance.content.is_untouched() && instance.ready.elapsed() < FRESH => {
                    return true;
                }
                None if table.turns_away(source) => return false,
                // There is nothing that could begin anew.
                None if table.may_begin(source) => return true,
                Some(_) | None => {}
            }
        }
        {
            let mut table = self.shared.table.write();
            if !table.stop_keeping(source)
                && let Some(instance) = table.by_mac.get(&source)
            {
                let name = instance.name.clone();
                // Nobody reads what is about to go.
                table.remove(&name);
            }
        }
        self.ask(source, Order::Boot(source));
        false
    }

    fn in_flight(&self) -> usize {
        let table = self.shared.table.read();
        let mut seen = HashSet::new();
        let once = table
            .by_mac
            .values()
            .filter(|instance| seen.insert(&instance.name));
        once.map(|instance| instance.export.in_flight()).sum()
    }

    fn set_paused(&self, paused: bool) {
        let _alone = self.shared.pausing.lock();
        let instances: Vec<_> = {
            let mut table = self.shared.table.write();
            // Silence begins anew: while it was paused nobody was heard.
            let now = Instant::now();
            table
                .by_mac
                .values()
                .for_each(|instance| instance.heard.note(now));
            table.kept.values().for_each(|kept| kept.heard.note(now));
            table.paused = paused;
            table.by_mac.values().cloned().collect()
        };
        // A worker may be holding the lock of one while it waits for a disk. The table is what all others need meanwhile.
        for instance in instances {
            pause(&instance.export, paused);
        }
    }
}
