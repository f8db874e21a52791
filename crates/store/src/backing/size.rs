//! How long a backing object is: asked without waiting for its disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use engine::SECTOR_BYTES;
use rustix::fs::{AtFlags, SeekFrom, StatxFlags, statx};

/// How to find out.
#[derive(Debug)]
pub(super) enum Size {
    /// From the inode.
    File,
    /// From sysfs (`size`, in sectors of 512 bytes). To seek to a device's end takes its lock, which a discard holds for as long
    /// as the disk takes. `None` where there is no sysfs.
    Device(Option<File>),
}

impl Size {
    /// For `file`, which is a block device or is not.
    pub(super) fn of(file: &File, device: bool) -> Size {
        match device {
            false => Size::File,
            true => Size::Device(file.metadata().ok().and_then(|meta| open_size(meta.rdev()).ok())),
        }
    }

    /// Bytes as this host knows them, without asking a server or waiting for a disk.
    pub(super) fn known(&self, file: &File) -> io::Result<u64> {
        match self {
            Size::File => file_bytes(file),
            Size::Device(Some(size)) => {
                let mut text = SizeText::default();
                match size.read_at(&mut text, 0) {
                    Ok(len) => bytes_of(&text[..len]),
                    // The device is gone, and its entry with it.
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(0),
                    Err(error) => Err(error),
                }
            }
            Size::Device(None) => self.ask(file),
        }
    }

    /// Bytes now; may wait.
    pub(super) fn ask(&self, file: &File) -> io::Result<u64> {
        match self {
            Size::File => stat(file, AtFlags::empty()),
            // statx says 0 for devices. The file's position is used by nobody.
            Size::Device(_) => Ok(rustix::fs::seek(file, SeekFrom::End(0))?),
        }
    }
}

/// Bytes of the block device with this number, as sysfs tells them.
///
/// # Errors
/// When there is no such device, or no sysfs.
pub fn device_bytes(number: u64) -> io::Result<u64> {
    let mut text = SizeText::default();
    let len = open_size(number)?.read_at(&mut text, 0)?;
    bytes_of(&text[..len])
}

/// What sysfs says of a device's size, and room to spare.
type SizeText = [u8; 24];

fn open_size(device: u64) -> io::Result<File> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    File::open(format!("/sys/dev/block/{major}:{minor}/size"))
}

/// Sysfs counts in units of 512 bytes, whatever the device's block is.
fn bytes_of(text: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let sectors: u64 = text.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(sectors.saturating_mul(SECTOR_BYTES))
}

/// Bytes of a file as this host knows them, without waiting for its disk.
///
/// # Errors
/// Of statx.
pub(crate) fn file_bytes(file: &File) -> io::Result<u64> {
    stat(file, AtFlags::STATX_DONT_SYNC)
}

/// Asks for the size and no more. Who reads a file's times (fstat does) makes Linux 6.13 and later change them with
/// the next write, and not only with the first one in a tick: each write would then be one of the inode, too, and
/// none could be started without waiting.
fn stat(file: &File, flags: AtFlags) -> io::Result<u64> {
    Ok(statx(file, "", AtFlags::EMPTY_PATH | flags, StatxFlags::SIZE)?.stx_size)
}
