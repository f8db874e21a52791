//! The kernel's version, and what begins with which.

use rustix::system::uname;

/// A kernel's version: major and minor number.
pub(crate) type Version = (u32, u32);

/// The oldest kernel: the first that loads an XDP program for frames of several buffers.
pub(crate) const KERNEL_MIN: Version = (5, 18);
/// The oldest kernel whose AF_XDP takes frames of several descriptors.
pub(crate) const KERNEL_JUMBO: Version = (6, 6);

/// The release as uname(2) tells it.
pub(crate) fn release() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// `6.1.0-18-amd64` is (6, 1).
pub(crate) fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
