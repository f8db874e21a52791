//! Machines whose addresses the configuration gives to others while they run: each keeps the disk that it runs on until it boots, so that
//! nobody sees another machine's sectors, or the image's, under a file system.

use std::collections::HashMap;

use aoe_common::Mac;

use super::{DiskName, Table};

/// An address that keeps a disk although it is to have another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MovedAddress {
    pub(super) mac: Mac,
    pub(super) from: DiskName,
    pub(super) to: DiskName,
}

impl Table {
    /// Another configuration names the machines; gives those addresses that keep a disk from now on.
    pub(super) fn rename(&mut self, named: HashMap<Mac, DiskName>) -> Vec<MovedAddress> {
        self.named = named;
        let mut before = std::mem::take(&mut self.moved);
        let mut news = Vec::new();
        let in_use = self.by_mac.iter();
        // Whoever changes the image itself does not keep it: the others wait for that to end.
        let in_use = in_use.filter(|(_, instance)| !instance.content.writes_image());
        let in_use: HashMap<Mac, DiskName> = in_use
            .map(|(mac, instance)| (*mac, instance.name.clone()))
            .collect();
        for (mac, from) in in_use {
            let Some(to) = self.configured_name_of(mac).filter(|to| *to != from) else {
                continue;
            };
            if before.remove(&mac).is_none() {
                let from = from.clone();
                news.push(MovedAddress { mac, from, to });
            }
            self.moved.insert(mac, from);
        }
        news.sort_by_key(|moved| moved.mac);
        news
    }

    /// A disk is gone: whoever kept it gets what the configuration says.
    pub(super) fn forget_moved(&mut self, name: &DiskName) {
        self.moved.retain(|_, from| from != name);
    }
}
