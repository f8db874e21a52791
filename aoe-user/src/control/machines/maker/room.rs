//! Which machines that nobody named have a disk, of which there are only so many, and whose disks ended with the host.

use std::collections::BTreeSet;
use std::time::SystemTime;

use anyhow::Result;
use aoe_common::Mac;

use super::super::Disk;
use super::super::naming::DiskName;
use super::copies::Copies;
use super::opening::ENDED;
use super::{Maker, SHORT_LIMIT};
use crate::config::Unknown;

impl Maker {
    /// There is a disk: its machine is not turned away, whatever becomes of it and of others.
    pub(super) fn note_known(&self, name: &DiskName) {
        let mut table = self.shared.table.write();
        table.ended.remove(name);
        if let DiskName::Unknown(mac) = name {
            table.known.insert(*mac);
        }
    }

    /// A disk is no more, and another machine may have its place.
    pub(super) fn forget_disk(&mut self, name: &DiskName) {
        self.said.remove(name);
        self.shared.disks.lock().remove(name);
        let mut table = self.shared.table.write();
        table.full = false;
        table.forget_kept(name);
        table.ended.remove(name);
        if let DiskName::Unknown(mac) = name {
            table.known.remove(mac);
        }
    }

    /// Whether there is room for one more machine that nobody named.
    pub(super) fn has_room(&mut self, name: &DiskName) -> bool {
        let DiskName::Unknown(_) = name else { return true };
        let max = self.start.settings.config.unknown_max as usize;
        {
            let disks = self.shared.disks.lock();
            // One that ended takes nothing, and its machine may be gone for good.
            let with_place = disks.iter().filter(|(_, disk)| !disk.ended);
            let mut unknown = with_place.filter(|(name, _)| matches!(name, DiskName::Unknown(_)));
            if disks.get(name).is_some_and(|disk| !disk.ended) || unknown.by_ref().count() < max {
                return true;
            }
        }
        let mut table = self.shared.table.write();
        if !table.full {
            table.full = true;
            tracing::error!(
                "{}: {name} gets no disk: there are {max} of machines without a name already (unknown_max); name machines with \
                 [[machine]], or discard what is not used (`xblade overlay discard`)",
                self.address()
            );
        }
        false
    }

    /// At the start: whose copies ended with the host.
    pub(super) fn what_ended(&self, left: &BTreeSet<DiskName>) -> Result<BTreeSet<DiskName>> {
        let Copies::Files { .. } = self.copies else {
            return Ok(BTreeSet::new());
        };
        let mut ended: BTreeSet<DiskName> = self.copies.names()?.into_iter().collect();
        // What cannot be told may have.
        ended.retain(|name| !left.contains(name) && self.ended_with_the_host(name).unwrap_or(true));
        Ok(ended)
    }

    /// These machines are silent until they boot, which somebody may wonder about.
    pub(super) fn note_ended(&self, mut ended: BTreeSet<DiskName>) {
        ended.retain(|name| self.is_served(name));
        if ended.is_empty() {
            return;
        }
        let names: Vec<String> = ended.iter().map(ToString::to_string).collect();
        tracing::warn!("{}: of {}: {ENDED}", self.address(), names.join(", "));
        for name in &ended {
            self.note_as_ended(name);
        }
    }

    /// A disk that ended is not served until its machine boots.
    pub(super) fn note_as_ended(&self, name: &DiskName) {
        let map = std::fs::metadata(self.copies.files(name).map());
        let began = map.and_then(|map| map.created());
        let disk = Disk {
            instance: None,
            since: began.unwrap_or_else(|_| SystemTime::now()),
            kept: self.kept(name),
            problem: Some(ENDED.into()),
            ended: true,
        };
        self.shared.disks.lock().insert(name.clone(), disk);
        self.shared.table.write().ended.insert(name.clone());
        self.start.overlay_exports.note_ended();
    }

    /// A machine boots from another export.
    pub(super) fn boot_elsewhere(&mut self, mac: Mac) {
        let is_ended = |maker: &Maker, name: &DiskName| {
            let disks = maker.shared.disks.lock();
            disks.get(name).is_some_and(|disk| disk.ended)
        };
        let name_of = |maker: &Maker| maker.shared.table.read().name_of(mac);
        // What it kept is as it was, if that did not end.
        let Some(left) = name_of(self).filter(|name| is_ended(self, name)) else {
            return;
        };
        self.shared.table.write().stop_keeping(mac);
        self.discard_ended_of_nobody();
        if is_ended(self, &left) {
            // Others may have it yet.
            self.shared.table.write().ended.insert(left);
        }
        let Some(name) = name_of(self).filter(|name| is_ended(self, name)) else {
            return;
        };
        if self.is_kept_from(&name, mac) {
            return;
        }
        match self.discard(&name, SHORT_LIMIT) {
            Ok(()) => {
                self.said.remove(&name);
                tracing::info!(
                    "{}: {name} boots from another export: it gets a disk here when it asks",
                    self.address()
                );
            }
            Err(error) => self.failed(&name, &error),
        }
    }

    /// Whoever ran on a copy that ended may have booted under another name since: it is nobody's then. Not so where addresses have none.
    pub(super) fn discard_ended_of_nobody(&mut self) {
        let mut names: Vec<DiskName> = {
            let disks = self.shared.disks.lock();
            let ended = disks.iter().filter(|(_, disk)| disk.ended);
            ended.map(|(name, _)| name.clone()).collect()
        };
        names.retain(|name| !self.is_served(name) && !self.may_come_back(name));
        for name in names {
            match self.discard(&name, SHORT_LIMIT) {
                Ok(()) => self.forget_disk(&name),
                Err(error) => tracing::warn!("{}: the disk of {name}: {error:#}", self.address()),
            }
        }
    }

    /// Whether the addresses of a machine may be nobody's by the configuration of now. It may run on, and is not to get another copy below
    /// its system when the next configuration serves it again.
    fn may_come_back(&self, name: &DiskName) -> bool {
        let table = self.shared.table.read();
        match name {
            DiskName::Unknown(mac) => table.name_of(*mac).is_none(),
            DiskName::Machine(_) => table.unknown == Unknown::Refuse,
        }
    }

    /// What ended is taken away: its machine may begin anew.
    pub(super) fn forget_ended(&self, name: &DiskName) {
        let mut disks = self.shared.disks.lock();
        if disks.get(name).is_some_and(|disk| disk.ended) {
            disks.remove(name);
        }
        drop(disks);
        self.shared.table.write().ended.remove(name);
    }

    /// Whether there is such a machine, by the configuration or because an address keeps the disk.
    fn is_served(&self, name: &DiskName) -> bool {
        let table = self.shared.table.read();
        match name {
            DiskName::Unknown(mac) => table.name_of(*mac).as_ref() == Some(name),
            DiskName::Machine(machine) => {
                let machines = &self.start.settings.config.machines;
                machines.iter().any(|one| one.name == *machine) || table.is_kept(name)
            }
        }
    }
}
