//! What a golden image is known by after a restart of the host: its size, its time of change and samples of its content.
//!
//! Device and inode numbers do not do: a device may get another number at each boot, and an image that was restored from a backup is the
//! same one. The time alone does not do either: it can be set, and block devices have none. Whoever mounts a file system to write to it
//! changes its first blocks, so these are among the samples.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use xxhash_rust::xxh3::Xxh3;

/// Samples that are spread over the image.
const SPREAD: u64 = 64;
const SAMPLE_BYTES: u64 = 4096;
/// From the beginning: the partition table, or a file system's head.
const HEAD_BYTES: u64 = 128 << 10;
/// Where the first partition begins as a rule.
const FIRST_PARTITION: u64 = 1 << 20;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GoldenFingerprint {
    pub(crate) sectors: u64,
    /// Seconds and nanoseconds; zero for a block device.
    pub modified: (i64, i64),
    pub(crate) samples: u64,
}

impl std::fmt::Display for GoldenFingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let GoldenFingerprint {
            sectors,
            modified: (seconds, nanoseconds),
            samples,
        } = self;
        write!(
            f,
            "{sectors} sectors, changed at @{seconds}.{nanoseconds:09}, content {samples:016x}"
        )
    }
}

/// A digest of samples of `bytes` bytes of `file` from byte `start`.
///
/// # Errors
/// Of the reads.
pub(crate) fn samples(file: &File, start: u64, bytes: u64) -> io::Result<u64> {
    let spread = (0..SPREAD).map(|n| bytes / SPREAD * n / SAMPLE_BYTES * SAMPLE_BYTES);
    let parts = [
        (0, HEAD_BYTES),
        (FIRST_PARTITION, 4 * SAMPLE_BYTES),
        (bytes.saturating_sub(SAMPLE_BYTES), SAMPLE_BYTES),
    ];
    let mut digest = Xxh3::new();
    for (at, length) in parts.into_iter().chain(spread.map(|at| (at, SAMPLE_BYTES))) {
        let length = length.min(bytes.saturating_sub(at));
        let mut sample = vec![0; length as usize];
        file.read_exact_at(&mut sample, start + at)?;
        digest.update(&at.to_le_bytes());
        digest.update(&sample);
    }
    Ok(digest.digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_has_another_digest() {
        let bytes = 3u64 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes + 4096).unwrap();
        let empty = samples(&file, 0, bytes).unwrap();
        for at in [0, 1024, (1 << 20) + 1080, bytes - 1, bytes / 2] {
            file.write_all_at(b"x", at).unwrap();
            assert_ne!(samples(&file, 0, bytes).unwrap(), empty, "byte {at}");
            file.write_all_at(&[0], at).unwrap();
        }
        assert_eq!(samples(&file, 0, bytes).unwrap(), empty);
        // What lies outside is another image's.
        file.write_all_at(b"x", bytes).unwrap();
        assert_eq!(samples(&file, 0, bytes).unwrap(), empty);
        assert_ne!(samples(&file, 4096, bytes).unwrap(), empty);
        assert!(samples(&file, 0, 512).is_ok(), "however small it is");
    }
}
