//! What kind of file system a file lies on, where that decides how it may be used.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;

use rustix::fs::OFlags;

/// How fstatfs(2) names tmpfs, and what holds the nodes of devices (devtmpfs).
pub(crate) const TMPFS: i64 = 0x0102_1994;
pub(crate) const RAMFS: i64 = 0x8584_58f6;
pub(crate) const HUGETLBFS: i64 = 0x9584_58f6;
const EXT4: i64 = 0xef53;
const XFS: i64 = 0x5846_5342;
const BTRFS: i64 = 0x9123_683e;

/// Whether `file` (of a device: its node) lies on a file system of one of these kinds.
pub(crate) fn is_on(file: &File, kinds: &[i64]) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| kinds.contains(&stat.f_type))
}

/// Whether a write that is not to wait (`RWF_NOWAIT`, or what io_uring tries first) keeps that also where it notes the file's times. ext4
/// waits for its journal then. A device notes the times of its node, by the rules of the file system that has the node, and asks it
/// without such a flag.
pub(crate) fn notes_times_without_waiting(file: &File) -> bool {
    let is_device = file
        .metadata()
        .is_ok_and(|meta| meta.file_type().is_block_device());
    let in_memory = [TMPFS, RAMFS];
    match is_device {
        true => is_on(file, &in_memory),
        false => is_on(file, &in_memory) || is_on(file, &[XFS, BTRFS]),
    }
}

/// Whether a read that is not to wait, as io_uring tries first, does not, with the flags that `file` was opened with. btrfs waits for the file's lock
/// before a direct read (fs/btrfs/direct-io.c, btrfs_direct_read), which fsync(2) has while it waits for the disk. And of a read through the page
/// cache io_uring asks such file systems again in a way that may wait, for where the data lies.
pub(crate) fn reads_without_waiting(file: &File) -> bool {
    let is_device = file
        .metadata()
        .is_ok_and(|meta| meta.file_type().is_block_device());
    is_device || is_on(file, &[TMPFS, RAMFS, EXT4]) || is_direct(file) && is_on(file, &[XFS])
}

/// Whether `file` was opened to go past the page cache.
pub(crate) fn is_direct(file: &File) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::DIRECT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_not_to_wait_is_trusted() {
        let in_memory = tempfile::tempfile_in("/dev/shm").unwrap();
        assert!(is_on(&in_memory, &[TMPFS]));
        assert!(notes_times_without_waiting(&in_memory) && reads_without_waiting(&in_memory));
        let unknown = File::open("/proc/self/status").unwrap();
        assert!(!notes_times_without_waiting(&unknown) && !reads_without_waiting(&unknown));
    }
}
