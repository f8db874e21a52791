//! What can be told of a golden image that is a block device, which has no time of change: its size, and how much this host has written to
//! it. What another host writes to a shared disk is not seen, nor what is written to the whole disk of a partition.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use engine::SECTOR_BYTES;

use crate::backing::device_bytes;

/// A block device at one time. What cannot be found out is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceState {
    bytes: Option<u64>,
    /// Sectors that were written or discarded since the host was started, or since there is the device.
    pub(super) written: Option<u64>,
}

impl DeviceState {
    /// `None`: it is no block device. Asks sysfs, and waits for no disk. `served`: the first sector served of it and how many; 0: all.
    pub(super) fn of(meta: &Metadata, served: (u64, u64)) -> Option<DeviceState> {
        if !meta.file_type().is_block_device() {
            return None;
        }
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let bytes = device_bytes(meta.rdev()).ok();
        let stat = || std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
        Some(DeviceState {
            bytes,
            // It is counted for all of it, and who writes to another part changes no image.
            written: is_whole(served, bytes)
                .then(stat)
                .and_then(Result::ok)
                .and_then(|stat| written(&stat)),
        })
    }

    /// What has changed since it was like this.
    pub(super) fn changes(self, now: DeviceState) -> Option<String> {
        let differ =
            |before: Option<u64>, now: Option<u64>| before.zip(now).filter(|(before, now)| before != now);
        if let Some((before, now)) = differ(self.bytes, now.bytes) {
            return Some(format!("it had {before} bytes and has {now}"));
        }
        let (before, now) = differ(self.written, now.written)?;
        Some(format!("{} sectors were written to it", now.wrapping_sub(before)))
    }
}

/// Whether these sectors are all of a device.
fn is_whole((offset, length): (u64, u64), bytes: Option<u64>) -> bool {
    let has_no_more = || bytes.is_some_and(|bytes| length >= bytes / SECTOR_BYTES);
    offset == 0 && (length == 0 || has_no_more())
}

/// Sectors written, and those discarded where the kernel counts them, by a device's `stat`.
fn written(stat: &str) -> Option<u64> {
    let number = |at: usize| stat.split_whitespace().nth(at)?.parse::<u64>().ok();
    Some(number(6)?.wrapping_add(number(13).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_and_what_is_discarded_is_counted_and_nothing_else() {
        // Of Linux 6.1: reads, merged, sectors, time; writes; in flight, time, time; discards; flushes.
        let stat = "  10 1 80 3 20 2 160 7 0 9 9 4 0 32 1 5 6\n";
        assert_eq!(written(stat), Some(192));
        assert_eq!(
            written("10 1 80 3 20 2 160 7 0 9 9"),
            Some(160),
            "of an older one"
        );
        assert_eq!(written("nonsense"), None);
        let state = |bytes, written| DeviceState {
            bytes: Some(bytes),
            written,
        };
        assert_eq!(state(8, Some(1)).changes(state(8, Some(1))), None);
        assert!(is_whole((0, 0), None) && is_whole((0, 8), Some(8 * SECTOR_BYTES)));
        for part in [(0, 7), (1, 0), (1, 7)] {
            assert!(
                !is_whole(part, Some(8 * SECTOR_BYTES)),
                "others may write beside it"
            );
        }
        assert_eq!(state(8, None).changes(state(8, Some(1))), None, "it is not known");
        assert!(
            state(8, Some(1))
                .changes(state(9, Some(1)))
                .unwrap()
                .contains("8 bytes")
        );
        assert!(
            state(8, Some(1))
                .changes(state(8, Some(4)))
                .unwrap()
                .contains("3 sectors")
        );
    }
}
