//! What the libraries answer when something is wrong.

use std::ffi::{CString, c_int};

/// A negative result of either library, without its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> std::io::Error {
        std::io::Error::from_raw_os_error(errno.0)
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from(*self).fmt(f)
    }
}

/// Why the libraries cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The dynamic linker does not find it, or something that it needs.
    #[error("{library} cannot be loaded ({reason}); on Debian and Ubuntu install the package {package}")]
    Missing {
        /// Its soname.
        library: &'static str,
        /// What the dynamic linker says.
        reason: String,
        /// The package that brings it.
        package: &'static str,
    },
    /// It is too old to have a function.
    #[error("{library} has no {function}: it is older than Ceph 16 (pacific); install a newer one")]
    TooOld {
        /// Its soname.
        library: &'static str,
        /// What was looked for.
        function: String,
    },
}

/// A result of either library.
pub(super) fn check(result: c_int) -> Result<c_int, Errno> {
    if result < 0 {
        return Err(Errno(result.saturating_neg()));
    }
    Ok(result)
}

/// A Rust text as C takes it; one with a NUL inside is none of Ceph's names.
pub(super) fn c(text: &str) -> Result<CString, Errno> {
    CString::new(text).map_err(|_| Errno(libc::EINVAL))
}
