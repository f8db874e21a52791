//! A copy that becomes the golden image by the operator's order, as whoever gave the order sees it.

use std::time::Duration;

use super::content::Content;
use super::{DiskName, Disks, Left, Order};
use crate::control::commit_store::commit_store;
use crate::control::guard::caught;
use crate::store::{Golden, MergedImage, OverlayFiles, OverlayStore};

/// Exports with overlays, by their addresses.
pub(in crate::control) type AllDisks = [(String, std::sync::Arc<Disks>)];

/// How long another export may take to tell what lies on the image: meanwhile the machine whose copy is merged has no disk.
const BOUND_LIMIT: Duration = Duration::from_secs(30);

impl Disks {
    /// Makes a new golden image out of the one of now and a disk, which ends; waits for that. Of the machine that changes the image
    /// itself, it ends that. `all` are the exports of this process, this one among them; `force`: although the machine may be running.
    ///
    /// # Errors
    /// Why there is none; the disk is served on then, as it was.
    pub(in crate::control) fn commit(
        &self,
        name: &DiskName,
        force: bool,
        all: &AllDisks,
    ) -> Result<(), String> {
        if let Some(image) = self.image_below(name) {
            self.check_not_bound(name, &image, all)?;
        }
        let left = self.have(|answer| Order::Leave(name.clone(), force, answer))?;
        let Left::Copy(store, files) = left else {
            return Ok(());
        };
        // Whatever happens here, its machine gets the disk back.
        let merged = caught(|| self.merge(name, &store, &files, all)).flatten();
        let (new, failed) = match merged {
            Ok(new) => (Some(new), Ok(())),
            Err(why) => (None, Err(why)),
        };
        let returned = self.have(|answer| Order::Return(name.clone(), store, new, answer));
        failed.and(returned)
    }

    /// The image that a copy lies on.
    fn image_below(&self, name: &DiskName) -> Option<Golden> {
        let disks = self.shared.disks.lock();
        match &disks.get(name)?.instance.as_ref()?.content {
            Content::Copy(store) => Some(store.golden().clone()),
            Content::Clone(_) | Content::Image(_) => None,
        }
    }

    /// A new image that is ready to be put in its place.
    fn merge(
        &self,
        name: &DiskName,
        store: &OverlayStore,
        files: &OverlayFiles,
        all: &AllDisks,
    ) -> Result<MergedImage, String> {
        // Else it would have what the disk has, if a write-back failed of which nobody knows yet.
        commit_store(store)
            .map_err(|error| format!("what {name} wrote cannot be put on its medium: {error:#}"))?;
        let new = store.merge(files).map_err(|error| error.to_string())?;
        // From the making of the new image on no other one begins; one may have begun before.
        self.check_not_bound(name, store.golden(), all)?;
        Ok(new)
    }

    /// Refuses to replace an image that persistent copies lie on, whichever export they are of, but for the one that is merged.
    fn check_not_bound(&self, name: &DiskName, image: &Golden, all: &AllDisks) -> Result<(), String> {
        let mut bound = Vec::new();
        for (export, disks) in all {
            let but = std::ptr::eq(&raw const **disks, self).then(|| name.clone());
            let names = disks.have_within(BOUND_LIMIT, |answer| Order::Bound(image.clone(), but, answer))?;
            bound.extend(names.iter().map(|name| format!("{name} (e{export})")));
        }
        match bound.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{}: the persistent copies of {} lie on this image, which would be replaced, and could not be opened after the next \
                 start; reset them first",
                image.path().display(),
                bound.join(", ")
            )),
        }
    }
}
