//! Foretells what opening would refuse: somebody else uses the bytes. Opens nothing and takes no lock.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::options::StoreError;
use crate::users::{self, disk_of, files_below};

/// Who keeps these bytes of a file or block device from being exported: a mount, a loop device, swap, device mapper or RAID, also
/// on a file below the device. Locks of processes are not looked for: one may be held by the very daemon whose configuration is
/// checked.
///
/// `bytes` up to `u64::MAX` means to the end. Nothing is found of what cannot be looked at.
pub fn conflict(path: &Path, bytes: Range<u64>, writes: bool) -> Option<StoreError> {
    let meta = fs::metadata(path).ok()?;
    let device = meta.file_type().is_block_device().then(|| meta.rdev());
    let holder = users::other_user(&meta, &bytes, writes, None)
        .or_else(|| users::kernel_user(device.filter(|_| writes)?))
        .or_else(|| user_below(device?, bytes, writes))?;
    Some(StoreError::InUse {
        path: path.to_owned(),
        holder,
    })
}

/// Who uses a file that a block device is made of.
fn user_below(device: u64, bytes: Range<u64>, writes: bool) -> Option<String> {
    files_below(device, bytes).iter().find_map(|below| {
        let meta = fs::metadata(&below.path).ok()?;
        users::other_user_below(below, &meta, writes, disk_of(device))
    })
}
