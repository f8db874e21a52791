//! The two files of an overlay: the delta, and the map with a header that says what they belong to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use engine::SECTOR_BYTES;

use super::golden::Identity;
use super::marks::bytes_for;

/// Where the bits begin: a page of its own for the header.
pub(crate) const HEADER_BYTES: u64 = 4096;
const MAGIC: [u8; 8] = *b"XBLDOVL\x01";
/// Characters of a boot id.
const BOOT_ID: usize = 36;

/// The files of one overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayFiles {
    base: PathBuf,
}

/// What a map says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub sectors: u64,
    pub golden: Identity,
    pub boot_id: String,
}

impl OverlayFiles {
    /// `base` with `.delta` and `.map` behind it.
    pub fn new(base: impl Into<PathBuf>) -> OverlayFiles {
        OverlayFiles { base: base.into() }
    }

    /// The sectors that were written.
    pub fn delta(&self) -> PathBuf {
        self.with(".delta")
    }

    /// Which ones they are.
    pub fn map(&self) -> PathBuf {
        self.with(".map")
    }

    /// For messages.
    pub fn base(&self) -> &Path {
        &self.base
    }

    fn with(&self, suffix: &str) -> PathBuf {
        let mut name = self.base.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Whether there are such files, made since the host was started. Older ones are as good as none.
    pub fn are_of_this_boot(&self) -> bool {
        let header = File::open(self.map()).and_then(|map| Header::read(&map));
        self.delta().exists()
            && header.is_ok_and(|header| header.is_some_and(|header| header.is_of_this_boot()))
    }

    /// Takes both away; nobody may have them open. The map goes first: a delta without a map is nobody's, and a cut one no overlay's.
    ///
    /// # Errors
    /// Of unlink; that there are none is none.
    pub fn discard(&self) -> io::Result<()> {
        // What nobody will read need not go to the disk first.
        if let Ok(delta) = File::options().write(true).open(self.delta()) {
            delta.set_len(0)?;
        }
        for path in [self.map(), self.delta()] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes both, empty, for an overlay on `golden`. The header is written last.
    pub(crate) fn create(&self, sectors: u64, golden: &Identity) -> io::Result<()> {
        self.discard()?;
        let create = |path| File::options().read(true).write(true).create_new(true).open(path);
        create(self.delta())?.set_len(sectors * SECTOR_BYTES)?;
        let map = create(self.map())?;
        let bytes = HEADER_BYTES + bytes_for(sectors);
        // A hole that finds no space when it is touched would be a fault in the data path.
        match rustix::fs::fallocate(&map, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::OPNOTSUPP) => zeros(&map, bytes)?,
            result => result?,
        }
        let header = Header {
            sectors,
            golden: *golden,
            boot_id: boot_id()?,
        };
        map.write_all_at(&header.to_bytes(), 0)
    }
}

fn zeros(file: &File, bytes: u64) -> io::Result<()> {
    let block = [0; HEADER_BYTES as usize];
    (0..bytes)
        .step_by(block.len())
        .try_for_each(|at| file.write_all_at(&block[..block.len().min((bytes - at) as usize)], at))
}

impl Header {
    /// What is at the beginning of a map; `None`: no header, or one that this release does not know.
    pub(crate) fn read(map: &File) -> io::Result<Option<Header>> {
        let mut bytes = [0; HEADER_BYTES as usize];
        match map.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        Ok(Header::parse(&bytes))
    }

    /// Whether the host has not been started since.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|now| now == self.boot_id)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Identity {
            device,
            inode,
            sectors,
            modified,
        } = self.golden;
        let mut bytes = MAGIC.to_vec();
        for number in [self.sectors, device, inode, sectors] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [modified.0, modified.1] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.boot_id.as_bytes());
        bytes.resize(HEADER_BYTES as usize, 0);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Header> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (numbers, rest) = rest.split_at_checked(6 * 8)?;
        let number = |index: usize| -> Option<u64> {
            let bytes = numbers.get(index * 8..index * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let boot_id = std::str::from_utf8(rest.get(..BOOT_ID)?).ok()?;
        Some(Header {
            sectors: number(0)?,
            golden: Identity {
                device: number(1)?,
                inode: number(2)?,
                sectors: number(3)?,
                modified: (number(4)?.cast_signed(), number(5)?.cast_signed()),
            },
            boot_id: boot_id.to_owned(),
        })
    }
}

/// Another one with each start of the host.
fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = Header {
            sectors: 7,
            golden: Identity {
                device: 1,
                inode: u64::MAX,
                sectors: 9,
                modified: (-5, 999_999_999),
            },
            boot_id: boot_id().unwrap(),
        };
        assert_eq!(Header::parse(&header.to_bytes()), Some(header.clone()));
        assert!(header.is_of_this_boot());
        for bad in [&b""[..], b"XBLDOVL\x02", &header.to_bytes()[..60]] {
            assert_eq!(Header::parse(bad), None);
        }
    }
}
