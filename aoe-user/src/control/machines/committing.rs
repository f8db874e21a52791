//! A copy that becomes the golden image by the operator's order, as whoever gave the order sees it.

use std::time::Duration;

use super::content::Content;
use super::{DiskName, Disks, ExportOnImage, Left, Order, Replacement};
use crate::control::commit_store::commit_store;
use crate::control::guard::caught;
use crate::store::{Golden, OverlayFiles, OverlayStore};

/// How long another export may take to tell what lies on the image: meanwhile the machine whose copy is merged has no disk.
const BOUND_LIMIT: Duration = Duration::from_secs(30);

impl Disks {
    /// Makes a new golden image out of the one of now and a disk, which ends; waits for that. Of the machine that changes the image
    /// itself, it ends that. `force`: although the machine may be running.
    ///
    /// # Errors
    /// Why there is none; the disk is served on then, as it was.
    pub(in crate::control) fn commit(&self, name: &DiskName, force: bool) -> Result<(), String> {
        if let Some(image) = self.image_below(name) {
            self.check_not_bound(name, &image)?;
        }
        let left = self.have(|answer| Order::Leave(name.clone(), force, answer))?;
        let Left::Copy(store, files) = left else {
            return Ok(());
        };
        // Whatever happens here, its machine gets the disk back.
        let merged = caught(|| self.merge(name, &store, &files)).flatten();
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
    ) -> Result<Replacement, String> {
        // Else it would have what the disk has, if a write-back failed of which nobody knows yet.
        commit_store(store)
            .map_err(|error| format!("what {name} wrote cannot be put on its medium: {error:#}"))?;
        let new = store.merge(files).map_err(|error| error.to_string())?;
        // From the making of the new image on no other one begins; one may have begun before, and exports come and go.
        let looked_at = self.check_not_bound(name, store.golden())?;
        Ok(Replacement { new, looked_at })
    }

    /// Refuses to replace an image that persistent copies lie on, whichever export they are of, but for the one that is merged. Gives the
    /// exports that were asked.
    fn check_not_bound(&self, name: &DiskName, image: &Golden) -> Result<Vec<ExportOnImage>, String> {
        let overlay_exports = self.overlay_exports.on_image(image)?;
        let mut bound = Vec::new();
        for ExportOnImage { address, disks, .. } in &overlay_exports {
            let Some(disks) = disks else {
                return Err(format!(
                    "{}: e{address} has overlays on this image, which would be replaced, and is not open: whether persistent copies of it \
                     lie on the image cannot be told; have it opened (`xblade status` says what keeps it shut), or take it out of the \
                     configuration and give its copies up",
                    image.path().display()
                ));
            };
            let but = std::ptr::eq(&raw const **disks, self).then(|| name.clone());
            let names = disks.have_within(BOUND_LIMIT, |answer| Order::Bound(image.clone(), but, answer))?;
            bound.extend(names.iter().map(|name| format!("{name} (e{address})")));
        }
        match bound.is_empty() {
            true => Ok(overlay_exports),
            false => Err(format!(
                "{}: the persistent copies of {} lie on this image, or are missing and may, which would be replaced, and could not be opened \
                 after the next start; reset them first",
                image.path().display(),
                bound.join(", ")
            )),
        }
    }
}
