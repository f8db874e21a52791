//! The kernel's version and what begins with which, and the host's name.

use std::fmt;

use rustix::system::uname;

/// A kernel's version: major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32);

/// The oldest kernel: the first that loads an XDP program for frames of several buffers.
pub(crate) const KERNEL_MIN: Version = Version(5, 18);
/// The oldest kernel that tells what a driver's XDP can do.
pub(crate) const KERNEL_TELLS_XDP: Version = Version(6, 3);
/// The oldest kernel whose AF_XDP takes frames of several descriptors.
pub(crate) const KERNEL_JUMBO: Version = Version(6, 6);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The release as uname(2) tells it.
pub(crate) fn release() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// `6.1.0-18-amd64` is (6, 1).
pub(crate) fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some(Version(
        numbers.next()?.parse().ok()?,
        numbers.next()?.parse().ok()?,
    ))
}

/// The host's name as uname(2) tells it.
pub(crate) fn host_name() -> String {
    uname().nodename().to_string_lossy().into_owned()
}
