//! Images that are no plain run of sectors: recognised by their first or last bytes, so that nobody is given the container's
//! bytes for a disk, and writes into them.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

/// Whether images in other formats are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageFormat {
    /// What is recognised as another format is refused.
    #[default]
    Detect,
    /// Every byte is the disk's, whatever it looks like.
    Raw,
}

impl ImageFormat {
    /// Every value by its name.
    pub const NAMES: [(&'static str, ImageFormat); 2] =
        [("detect", ImageFormat::Detect), ("raw", ImageFormat::Raw)];
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImageFormat::Detect => "detect",
            ImageFormat::Raw => "raw",
        })
    }
}

/// A format that is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Foreign {
    /// As people call it.
    pub(crate) name: &'static str,
    tool: Tool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    /// `qemu-img convert`, with its name of the format.
    Qemu(&'static str),
    /// A program that writes the content to its standard output.
    Unpack(&'static str),
}

impl Foreign {
    /// The command that makes a raw image of it.
    pub(crate) fn convert(self, path: &Path) -> String {
        let path = path.display();
        match self.tool {
            Tool::Qemu(format) => format!("qemu-img convert -f {format} -O raw '{path}' '{path}.raw'"),
            Tool::Unpack(program) => format!("{program} '{path}' > '{path}.raw'"),
        }
    }
}

/// Bytes at a place by which a format is known.
struct Mark {
    at: At,
    bytes: &'static [u8],
    foreign: Foreign,
}

enum At {
    Start(u64),
    /// Bytes before the end.
    End(u64),
}

const fn mark(at: At, bytes: &'static [u8], name: &'static str, tool: Tool) -> Mark {
    Mark {
        at,
        bytes,
        foreign: Foreign { name, tool },
    }
}

/// Sources: QEMU's block drivers, Microsoft's VHD and VHDX specifications, VMware's Virtual Disk Format, file(1).
const MARKS: &[Mark] = &[
    mark(At::Start(0), b"QFI\xfb\0\0\0\x01", "qcow", Tool::Qemu("qcow")),
    mark(At::Start(0), b"QFI\xfb", "qcow2", Tool::Qemu("qcow2")),
    mark(At::Start(0), b"QED\0", "QED", Tool::Qemu("qed")),
    mark(At::Start(0), b"KDMV", "VMDK", Tool::Qemu("vmdk")),
    mark(At::Start(0), b"COWD", "VMDK", Tool::Qemu("vmdk")),
    mark(At::Start(0), b"# Disk DescriptorFile", "VMDK", Tool::Qemu("vmdk")),
    mark(At::Start(0), b"vhdxfile", "VHDX", Tool::Qemu("vhdx")),
    mark(At::Start(0), b"conectix", "VHD", Tool::Qemu("vpc")),
    // A fixed VHD is a raw image with a footer.
    mark(At::End(512), b"conectix", "VHD", Tool::Qemu("vpc")),
    mark(At::Start(64), b"\x7f\x10\xda\xbe", "VDI", Tool::Qemu("vdi")),
    mark(
        At::Start(0),
        b"WithoutFreeSpace",
        "Parallels",
        Tool::Qemu("parallels"),
    ),
    mark(
        At::Start(0),
        b"WithouFreSpacExt",
        "Parallels",
        Tool::Qemu("parallels"),
    ),
    mark(At::End(512), b"koly\0\0\0\x04", "DMG", Tool::Qemu("dmg")),
    mark(At::Start(0), b"\x1f\x8b\x08", "gzip", Tool::Unpack("gzip -dc")),
    mark(At::Start(0), b"\xfd7zXZ\0", "xz", Tool::Unpack("xz -dc")),
    mark(
        At::Start(0),
        b"\x28\xb5\x2f\xfd",
        "zstd",
        Tool::Unpack("zstd -dc"),
    ),
    mark(At::Start(0), b"\x04\x22\x4d\x18", "lz4", Tool::Unpack("lz4 -dc")),
    mark(At::Start(4), b"1AY&SY", "bzip2", Tool::Unpack("bzip2 -dc")),
    mark(At::Start(0), b"PK\x03\x04", "zip", Tool::Unpack("unzip -p")),
    mark(
        At::Start(0),
        b"7z\xbc\xaf\x27\x1c",
        "7z",
        Tool::Unpack("7z x -so"),
    ),
];

/// The page cache's unit, which the looks are made in.
const PAGE: usize = 4096;

/// The format of `file`, which has `bytes` bytes, where it is none of plain sectors. Leaves no page of it in memory that was not
/// there before: the store decides how pages come in.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn recognise(file: &File, bytes: u64) -> io::Result<Option<Foreign>> {
    // A hint: without it more is read than is looked at.
    let _ = fadvise(file, 0, None, Advice::Random);
    recognise_in(bytes, |start, len| page_at(file, start, len))
}

