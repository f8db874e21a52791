//! Where xblade keeps what it knows for one boot of the host: in memory, where no thread ever waits for a disk.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// File systems in memory, as statfs(2) names them: tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// A directory of this user's own on a tmpfs, made where there is none: below the unit's runtime directory, `/run/xblade` or `/dev/shm`.
/// It ends with the host's boot, or with a container's.
///
/// # Errors
/// Where none of them can be used; it says why.
pub(super) fn memory_directory() -> io::Result<PathBuf> {
    first_of(candidates(), own)
}

/// Whether there is one, or can be made.
///
/// # Errors
/// Where none of them can be used; it says why.
pub fn look_for_memory() -> io::Result<PathBuf> {
    first_of(candidates(), could_be_own)
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let of_unit = std::env::var_os("RUNTIME_DIRECTORY").unwrap_or_default();
    let of_unit = std::env::split_paths(&of_unit).next();
    let user = rustix::process::geteuid().as_raw();
    of_unit
        .into_iter()
        .chain([PathBuf::from("/run/xblade")])
        .map(|parent| parent.join("copies"))
        .chain([PathBuf::from(format!("/dev/shm/xblade-{user}"))])
}

fn first_of(
    candidates: impl IntoIterator<Item = PathBuf>,
    look: fn(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let mut reasons = Vec::new();
    for path in candidates {
        match look(&path) {
            Ok(()) => return Ok(path),
            Err(error) => reasons.push(format!("{}: {error}", path.display())),
        }
    }
    Err(io::Error::other(reasons.join("; ")))
}

/// Makes it, if it is not there, and looks whether nobody else can write to it.
fn own(path: &Path) -> io::Result<()> {
    check_parent(path)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    check_own(path)
}

/// Looks whether [`own`] would do, and makes nothing.
fn could_be_own(path: &Path) -> io::Result<()> {
    check_parent(path)?;
    if path.symlink_metadata().is_ok() {
        return check_own(path);
    }
    let parent = path.parent().unwrap_or(path);
    Ok(accessat(
        CWD,
        parent,
        Access::WRITE_OK | Access::EXEC_OK,
        AtFlags::EACCESS,
    )?)
}

fn check_parent(path: &Path) -> io::Result<()> {
    match is_in_memory(&File::open(path.parent().unwrap_or(path))?) {
        true => Ok(()),
        false => Err(io::Error::other("not on a tmpfs")),
    }
}

fn check_own(path: &Path) -> io::Result<()> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = File::options().read(true).custom_flags(flags).open(path)?;
    let meta = directory.metadata()?;
    if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(io::Error::other(
            "belongs to somebody else, or others may look into it",
        ));
    }
    match is_in_memory(&directory) {
        true => Ok(()),
        false => Err(io::Error::other("not on a tmpfs")),
    }
}

/// Whether what is at a path lies in memory: on a tmpfs. What cannot be asked does not.
pub fn lies_in_memory(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| is_in_memory(&file))
}

/// Whether a file or directory lies in memory. What cannot be asked does not.
pub(crate) fn is_in_memory(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| IN_MEMORY.contains(&stat.f_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_that_is_in_memory_and_nobody_else_s() {
        let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
            return crate::skip("no /dev/shm");
        };
        let (link, open) = (memory.path().join("link"), memory.path().join("open"));
        std::os::unix::fs::symlink("/dev/shm", &link).unwrap();
        DirBuilder::new().mode(0o777).create(&open).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&open, mode).unwrap();
        let own = memory.path().join("own");
        let bad = [PathBuf::from("/proc/self/none"), link, open];
        let all = || bad.iter().chain([&own]).cloned();
        assert_eq!(first_of(all(), could_be_own).unwrap(), own);
        assert!(!own.exists(), "nothing is made by a look");
        let found = first_of(all(), super::own).unwrap();
        assert_eq!(found, own);
        assert_eq!(std::fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
        assert_eq!(first_of([own.clone()], super::own).unwrap(), own, "again");
        assert_eq!(first_of([own.clone()], could_be_own).unwrap(), own, "it is there");
        let error = first_of(bad.clone(), could_be_own).unwrap_err().to_string();
        assert_eq!(first_of(bad, super::own).unwrap_err().to_string(), error);
        assert!(
            error.contains("not on a tmpfs") && error.contains("open: belongs"),
            "{error}"
        );
    }
}
