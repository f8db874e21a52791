//! A disk that leaves service while it is merged into a new golden image.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::super::content::Content;
use super::super::naming::DiskName;
use super::super::{Instance, Left};
use super::Maker;
use crate::config::Overlay;

/// Why a disk is not served meanwhile.
pub(super) const MERGING: &str = "it is being merged into a new golden image";

impl Maker {
    /// Takes a disk out of service for its merge. Its machine hears nothing until that is over.
    pub(super) fn leave(&mut self, name: &DiskName) -> Result<Left> {
        let address = self.address();
        if self.writer.as_ref() == Some(name) {
            return self.end_writing(name).map(|()| Left::Image);
        }
        let instance = self.instance(name);
        if instance
            .as_ref()
            .is_some_and(|instance| matches!(instance.content, Content::Clone(_)))
        {
            bail!(
                "{address}: the copy of {name} is a clone in Ceph: shut it down and copy the clone to an image of its own (`rbd cp`)"
            );
        }
        if !instance.is_some_and(|instance| matches!(instance.content, Content::Copy(_))) {
            bail!("{address}: {name} has no copy that is open");
        }
        let bound = |(other, instance): (DiskName, Option<Arc<Instance>>)| {
            let content = &instance?.content;
            let is_bound = content.kind() == Overlay::Persistent && content.golden().is_current();
            is_bound.then(|| other.to_string())
        };
        let bound: Vec<String> = self.others(name).into_iter().filter_map(bound).collect();
        if !bound.is_empty() {
            bail!(
                "{address}: the persistent copies of {} lie on the image that would be replaced, and could not be opened after the \
                 next start; reset them first",
                bound.join(", ")
            );
        }
        let Some(Content::Copy(store)) = self.take_out(name)? else {
            bail!("{address}: {name} has no copy that is open");
        };
        self.leaving.insert(name.clone());
        if let Some(disk) = self.shared.disks.lock().get_mut(name) {
            disk.problem = Some(MERGING.into());
        }
        Ok(Left::Copy(store, self.copies.files(name)))
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
        self.forget_disk(name);
        self.discard(name)
    }
}
