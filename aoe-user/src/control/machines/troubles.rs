//! What keeps machines from working on their copies, as far as the operator has to know: who hears nothing, and what is full.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aoe_common::Mac;

use super::maker::MERGING;
use super::naming::{DiskName, directory};
use super::{Disks, Instance, RECENT, RETRY};
use crate::config::{ExportConfig, Overlay, OverlayReset, StoreKind};
use crate::store::{Full, free_bytes, is_full};

/// Whoever has been next for so long waits for a disk that does not answer.
pub(super) const HANGS: Duration = Duration::from_secs(30);
const HANGING: &str =
    "its copy is waited for: the disk of overlay_dir or of the image, or Ceph, does not answer";

/// So many machines are named.
const NAMED: usize = 3;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::control) struct Troubles {
    /// Machines that hear nothing, and why.
    pub(in crate::control) silent: BTreeMap<DiskName, String>,
    /// Machines whose writes are refused, and what is full.
    pub(in crate::control) full: BTreeMap<DiskName, Full>,
    /// The directory of the copies, if there is no room in it.
    no_room: Option<PathBuf>,
    /// No other machine without a name gets a copy: there are so many.
    strangers: bool,
    /// What may still be written there; `None`: that is not known.
    pub(in crate::control) free_bytes: Option<u64>,
}

/// The room in the directory of copies that are files.
#[derive(Debug)]
pub(super) struct Room {
    directory: Option<PathBuf>,
    /// `u64::MAX`: not known.
    free_bytes: AtomicU64,
}

impl Room {
    pub(super) fn of(config: &ExportConfig) -> Room {
        Room {
            // Clones in Ceph take none.
            directory: directory(config).filter(|_| config.store != StoreKind::Rbd),
            free_bytes: AtomicU64::new(u64::MAX),
        }
    }
}

