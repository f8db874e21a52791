//! Which address runs on which copy, kept beside the copies: xblade may be started again with another configuration, and a machine that
//! runs notices nothing of either.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use aoe_common::Mac;
use parking_lot::Mutex;

use super::naming::DiskName;
use crate::control::state::bound;

/// The file in the directory of an export's copies.
const FILE: &str = "addresses";

/// The addresses of one export's machines, each with the disk that it has or gets when it asks.
#[derive(Debug)]
pub(super) struct BoundAddresses {
    path: PathBuf,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    addresses: BTreeMap<Mac, DiskName>,
    /// It could not be written, as was logged.
    failed: bool,
}

impl BoundAddresses {
    /// In this directory. Nothing is read yet.
    pub(super) fn new(mut directory: PathBuf) -> BoundAddresses {
        directory.push(FILE);
        BoundAddresses {
            path: directory,
            written: Mutex::default(),
        }
    }

    /// As an earlier process left it. What cannot be read is as if there were none: most often no address has moved.
    pub(super) fn read(&self) -> BTreeMap<Mac, DiskName> {
        let read = bound::read(&self.path).unwrap_or_else(|reason| {
            tracing::error!(
                "{}: cannot be read: {reason}; each address gets the copy that the configuration names: where that was changed while \
                 machines ran, switch those whose addresses moved off and boot them",
                self.path.display()
            );
            BTreeMap::new()
        });
        let entry = |(mac, name): (String, String)| Some((mac.parse().ok()?, name.parse().ok()?));
        let addresses: BTreeMap<Mac, DiskName> = read.into_iter().filter_map(entry).collect();
        self.written.lock().addresses.clone_from(&addresses);
        addresses
    }

    /// Whether all of these have this disk by the file.
    pub(super) fn has(&self, macs: &[Mac], name: &DiskName) -> bool {
        let written = self.written.lock();
        macs.iter().all(|mac| written.addresses.get(mac) == Some(name))
    }

    /// The disks that addresses have by the file.
    pub(super) fn disks(&self) -> HashSet<DiskName> {
        self.written.lock().addresses.values().cloned().collect()
    }

    /// Writes who has which, where that is news. A disk is served all the same where it fails.
    pub(super) fn write(&self, addresses: BTreeMap<Mac, DiskName>, outlives_host: impl FnOnce() -> bool) {
        let mut written = self.written.lock();
        if written.addresses == addresses {
            return;
        }
        let texts = addresses
            .iter()
            .map(|(mac, name)| (mac.to_string(), name.to_string()));
        match bound::write(&self.path, texts.collect(), outlives_host()) {
            Ok(()) => {
                *written = Written {
                    addresses,
                    failed: false,
                };
            }
            Err(error) => {
                if !std::mem::replace(&mut written.failed, true) {
                    tracing::error!(
                        "{}: cannot be written: {error}; until it can, do not start xblade again with [[machine]] addresses changed while \
                         machines run: it would not know which copy each of them runs on",
                        self.path.display()
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn one(name: &DiskName) -> BTreeMap<Mac, DiskName> {
        BTreeMap::from([(MAC, name.clone())])
    }

    #[test]
    fn what_is_written_is_read_by_the_next_process_and_damage_is_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let open = || BoundAddresses::new(dir.path().to_owned());
        assert_eq!(open().read(), BTreeMap::new());
        for (name, outlives_host) in [
            (DiskName::Machine("pc17".into()), true),
            (DiskName::Unknown(MAC), false),
        ] {
            let bound = open();
            bound.read();
            assert!(!bound.has(&[MAC], &name));
            bound.write(one(&name), || outlives_host);
            assert!(bound.has(&[MAC], &name) && bound.disks().contains(&name));
            assert_eq!(open().read(), one(&name));
            bound.write(one(&name), || unreachable!("no news"));
        }
        let file = dir.path().join(FILE);
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(open().read(), BTreeMap::new());
    }

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let bound = BoundAddresses::new(gone.clone());
        let name = DiskName::Machine("pc17".into());
        bound.write(one(&name), || true);
        assert!(!bound.has(&[MAC], &name) && bound.written.lock().failed);
        std::fs::create_dir(&gone).unwrap();
        bound.write(one(&name), || true);
        assert!(bound.has(&[MAC], &name) && !bound.written.lock().failed);
    }
}
