//! Whether the object under a store is still what its path leads to, and as long as what is served.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, statx};

/// Which file or block device: by its number where it is a device, whose node may be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackingFileId {
    device: (u32, u32),
    inode: u64,
}

/// What lies at the path of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtPath {
    /// The file, or that cannot be found out.
    Same,
    /// Another one.
    Other,
    /// Nothing.
    Nothing,
}

impl BackingFileId {
    /// Of an open file.
    ///
    /// # Errors
    /// Of statx.
    pub(crate) fn of(file: &File) -> io::Result<BackingFileId> {
        Ok(statx(file, "", AtFlags::EMPTY_PATH, WANTED)?.into())
    }

    /// Of what a path leads to. May wait for a disk.
    ///
    /// # Errors
    /// Of statx.
    pub(crate) fn at(path: &Path) -> io::Result<BackingFileId> {
        Ok(statx(CWD, path, AtFlags::empty(), WANTED)?.into())
    }

    /// What lies at `path`, where this file did. May wait for a disk.
    pub(crate) fn look(&self, path: &Path) -> AtPath {
        match BackingFileId::at(path) {
            Ok(now) if now == *self => AtPath::Same,
            Ok(_) => AtPath::Other,
            Err(error) if is_nothing(&error) => AtPath::Nothing,
            // No right to look, or a disk that fails: that says nothing about the file.
            Err(_) => AtPath::Same,
        }
    }
}

/// No times: asking for them slows the writes that follow, see [`super::size`].
const WANTED: StatxFlags = StatxFlags::TYPE.union(StatxFlags::INO);

fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

impl From<Statx> for BackingFileId {
    fn from(stat: Statx) -> BackingFileId {
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::BlockDevice => BackingFileId {
                device: (stat.stx_rdev_major, stat.stx_rdev_minor),
                inode: 0,
            },
            _ => BackingFileId {
                device: (stat.stx_dev_major, stat.stx_dev_minor),
                inode: stat.stx_ino,
            },
        }
    }
}

/// What is wrong with a backing object that is served all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Degradation {
    /// A device without a size: it was pulled out.
    Unplugged,
    /// It has so many bytes, and more are served.
    Short(u64),
    /// Nothing lies at its path.
    Deleted,
    /// Another file lies there.
    Replaced,
}

impl Degradation {
    /// Whether its path does not lead to it.
    pub(super) fn is_of_path(self) -> bool {
        matches!(self, Degradation::Deleted | Degradation::Replaced)
    }
}

impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Degradation::Unplugged => f.write_str("the device is gone"),
            Degradation::Short(bytes) => write!(
                f,
                "is shorter than the export, {bytes} bytes: what lies beyond cannot be read"
            ),
            Degradation::Deleted => f.write_str(
                "was deleted or renamed; it is still served, until xblade ends: put it back, or copy what it holds",
            ),
            Degradation::Replaced => f.write_str(
                "was replaced; the old one is still served, until a reload (`xblade reload`) or a restart opens the new one",
            ),
        }
    }
}
