//! A disk that leaves service while it is merged into a new golden image.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, bail};

use super::super::content::Content;
use super::super::naming::DiskName;
use super::super::{Instance, Kept, Left, Replacement};
use super::copies::Copies;
use super::{DRAIN_LIMIT, Maker};
use crate::config::Overlay;
use crate::store::{Golden, OverlayStore, remove_unfinished_merge};

/// Why a disk is not served meanwhile.
pub(in super::super) const MERGING: &str = "it is being merged into a new golden image";

impl Maker {
    /// Whose persistent copies lie on this image, and could not be opened if another took its place.
    pub(super) fn bound_to(&self, image: &Golden, but: Option<&DiskName>) -> Result<Vec<String>> {
        let Copies::Files { .. } = self.copies else {
            return Ok(Vec::new());
        };
        let mut disks: BTreeMap<DiskName, Option<Arc<Instance>>> = {
            let disks = self.shared.disks.lock();
            let disks = disks.iter();
            disks
                .map(|(name, disk)| (name.clone(), disk.instance.clone()))
                .collect()
        };
        // Also those that were never opened, and those that are missed.
        let others = self.copies.names()?.into_iter();
        for name in others.chain(self.start.listed.all()?) {
            disks.entry(name).or_default();
        }
        let mut bound = Vec::new();
        for (name, instance) in disks.into_iter().filter(|(name, _)| Some(name) != but) {
            let is_bound = match instance {
                Some(instance) => {
                    let content = &instance.content;
                    content.kind() == Overlay::Persistent && content.golden().is_same_file(image)
                }
                None => self.may_lie_on(&name, image)?,
            };
            if is_bound {
                bound.push(name.to_string());
            }
        }
        Ok(bound)
    }

    /// The same of a copy that nobody has open, on this export's part of the image.
    fn may_lie_on(&self, name: &DiskName, image: &Golden) -> Result<bool> {
        let files = self.copies.files(name);
        let found = files
            .are_persistent_on(image, self.start.settings.config.offset)
            .with_context(|| format!("{}: the copy of {name}: looking what it lies on", self.address()))?;
        // One that is missed is kept until its files are back.
        Ok(found.unwrap_or_else(|| self.start.listed.has(name)))
    }

    /// Takes a disk out of service for its merge. Its machine hears nothing until that is over.
    ///
    /// # Errors
    /// Whatever is known to keep it from being merged: it is served on.
    pub(super) fn leave(&mut self, name: &DiskName, force: bool) -> Result<Left> {
        let address = self.address();
        if let Some(other) = self.leaving.iter().next() {
            bail!("{address}: {MERGING}: the copy of {other}; wait until that has ended");
        }
        if self.writer.as_ref() == Some(name) {
            self.check_is_off(name, force)?;
            return self.end_writing(name, DRAIN_LIMIT).map(|()| Left::Image);
        }
        let instance = self.instance(name);
        let store = match instance.as_ref().map(|instance| &instance.content) {
            Some(Content::Copy(store)) => store,
            Some(Content::Clone(_)) => bail!(
                "{address}: the copy of {name} is a clone in Ceph: shut it down and copy the clone to an image of its own (`rbd cp`)"
            ),
            Some(Content::Image(_)) | None => bail!("{address}: {name} has no copy that is open"),
        };
        self.check_is_off(name, force)?;
        store
            .check_mergeable()
            .with_context(|| format!("{address}: the copy of {name}"))?;
        // Nobody else is to have it when it is taken out.
        drop(instance);
        let content = match self.take_out(name, DRAIN_LIMIT) {
            Ok(content) => content,
            Err(error) => {
                self.enter(name);
                return Err(error);
            }
        };
        let Some(content) = content else {
            bail!("{address}: {name} has no copy that is open");
        };
        let kept = Kept {
            kind: content.kind(),
            pinned: content.is_pinned(),
        };
        let Content::Copy(store) = content else {
            bail!("{address}: {name} has no copy that is open");
        };
        self.leaving.insert(name.clone());
        if let Some(disk) = self.shared.disks.lock().get_mut(name) {
            disk.problem = Some(MERGING.into());
            disk.kept = kept;
        }
        Ok(Left::Copy(store, self.copies.files(name)))
    }

