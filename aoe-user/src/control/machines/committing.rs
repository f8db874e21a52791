//! A copy that becomes the golden image by the operator's order, as whoever gave the order sees it.

use super::{DiskName, Disks, Left, Order};
use crate::control::commit_store::commit_store;
use crate::control::guard::caught;
use crate::store::{MergedImage, OverlayFiles, OverlayStore};

impl Disks {
    /// Makes a new golden image out of the one of now and a disk, which ends; waits for that. Of the machine that changes the image
    /// itself, it ends that.
    ///
    /// # Errors
    /// Why there is none; the disk is served on then, as it was.
    pub(in crate::control) fn commit(&self, name: &DiskName) -> Result<(), String> {
        let left = self.have(|answer| Order::Leave(name.clone(), answer))?;
        let Left::Copy(store, files) = left else {
            return Ok(());
        };
        // Whatever happens here, its machine gets the disk back.
        let merged = caught(|| Disks::merge(name, &store, &files)).flatten();
        let (new, failed) = match merged {
            Ok(new) => (Some(new), Ok(())),
            Err(why) => (None, Err(why)),
        };
        let returned = self.have(|answer| Order::Return(name.clone(), store, new, answer));
        failed.and(returned)
    }

    /// A new image that is ready to be put in its place.
    fn merge(
        name: &DiskName,
        store: &OverlayStore,
        files: &OverlayFiles,
    ) -> Result<MergedImage, String> {
        // Else it would have what the disk has, if a write-back failed of which nobody knows yet.
        commit_store(store)
            .map_err(|error| format!("what {name} wrote cannot be put on its medium: {error:#}"))?;
        store.merge(files).map_err(|error| error.to_string())
    }
}
