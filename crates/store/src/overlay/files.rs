//! The files of an overlay: the delta, the map with a header that says what they belong to, and the records of a persistent one.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use engine::SECTOR_BYTES;

use super::golden::{Golden, GoldenIdentity};
use super::marks::words_for;
use super::records::RecordsHeader;

/// Where the bits begin: a page of its own for the header.
pub(crate) const HEADER_BYTES: u64 = 4096;
const MAGIC: [u8; 8] = *b"XBLDOVL\x01";
/// Characters of a boot id.
const BOOT_ID: usize = 36;
/// Where the header says whether it is pinned.
const PINNED_AT: u64 = (MAGIC.len() + 6 * 8 + BOOT_ID + 8) as u64;
/// Where the header says where the bits are: whether they were saved behind it, then the length of a path and the path. Zeros in maps of
/// releases that knew no other place than behind the header.
const BITS_AT: usize = 2047;

/// The files of one overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayFiles {
    base: PathBuf,
    /// The bits are kept in memory, where there is a place for them.
    pub(super) in_memory: bool,
    /// Where, so that a test leaves nothing in the user's own place.
    #[cfg(test)]
    pub(crate) memory: Option<PathBuf>,
}

/// What a map says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sectors: u64,
    pub(crate) golden: GoldenIdentity,
    pub(crate) boot_id: String,
    /// The persistent overlay whose bits they are; 0: a volatile one's.
    pub(crate) copy: u64,
    /// It stays when its machine boots.
    pub(crate) pinned: bool,
    /// Where the bits are; `None`: behind this header.
    pub(crate) bits: Option<PathBuf>,
    /// They are behind this header too, as they were when the overlay was closed.
    pub(crate) saved: bool,
}

impl OverlayFiles {
    /// `base` with `.delta`, `.map` and `.marks` behind it, and nothing elsewhere.
    pub fn new(base: impl Into<PathBuf>) -> OverlayFiles {
        OverlayFiles::placed(base, false)
    }

    /// The same, with the bits in a file on a tmpfs where there is one ([`super::tmpfs::memory_directory`]): setting them waits for no disk.
    pub fn in_memory(base: impl Into<PathBuf>) -> OverlayFiles {
        OverlayFiles::placed(base, true)
    }

    /// As one of the two.
    pub fn placed(base: impl Into<PathBuf>, in_memory: bool) -> OverlayFiles {
        OverlayFiles {
            base: base.into(),
            in_memory,
            #[cfg(test)]
            memory: None,
        }
    }

    /// The sectors that were written.
    pub(crate) fn delta(&self) -> PathBuf {
        self.with(".delta")
    }

    /// Which ones they are, or where that is noted.
    pub fn map(&self) -> PathBuf {
        self.with(".map")
    }

    /// What a persistent overlay knows of that after a power cut; a volatile one has none.
    pub fn records(&self) -> PathBuf {
        self.with(".marks")
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

    /// What the map says of itself; `None`: there is no map, or it is nothing that this release knows. What cannot be read is there all the
    /// same, and says nothing.
    fn header(&self) -> io::Result<Option<Header>> {
        match File::open(self.map()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            map => Header::read(&map?),
        }
    }

    /// Whether there is an overlay that goes on: a persistent one, or a volatile one that was made since the host was started.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn are_left(&self) -> io::Result<bool> {
        Ok(self.are_persistent() || self.are_of_this_boot()?)
    }

    /// Whether there is any file of it.
    pub fn have_any(&self) -> bool {
        // What cannot be looked at is there all the same.
        let is_there = |path: PathBuf| path.try_exists().unwrap_or(true);
        is_there(self.map()) || is_there(self.delta()) || self.are_persistent()
    }

    /// Whether it is one that outlives a power cut.
    pub fn are_persistent(&self) -> bool {
        // One that cannot be looked at is there all the same.
        self.records().try_exists().unwrap_or(true)
    }

