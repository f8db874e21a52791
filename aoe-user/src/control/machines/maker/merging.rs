//! A disk that leaves service while it is merged into a new golden image.

use anyhow::{Result, bail};

use super::super::naming::DiskName;
use super::super::{Disk, Left};
use super::Maker;

/// Why a disk is not served meanwhile.
pub(super) const MERGING: &str = "it is being merged into a new golden image";

impl Maker {
    /// Takes a disk out of service for its merge. Its machine hears nothing until that is over.
    pub(super) fn leave(&mut self, name: &DiskName) -> Result<Left> {
        let address = self.address();
        let Some(instance) = self.instance(name) else {
            bail!("{address}: {name} has no disk that is open");
        };
        drop(instance);
        let others = self.shared.disks.lock();
        let bound = |(other, disk): (&DiskName, &Disk)| {
            let store = &disk.instance.as_ref()?.store;
            let is_bound = other != name && store.is_persistent() && store.golden().is_current();
            is_bound.then(|| other.to_string())
        };
        let bound: Vec<String> = others.iter().filter_map(bound).collect();
        drop(others);
        if !bound.is_empty() {
            bail!(
                "{address}: the persistent copies of {} lie on the image that would be replaced, and could not be opened after the                  next start; reset them first",
                bound.join(", ")
            );
        }
        let Some(store) = self.take_out(name)? else {
            bail!("{address}: {name} has no disk that is open");
        };
        self.leaving.insert(name.clone());
        if let Some(disk) = self.shared.disks.lock().get_mut(name) {
            disk.problem = Some(MERGING.into());
        }
        Ok(Left {
            store,
            files: self.files(name),
        })
    }

    /// The merge of a disk is over.
    pub(super) fn come_back(&mut self, name: &DiskName, merged: bool) -> Result<()> {
        self.leaving.remove(name);
        if !merged {
            return self.open(name);
        }
        tracing::info!(
            "{}: what {name} had written is in {} from here on",
            self.address(),
            self.start.settings.config.path.display()
        );
        self.shared.disks.lock().remove(name);
        self.discard(name)
    }
}
