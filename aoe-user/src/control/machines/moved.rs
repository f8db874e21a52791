//! Machines whose addresses the configuration gives to others while they run, by a reload or for the next start of xblade
//! ([`super::bound`]): each address keeps the disk that it runs on until it boots, so that nobody sees another machine's sectors, or the
//! image's, under a file system. Until then the disk is nobody else's, so that no two systems write to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use aoe_common::Mac;

use super::heard::Heard;
use super::{DiskName, Table};
use crate::config::{OverlayReset, Unknown};

/// Whoever keeps a disk and has been silent for so long is off, unless the configuration says how long that takes (`idle:`). A Linux
/// machine that runs looks for its disks once a minute.
const SILENT: Duration = Duration::from_secs(600);

/// A disk that an address keeps whatever the configuration says.
#[derive(Debug)]
pub(super) struct KeptDisk {
    name: DiskName,
    pub(super) heard: Heard,
}

/// An address that keeps a disk although it is to have another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MovedAddress {
    pub(super) mac: Mac,
    pub(super) from: DiskName,
    pub(super) to: DiskName,
}

/// Whether an address may have a disk that others may keep.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nobody keeps it, or this address does.
    Free,
    /// These kept it, and have been silent for long.
    Released(Vec<Mac>),
    /// These keep it.
    Kept(Vec<Mac>),
}

impl Table {
    /// The addresses that have a disk, or get it when they ask.
    pub(super) fn macs_of(&self, name: &DiskName) -> Vec<Mac> {
        let mut macs = self.keepers(name);
        if macs.is_empty() {
            macs = match name {
                DiskName::Unknown(mac) => vec![*mac],
                DiskName::Machine(_) => {
                    let named = self.named.iter().filter(|(_, of)| *of == name);
                    named.map(|(mac, _)| *mac).collect()
                }
            };
            macs.retain(|mac| !self.kept.contains_key(mac));
        }
        macs.sort_unstable();
        macs
    }

    /// The addresses that are served a disk when it is open.
    pub(super) fn served(&self, name: &DiskName) -> Vec<Mac> {
        let mut macs = self.macs_of(name);
        // One that has a name now has left what it had without.
        macs.retain(|mac| self.name_of(*mac).as_ref() == Some(name));
        macs
    }

    /// The same for many disks.
    pub(super) fn addresses_of(&self, disks: &HashSet<DiskName>) -> BTreeMap<Mac, DiskName> {
        let keeping: HashSet<&DiskName> = self.kept.values().map(|kept| &kept.name).collect();
        let named = self.named.iter().map(|(mac, name)| (*mac, name));
        let unknown = disks.iter().filter_map(|name| match name {
            DiskName::Unknown(mac) => {
                (self.configured_name_of(*mac).as_ref() == Some(name)).then_some((*mac, name))
            }
            DiskName::Machine(_) => None,
        });
        let own = named.chain(unknown);
        let own = own.filter(|(mac, name)| !self.kept.contains_key(mac) && !keeping.contains(name));
        let kept = self.kept.iter().map(|(mac, kept)| (*mac, &kept.name));
        let all = own.chain(kept).filter(|(_, name)| disks.contains(*name));
        all.map(|(mac, name)| (mac, name.clone())).collect()
    }

    /// The addresses that keep a disk although the configuration gives them another.
    pub(super) fn kept_by(&self, name: &DiskName) -> Vec<Mac> {
        let mut macs = self.keepers(name);
        macs.retain(|mac| self.configured_name_of(*mac).as_ref() != Some(name));
        macs.sort_unstable();
        macs
    }

    /// Nothing is configured yet, and these addresses had these disks when the process before this one ended.
    pub(super) fn keep_of_before(&mut self, bound: impl Iterator<Item = (Mac, DiskName)>) {
        self.unknown = Unknown::Refuse;
        let kept = bound.map(|(mac, name)| {
            let heard = Heard::now();
            (mac, KeptDisk { name, heard })
        });
        self.kept = kept.collect();
    }

    /// Whose disk an address has; `None`: nobody's.
    pub(super) fn name_of(&self, mac: Mac) -> Option<DiskName> {
        match self.kept.get(&mac) {
            Some(kept) => Some(kept.name.clone()),
            None => self.configured_name_of(mac),
        }
    }