    /// The merge of a disk is over. Without a new image it is served again, as it was and on the image that it lies on.
    ///
    /// # Errors
    /// When the new image is not put in the old one's place; the disk is served again then, too.
    pub(super) fn come_back(
        &mut self,
        name: &DiskName,
        store: Arc<OverlayStore>,
        new: Option<Replacement>,
    ) -> Result<()> {
        self.leaving.remove(name);
        let Some(new) = new else {
            return self.serve_again(name, store);
        };
        if let Err(error) = self.put_in_place(new, &store) {
            return self.serve_again(name, store).and(Err(error));
        }
        drop(store);
        tracing::info!(
            "{}: what {name} had written is in {} from here on",
            self.address(),
            self.start.settings.config.path.display()
        );
        self.merged.insert(name.clone());
        if let Err(error) = self.discard_merged(name) {
            // It is there yet, and is not to be taken for none.
            self.failed(name, &error);
            return Err(error);
        }
        self.forget_disk(name);
        Ok(())
    }

    /// Takes a copy away that is in the image by now. Until that is done its machine gets no other one.
    ///
    /// # Errors
    /// When it stays.
    pub(super) fn discard_merged(&mut self, name: &DiskName) -> Result<()> {
        if !self.merged.contains(name) {
            return Ok(());
        }
        self.discard(name, DRAIN_LIMIT).with_context(|| {
            let address = self.address();
            format!(
                "{address}: the new image is in place at {}, with all that {name} wrote, and its copy, which is of no use any more, cannot be \
                 taken away; when that can be done `xblade overlay discard e{address} {name}` does it, or {name} when it asks for a disk",
                self.start.settings.config.path.display()
            )
        })
    }

    fn put_in_place(&self, Replacement { new, looked_at }: Replacement, store: &OverlayStore) -> Result<()> {
        let overlay_exports = self.start.overlay_exports.on_image(store.golden());
        if overlay_exports.map_err(|error| anyhow!(error))? != looked_at {
            bail!(
                "{}: exports with overlays on {} were opened or closed, or the configuration was changed, while the new image was made: \
                 try again",
                self.address(),
                store.golden().path().display()
            );
        }
        Ok(new.put_in_place()?)
    }

    fn serve_again(&self, name: &DiskName, store: Arc<OverlayStore>) -> Result<()> {
        // A reload may have come meanwhile.
        store.set_limit(self.start.settings.config.overlay_limit.unwrap_or(0));
        let since = self.shared.disks.lock().get(name).map(|disk| disk.since);
        self.serve(name, Content::Copy(store), since.unwrap_or_else(SystemTime::now))
    }

    /// A copy that begins now, or is opened, must not lie on an image that is about to be replaced, if it could not be opened again then.
    /// `begins`: it is not there yet.
    pub(super) fn check_image_stays(&self, name: &DiskName, image: &Golden, begins: bool) -> Result<()> {
        let (address, path) = (self.address(), image.path().display());
        if image.is_being_replaced() {
            bail!(
                "{address}: {name} gets its persistent copy when the commit has ended that is making a new image of {path}"
            );
        }
        // In this order: a commit that has ended by now has put its image there, and one that begins from here on finds the copy.
        if begins && !image.is_current() {
            bail!(
                "{address}: {name} gets its persistent copy on the new image that was put at {path}, when it asks again"
            );
        }
        Ok(())
    }
}

/// A commit of a process that was killed may have left a file as large as the image.
pub(super) fn clean_up(address: &str, path: &std::path::Path) {
    match remove_unfinished_merge(path) {
        Ok(None) => {}
        Ok(Some(left)) => tracing::warn!(
            "{address}: {}: removed: a commit that did not end had left it",
            left.display()
        ),
        Err(error) => tracing::warn!(
            "{address}: {}.merging: left by a commit that did not end, and cannot be removed: {error}",
            path.display()
        ),
    }
}