/// The same of anything that has `bytes` bytes; `read` gives so many from a place on.
///
/// # Errors
/// When it cannot be read.
pub(super) fn recognise_in(
    bytes: u64,
    read: impl Fn(u64, usize) -> io::Result<Box<[u8]>>,
) -> io::Result<Option<Foreign>> {
    let page = |start: u64| read(start, bytes.saturating_sub(start).min(PAGE as u64 + 511) as usize);
    let head = page(0)?;
    let before_end = bytes.saturating_sub(512);
    let tail = page(before_end - before_end % PAGE as u64)?;
    let has = |mark: &Mark| {
        let (page, at) = match mark.at {
            At::Start(at) => (&head, Some(at as usize)),
            At::End(before) => (&tail, tail.len().checked_sub(before as usize)),
        };
        at.and_then(|at| page.get(at..))
            .is_some_and(|rest| rest.starts_with(mark.bytes))
    };
    Ok(MARKS.iter().find(|mark| has(mark)).map(|mark| mark.foreign))
}

/// What the file has from `start` on.
fn page_at(file: &File, start: u64, len: usize) -> io::Result<Box<[u8]>> {
    let mut page = vec![0; len].into_boxed_slice();
    file.read_exact_at(&mut page, start)?;
    let pages = NonZeroU64::new((len as u64).next_multiple_of(PAGE as u64));
    let _ = fadvise(file, start, pages, Advice::DontNeed);
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(content: &[u8]) -> Option<Foreign> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        recognise(&file, content.len() as u64).unwrap()
    }

    #[test]
    fn every_format_is_recognised_by_its_mark() {
        for mark in MARKS {
            let mut content = vec![0; 4096];
            let at = match mark.at {
                At::Start(at) => at as usize,
                At::End(before) => content.len() - before as usize,
            };
            content[at..at + mark.bytes.len()].copy_from_slice(mark.bytes);
            assert_eq!(recognised(&content).map(|f| f.name), Some(mark.foreign.name));
        }
    }

    #[test]
    fn plain_sectors_and_scraps_are_raw() {
        assert_eq!(recognised(&[]), None);
        assert_eq!(recognised(b"QFI"), None);
        assert_eq!(recognised(&[0; 512]), None);
        // A boot sector, and a partition table's copy at the end.
        let mut disk = vec![0; 8192];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[7680..7688].copy_from_slice(b"EFI PART");
        assert_eq!(recognised(&disk), None);
    }

    #[test]
    fn the_advice_can_be_typed() {
        let convert = |content: &[u8]| recognised(content).unwrap().convert(Path::new("/a/b c"));
        assert_eq!(
            convert(b"QFI\xfb\0\0\0\x03"),
            "qemu-img convert -f qcow2 -O raw '/a/b c' '/a/b c.raw'"
        );
        assert_eq!(convert(b"\x1f\x8b\x08\0"), "gzip -dc '/a/b c' > '/a/b c.raw'");
    }
}