    /// The same by the configuration alone.
    fn configured_name_of(&self, mac: Mac) -> Option<DiskName> {
        match (self.named.get(&mac), self.unknown) {
            (Some(name), _) => Some(name.clone()),
            (None, Unknown::Volatile | Unknown::None) => Some(DiskName::Unknown(mac)),
            (None, Unknown::Refuse) => None,
        }
    }

    /// Whether an address keeps it.
    pub(super) fn is_kept(&self, name: &DiskName) -> bool {
        self.kept.values().any(|kept| kept.name == *name)
    }

    fn keepers(&self, name: &DiskName) -> Vec<Mac> {
        let keepers = self.kept.iter().filter(|(_, kept)| kept.name == *name);
        keepers.map(|(mac, _)| *mac).collect()
    }

    /// Another configuration names the machines. These are the disks that there are, served or not; gives the addresses which are to
    /// have another one from now on, and keep theirs.
    pub(super) fn rename<'a>(
        &mut self,
        named: HashMap<Mac, DiskName>,
        unknown: Unknown,
        disks: impl Iterator<Item = &'a DiskName>,
    ) -> Vec<MovedAddress> {
        let holders = disks.flat_map(|name| self.macs_of(name).into_iter().map(move |mac| (mac, name)));
        // What an address was to have, too: what is news is logged.
        let holders: Vec<(Mac, &DiskName, Option<DiskName>)> = holders
            .filter(|(mac, name)| self.name_of(*mac).as_ref() == Some(name))
            .map(|(mac, name)| (mac, name, self.configured_name_of(mac)))
            .collect();
        let mut before = std::mem::take(&mut self.kept);
        self.named = named;
        self.unknown = unknown;
        let mut news = Vec::new();
        let mut kept = HashSet::new();
        for (mac, from, was_to) in &holders {
            let to = self.configured_name_of(*mac);
            if let Some(to) = to.clone().filter(|to| to != *from) {
                kept.insert(*from);
                if was_to.as_ref() != Some(&to) {
                    let (mac, from) = (*mac, (*from).clone());
                    news.push(MovedAddress { mac, from, to });
                }
            }
        }
        // Other addresses of such a disk may be those of the machine that runs, and no others are.
        for (mac, from, _) in holders {
            if kept.contains(from) && self.configured_name_of(mac).is_some() {
                let heard = before.remove(&mac).map_or_else(Heard::now, |kept| kept.heard);
                let name = from.clone();
                self.kept.insert(mac, KeptDisk { name, heard });
            }
        }
        news.sort_by_key(|moved| moved.mac);
        news
    }

    /// A machine boots: whatever it ran on, it does not any more. False: it kept nothing.
    pub(super) fn stop_keeping(&mut self, mac: Mac) -> bool {
        let Some(KeptDisk { name, .. }) = self.kept.remove(&mac) else {
            return false;
        };
        // The disk may have other users.
        self.by_mac.remove(&mac);
        let keepers = self.keepers(&name);
        let is_own = |mac: &Mac| self.configured_name_of(*mac).as_ref() == Some(&name);
        if keepers.iter().all(is_own) {
            self.forget_kept(&name);
        }
        true
    }

    /// A disk is gone, or its machine's alone again: its addresses are those of the configuration.
    pub(super) fn forget_kept(&mut self, name: &DiskName) {
        self.kept.retain(|_, kept| kept.name != *name);
    }

    /// After which silence a machine that keeps a disk is taken to be off.
    pub(super) fn silent_limit(&self) -> Duration {
        match self.reset {
            OverlayReset::Idle(limit) => limit,
            OverlayReset::Boot | OverlayReset::Never => SILENT,
        }
    }

    /// Whether an address may have a disk; who keeps it and is off does not any more.
    pub(super) fn claim(&mut self, name: &DiskName, mac: Mac, now: Instant) -> Claim {
        let keepers = self.keepers(name);
        if keepers.is_empty() || keepers.contains(&mac) {
            return Claim::Free;
        }
        // Those of its own are the machine's that asks.
        let keepers = self.kept_by(name);
        let limit = self.silent_limit();
        let is_silent = |mac: &Mac| {
            let kept = self.kept.get(mac);
            kept.is_none_or(|kept| kept.heard.silence(now) >= limit)
        };
        // While it is paused nobody is heard, who may be at work all the same.
        if self.paused || !keepers.iter().all(is_silent) {
            return Claim::Kept(keepers);
        }
        self.forget_kept(name);
        self.remove(name);
        Claim::Released(keepers)
    }
}
