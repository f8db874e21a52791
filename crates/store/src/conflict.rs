//! Foretells what opening would refuse: somebody else uses the bytes, or they are another format's. Takes no lock.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::format;
use crate::options::StoreError;
use crate::users;

/// Who keeps these bytes of a file or block device from being exported: a mount, a loop device, swap, device mapper or RAID, also
/// on a file below the device. Locks of processes are not looked for: one may be held by the very daemon whose configuration is
/// checked.
///
/// `bytes` up to `u64::MAX` means to the end. Nothing is found of what cannot be looked at.
pub fn conflict(path: &Path, bytes: Range<u64>, writes: bool) -> Option<StoreError> {
    let meta = fs::metadata(path).ok()?;
    let device = meta.file_type().is_block_device().then(|| meta.rdev());
    let holder = users::HERE
        .other_user(&meta, &bytes, writes, None)
        .or_else(|| users::HERE.kernel_user(device.filter(|_| writes)?))
        .or_else(|| user_below(device?, bytes, writes))?;
    Some(StoreError::InUse {
        path: path.to_owned(),
        holder,
    })
}

/// An image of another format at the path. Nothing is found of what cannot be read.
pub fn foreign(path: &Path) -> Option<StoreError> {
    // Opening anything else may wait.
    let kind = fs::metadata(path).ok()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return None;
    }
    let mut file = File::open(path).ok()?;
    let bytes = file.seek(SeekFrom::End(0)).ok()?;
    let foreign = format::recognise(&file, bytes).ok()??;
    Some(StoreError::Foreign {
        path: path.to_owned(),
        format: foreign.name,
        convert: foreign.convert(path),
    })
}

/// Who uses a file that a block device is made of.
fn user_below(device: u64, bytes: Range<u64>, writes: bool) -> Option<String> {
    users::HERE.files_below(device, bytes).iter().find_map(|below| {
        let meta = fs::metadata(&below.path).ok()?;
        users::HERE.other_user_below(below, &meta, writes)
    })
}
