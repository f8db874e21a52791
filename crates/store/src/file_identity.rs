//! Which file it is that a path leads to.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A file of this host, whatever it is called. Device nodes are files of their own here, not what they stand for: one that was made anew
/// after its disk was plugged in again is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// The file system.
    pub(crate) device: u64,
    /// The file in it.
    pub(crate) inode: u64,
}

impl FileIdentity {
    /// The file that a path leads to.
    ///
    /// # Errors
    /// When it leads to none, or the system does not tell.
    pub fn at(path: &Path) -> io::Result<FileIdentity> {
        fs::metadata(path).map(|meta| FileIdentity::of(&meta))
    }

    /// The file that this is known of.
    pub(crate) fn of(meta: &Metadata) -> FileIdentity {
        FileIdentity {
            device: meta.dev(),
            inode: meta.ino(),
        }
    }

    /// Whether another file lies at the path. One that is gone has no other in its place: its data lives as long as it is open.
    pub fn is_replaced_at(self, path: &Path) -> bool {
        FileIdentity::at(path).is_ok_and(|now| now != self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_by_every_name_until_another_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let [image, link, symlink, other] =
            ["image", "link", "symlink", "other"].map(|name| dir.path().join(name));
        fs::write(&image, "a").unwrap();
        let own = FileIdentity::at(&image).unwrap();
        fs::hard_link(&image, &link).unwrap();
        std::os::unix::fs::symlink(&image, &symlink).unwrap();
        assert!(
            [&image, &link, &symlink]
                .iter()
                .all(|path| !own.is_replaced_at(path))
        );
        fs::remove_file(&image).unwrap();
        assert!(!own.is_replaced_at(&image), "gone, and no other is there");
        fs::write(&other, "b").unwrap();
        fs::rename(&other, &image).unwrap();
        assert!(own.is_replaced_at(&image) && own.is_replaced_at(&symlink) && !own.is_replaced_at(&link));
    }
}