    /// Whether it is one that outlives a power cut and was made on this image as it is, from sector `offset` on. `None`: there is no such
    /// one, or it is damaged.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn are_persistent_on(&self, golden: &Golden, offset: u64) -> io::Result<Option<bool>> {
        let records = match File::open(self.records()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            records => records?,
        };
        match RecordsHeader::read(&records) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            header => golden.has_part(offset, &header?.golden).map(Some),
        }
    }

    /// Whether it is a volatile one that stays when its machine boots.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn are_pinned(&self) -> io::Result<bool> {
        match self.header()? {
            Some(header) => Ok(header.pinned && header.is_of_this_boot()?),
            None => Ok(false),
        }
    }

    /// Writes that down. It ends with the overlay.
    pub(crate) fn set_pinned(&self, pinned: bool) -> io::Result<()> {
        let map = File::options().write(true).open(self.map())?;
        map.write_all_at(&[pinned.into()], PINNED_AT)
    }

    /// Whether it is a volatile one, made since the host was started. An older one is as good as none, and so is a persistent one without
    /// its records: its making or its end was interrupted.
    pub(crate) fn are_of_this_boot(&self) -> io::Result<bool> {
        match self.header()? {
            Some(header) => Ok(header.copy == 0 && self.delta().try_exists()? && header.is_of_this_boot()?),
            None => Ok(false),
        }
    }

    /// Whether it is a volatile one that ended with its host, which was started since.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn ended_with_the_host(&self) -> io::Result<bool> {
        match self.header()? {
            Some(header) => Ok(!self.are_persistent() && header.copy == 0 && !header.is_of_this_boot()?),
            None => Ok(false),
        }
    }

    /// Takes all away; nobody may have them open. What says what the delta holds goes first, to the medium too where it is there:
    /// a delta without it is nobody's.
    ///
    /// # Errors
    /// Of unlink or fsync; that there are none is none.
    pub fn discard(&self) -> io::Result<()> {
        if removed(&self.records())? {
            self.sync_directory()?;
        }
        self.remove_map()?;
        self.cut_delta()?;
        removed(&self.delta())?;
        Ok(())
    }

    /// Takes the map away, which tells where the bits are, and then the bits.
    fn remove_map(&self) -> io::Result<()> {
        let bits = self.bits_in_memory()?;
        removed(&self.map())?;
        if let Some(bits) = bits
            && let Err(error) = removed(&bits)
        {
            tracing::warn!("{}: cannot be removed: {error}", bits.display());
        }
        Ok(())
    }

    /// Gives back the space of one that ended with its host, at the first call after that; tells when that was.
    ///
    /// # Errors
    /// Of the file system.
    pub fn cut_ended(&self) -> io::Result<SystemTime> {
        let mut options = File::options();
        let delta = options.write(true).create(true).truncate(false);
        let delta = delta.open(self.delta())?;
        if delta.metadata()?.len() > 0 {
            delta.set_len(0)?;
        }
        let map = std::fs::metadata(self.map())?;
        // The clock may have been wrong at the call.
        Ok(delta.metadata()?.modified()?.max(map.modified()?))
    }

    /// Gives back the space of a delta that nobody will read; it need not go to the disk first.
    ///
    /// # Errors
    /// Of ftruncate; that there is none is none.
    fn cut_delta(&self) -> io::Result<()> {
        match File::options().write(true).open(self.delta()) {
            Ok(delta) => delta.set_len(0),
            Err(_) => Ok(()),
        }
    }

    /// Puts what the directory says of them on the medium.
    pub(crate) fn sync_directory(&self) -> io::Result<()> {
        File::open(self.base.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Makes delta and map, empty, for an overlay on `golden`. The header is written last.
    pub(crate) fn create(&self, sectors: u64, golden: &GoldenIdentity) -> io::Result<()> {
        self.discard()?;
        create(&self.delta())?.set_len(sectors * SECTOR_BYTES)?;
        self.create_map(sectors, golden, 0)
    }

    /// The same for one that outlives a power cut. The records get their name last: with them the overlay is there, whole and empty.
    /// Nothing is left of one that cannot be made.
    pub(crate) fn create_persistent(
        &self,
        golden: &GoldenIdentity,
        header: &RecordsHeader,
    ) -> io::Result<()> {
        self.discard()?;
        let made = self.make_persistent(golden, header);
        if made.is_err() {
            let cleaned = self.discard().and(removed(&self.with(".marks.new")));
            if let Err(error) = cleaned {
                tracing::warn!("{}: cannot be removed: {error}", self.base.display());
            }
        }
        made
    }

    fn make_persistent(&self, golden: &GoldenIdentity, header: &RecordsHeader) -> io::Result<()> {
        let delta = create(&self.delta())?;
        delta.set_len(header.sectors * SECTOR_BYTES)?;
        delta.sync_all()?;
        self.create_map(header.sectors, golden, header.copy)?;
        let new = self.with(".marks.new");
        removed(&new)?;
        let records = create(&new)?;
        header.create(&records, words_for(header.sectors), |_| 0)?;
        records.sync_all()?;
        // The others' names too, before there is anything that needs them.
        self.sync_directory()?;
        std::fs::rename(new, self.records())?;
        self.sync_directory()
    }

    /// Makes a map without bits.
    pub(crate) fn create_map(&self, sectors: u64, golden: &GoldenIdentity, copy: u64) -> io::Result<()> {
        self.remove_map()?;
        let map = create(&self.map())?;
        let bits = self.create_bits(&map, sectors)?;
        let header = Header {
            sectors,
            golden: *golden,
            boot_id: boot_id()?,
            copy,
            pinned: false,
            bits,
            saved: false,
        };
        map.write_all_at(&header.to_bytes(), 0)
    }
}

pub(super) fn create(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).open(path)
}