#[cfg(test)]
impl Room {
    pub(super) fn set_free(&self, bytes: u64) {
        self.free_bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Disks {
    /// Looks how much room there is for copies. May wait for a disk.
    pub(in crate::control) fn look_for_room(&self) {
        let free = self.room.directory.as_ref().map(|path| free_bytes(path));
        let free = free.and_then(Result::ok).unwrap_or(u64::MAX);
        self.room.free_bytes.store(free, Ordering::Relaxed);
    }

    /// What is known now; waits for nothing.
    pub(in crate::control) fn troubles(&self) -> Troubles {
        let free = self.room.free_bytes.load(Ordering::Relaxed);
        let free_bytes = (free != u64::MAX).then_some(free);
        let (strangers, boot_mends) = {
            let table = self.shared.table.read();
            (table.full, table.reset == OverlayReset::Boot)
        };
        let mut troubles = Troubles {
            strangers,
            no_room: self
                .room
                .directory
                .clone()
                .filter(|_| free_bytes.is_some_and(is_full)),
            free_bytes,
            ..Troubles::default()
        };
        self.waiting(&mut troubles.silent);
        self.hanging(&mut troubles.silent);
        let seen: Vec<_> = {
            let disks = self.shared.disks.lock();
            let disks = disks.iter();
            disks
                .map(|(name, disk)| {
                    let known = (disk.kept, disk.ended, disk.problem.clone());
                    (name.clone(), disk.instance.clone(), known)
                })
                .collect()
        };
        for (name, instance, (kept, ended, problem)) in seen {
            match (instance, problem) {
                // It was to go, and cannot: requests to it do not end.
                (Some(_), Some(problem)) if !self.is_served(&name) && self.asks(&name) => {
                    troubles.silent.insert(name, problem);
                }
                (Some(instance), _) => {
                    let full = instance.content.usage().full;
                    let full = full.filter(|full| {
                        *full != Full::Limit || !boot_mends || instance.content.stays() || is_heard(&instance)
                    });
                    troubles.full.extend(full.map(|full| (name, full)));
                }
                (None, Some(problem)) => {
                    // What a boot mends, or passes by itself, matters only to who runs.
                    let passes = ended || problem == MERGING;
                    let stays = kept.kind == Overlay::Persistent || kept.pinned || !boot_mends;
                    if stays && !passes && self.is_somebody_s(&name) || self.asks(&name) {
                        troubles.silent.insert(name, problem);
                    }
                }
                (None, None) => {}
            }
        }
        troubles
    }

    /// Who has asked in vain a short time ago, for what is somebody else's for now.
    fn waiting(&self, silent: &mut BTreeMap<DiskName, String>) {
        let waits = self.shared.waits.lock().clone();
        for (mac, why) in waits {
            let name = {
                let table = self.shared.table.read();
                table.name_of(mac).filter(|_| !table.by_mac.contains_key(&mac))
            };
            if let Some(name) = name.filter(|name| self.asks(name)) {
                silent.insert(name, why);
            }
        }
    }

    /// Who has been waiting for long because the thread is at something that does not end. Where many boot at once each takes its time.
    fn hanging(&self, silent: &mut BTreeMap<DiskName, String>) {
        let moved_on = *self.shared.moved_on.lock();
        if moved_on.is_none_or(|at| at.elapsed() < HANGS) {
            return;
        }
        let macs: Vec<Mac> = {
            let asking = self.shared.asking.lock();
            let next = asking.iter().filter(|(_, asked)| asked.until.is_none());
            let hanging = next.filter(|(_, asked)| asked.since.elapsed() >= HANGS);
            hanging.map(|(mac, _)| *mac).collect()
        };
        let table = self.shared.table.read();
        let macs = macs.into_iter().filter(|mac| !table.by_mac.contains_key(mac));
        silent.extend(macs.filter_map(|mac| Some((table.name_of(mac)?, HANGING.into()))));
    }

    /// Whether there is a machine that may ask for it.
    fn is_somebody_s(&self, name: &DiskName) -> bool {
        !self.shared.table.read().macs_of(name).is_empty()
    }

    /// Whether an address has this disk at the moment.
    fn is_served(&self, name: &DiskName) -> bool {
        let table = self.shared.table.read();
        table.by_mac.values().any(|instance| instance.name == *name)
    }

    /// Whether a machine has asked in vain a short time ago.
    fn asks(&self, name: &DiskName) -> bool {
        let macs = self.shared.table.read().macs_of(name);
        let (asking, now) = (self.shared.asking.lock(), Instant::now());
        let mut asked = macs.iter().filter_map(|mac| asking.get(mac)?.until);
        asked.any(|until| (now + RETRY).saturating_duration_since(until) < RECENT)
    }
}

fn is_heard(instance: &Instance) -> bool {
    let ago = instance.heard.ago(Instant::now());
    ago.is_some_and(|ago| ago < RECENT)
}

impl Troubles {
    /// What is wrong and what to do, in one line; `None`: nothing.
    pub(in crate::control) fn reason(&self) -> Option<String> {
        let mut said = Vec::new();
        if let Some((_, why)) = self.silent.first_key_value() {
            let who = names(self.silent.keys());
            let verb = if self.silent.len() == 1 { "hears" } else { "hear" };
            let more = match self.silent.len() {
                1 => "",
                _ => " (`xblade overlay list` says why of each); the first",
            };
            said.push(format!("{who} {verb} nothing{more}: {why}"));
        }
        for (full, advice) in [
            (
                Full::Limit,
                "have reached overlay_limit: reset or discard them (`xblade overlay`), or raise it and reload",
            ),
            (
                Full::Delta,
                "find no room in overlay_dir: make room on its file system, or discard copies (`xblade overlay discard`)",
            ),
            (
                Full::Bits,
                "find no room on the tmpfs where it is noted what they hold (`df /run /dev/shm`): make it larger, or discard copies",
            ),
        ] {
            let machines = self
                .full
                .iter()
                .filter(|(_, of)| **of == full)
                .map(|(name, _)| name);
            let machines: Vec<&DiskName> = machines.collect();
            if !machines.is_empty() {
                let who = names(machines.into_iter());
                said.push(format!("writes of {who} are refused, their copies {advice}"));
            }
        }
        if let Some(path) = &self.no_room {
            let path = path.display();
            said.push(format!(
                "{path}: the file system is full: machines' writes to new places fail, and no copy begins; make room there, or discard \
                 copies (`xblade overlay discard`)"
            ));
        }
        if self.strangers {
            said.push(
                "machines without a name hear nothing: as many others have copies as unknown_max allows; name them with [[machine]], or \
                 discard what is not used (`xblade overlay discard`)"
                    .to_owned(),
            );
        }
        (!said.is_empty()).then(|| said.join("; "))
    }
}

fn names<'a>(all: impl ExactSizeIterator<Item = &'a DiskName>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let mut text = all
        .take(NAMED)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}