/// Takes a file away; false: there was none.
pub(super) fn removed(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    }
}

/// A number that no other overlay has.
pub(crate) fn another_copy() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = (now.unwrap_or_default(), std::process::id(), boot_id().ok());
    // With keys that come from the kernel's random numbers and are others for each call. 0 is no overlay.
    RandomState::new().hash_one(seed).max(1)
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
    ///
    /// # Errors
    /// When that cannot be told: of no file descriptor that is free, for example.
    pub(crate) fn is_of_this_boot(&self) -> io::Result<bool> {
        Ok(boot_id()? == self.boot_id)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let GoldenIdentity {
            device,
            inode,
            sectors,
            modified,
            written,
        } = self.golden;
        let mut bytes = MAGIC.to_vec();
        for number in [self.sectors, device, inode, sectors] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [modified.0, modified.1] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.boot_id.as_bytes());
        // Zero in maps of releases that knew no persistent overlays.
        bytes.extend(self.copy.to_le_bytes());
        debug_assert_eq!(bytes.len() as u64, PINNED_AT);
        bytes.push(self.pinned.into());
        // Zeros in maps of releases that did not know it, and of what is no block device.
        bytes.extend(written.map_or(0, |written| written.wrapping_add(1)).to_le_bytes());
        bytes.resize(BITS_AT, 0);
        bytes.extend(bits_to_bytes(self.bits.as_deref(), self.saved));
        bytes
    }

    /// Has a map say where the bits are.
    ///
    /// # Errors
    /// Of the write.
    pub(crate) fn note_bits(map: &File, path: Option<&Path>, saved: bool) -> io::Result<()> {
        map.write_all_at(&bits_to_bytes(path, saved), BITS_AT as u64)
    }

    fn parse(bytes: &[u8]) -> Option<Header> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (numbers, rest) = rest.split_at_checked(6 * 8)?;
        let number = |index: usize| -> Option<u64> {
            let bytes = numbers.get(index * 8..index * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let (boot_id, rest) = rest.split_at_checked(BOOT_ID)?;
        let boot_id = std::str::from_utf8(boot_id).ok()?;
        let (copy, rest) = rest.split_first_chunk()?;
        let written = rest.get(1..).and_then(|rest| rest.first_chunk());
        let written = written.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Some(Header {
            sectors: number(0)?,
            golden: GoldenIdentity {
                device: number(1)?,
                inode: number(2)?,
                sectors: number(3)?,
                modified: (number(4)?.cast_signed(), number(5)?.cast_signed()),
                written: (written != 0).then(|| written.wrapping_sub(1)),
            },
            boot_id: boot_id.to_owned(),
            copy: u64::from_le_bytes(*copy),
            pinned: rest.first() == Some(&1),
            bits: bits_from_bytes(bytes),
            saved: bytes.get(BITS_AT) == Some(&1),
        })
    }
}

fn bits_to_bytes(path: Option<&Path>, saved: bool) -> Vec<u8> {
    let path = path.map_or(&[][..], |path| path.as_os_str().as_bytes());
    let mut bytes = vec![saved.into()];
    bytes.extend((path.len() as u16).to_le_bytes());
    bytes.extend(path);
    bytes.resize(HEADER_BYTES as usize - BITS_AT, 0);
    bytes
}

fn bits_from_bytes(header: &[u8]) -> Option<PathBuf> {
    let (length, rest) = header.get(BITS_AT + 1..)?.split_first_chunk()?;
    let path = rest.get(..u16::from_le_bytes(*length).into())?;
    (!path.is_empty()).then(|| OsStr::from_bytes(path).into())
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
            golden: GoldenIdentity {
                device: 1,
                inode: u64::MAX,
                sectors: 9,
                modified: (-5, 999_999_999),
                written: Some(77),
            },
            boot_id: boot_id().unwrap(),
            copy: 5,
            pinned: true,
            bits: Some("/run/xblade/copies/7".into()),
            saved: true,
        };
        assert_eq!(Header::parse(&header.to_bytes()), Some(header.clone()));
        assert!(header.is_of_this_boot().unwrap());
        let bytes = &header.to_bytes()[..BITS_AT];
        let elder = Header::parse(bytes).unwrap();
        assert!(elder.bits.is_none() && !elder.saved);
        for bad in [&b""[..], b"XBLDOVL\x02", &header.to_bytes()[..60]] {
            assert_eq!(Header::parse(bad), None);
        }
    }
}
