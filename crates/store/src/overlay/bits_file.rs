//! The file with an overlay's bits. They are of one boot of the host, so they belong in memory: a bit is set on the data path, and a
//! page of a file on a disk is protected while it is written back, so that whoever sets a bit waits for that disk.
//!
//! The map says where the file is. Bits lie in the map itself, behind its header, where no tmpfs can be had; in maps of releases that
//! knew no other place; and after a stop, which saves them there: the memory of a container ends with it, and its host runs on.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::files::{HEADER_BYTES, Header, OverlayFiles, another_copy, create, removed};
use super::marks::{BitsFile, Marks, bytes_for};
use super::space::seek;
use super::tmpfs::{is_in_memory, memory_directory};

const MAGIC: [u8; 8] = *b"XBLDBIT\x01";
/// What is moved at a time.
const CHUNK_BYTES: u64 = 64 << 10;

/// What [`Marks::map`] wants to know of a file that was opened.
fn bits_file(file: File, path: PathBuf, sectors: u64) -> io::Result<BitsFile> {
    Ok(BitsFile {
        at: HEADER_BYTES,
        data: data_of(&file, sectors)?,
        in_memory: is_in_memory(&file),
        file,
        path,
    })
}

impl OverlayFiles {
    /// Opens the bits of an overlay that is there. Those that lie in the map are moved to memory, where that is to be had. `None`: they
    /// were in memory and are not there any more, or are cut.
    pub(crate) fn open_bits(&self, sectors: u64) -> io::Result<Option<BitsFile>> {
        let map = File::options().read(true).write(true).open(self.map())?;
        let header = Header::read(&map)?;
        let header =
            header.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its map is damaged"))?;
        let is_noted = header.bits.is_some() || header.saved;
        if let Some(path) = header.bits {
            if let Some(file) = opened(&path, sectors, &map)? {
                if header.saved {
                    // That gets old from here on.
                    Header::note_bits(&map, Some(&path), false)?;
                    map.set_len(HEADER_BYTES)?;
                }
                return Ok(Some(bits_file(file, path, sectors)?));
            }
            if !header.saved {
                return Ok(None);
            }
        }
        if map.metadata()?.len() < HEADER_BYTES + bytes_for(sectors) {
            return Ok(None);
        }
        match self.move_to_memory(&map, sectors) {
            Ok(Some(moved)) => return Ok(Some(moved)),
            Ok(None) => {}
            Err(error) => tracing::warn!("{}: {}: {error}", self.base().display(), NOT_MOVED),
        }
        allocate(&map, sectors)?;
        if is_noted {
            Header::note_bits(&map, None, false)?;
        }
        Ok(Some(bits_file(map, self.map(), sectors)?))
    }

    /// Moves the bits of an overlay, which nobody has mapped, from memory that is full to behind the map's header, where they stay until it
    /// is opened the next time, and opens them. `None`: they are there already. Whatever ends this in the middle leaves them in memory.
    ///
    /// # Errors
    /// When there is no room there either.
    pub(crate) fn leave_memory(&self, sectors: u64) -> io::Result<Option<BitsFile>> {
        let map = File::options().read(true).write(true).open(self.map())?;
        let Some(path) = Header::read(&map)?.and_then(|header| header.bits) else {
            return Ok(None);
        };
        let gone = || io::Error::new(io::ErrorKind::NotFound, "what was noted in memory is gone");
        let bits = opened(&path, sectors, &map)?.ok_or_else(gone)?;
        // What is behind the header is of an earlier time.
        map.set_len(HEADER_BYTES)?;
        allocate(&map, sectors)?;
        copy(&bits, &map, sectors)?;
        Header::note_bits(&map, None, false)?;
        if let Err(error) = removed(&path) {
            tracing::warn!("{}: cannot be removed: {error}", path.display());
        }
        Ok(Some(bits_file(map, self.map(), sectors)?))
    }

    /// Makes place for the bits of a new overlay with this map; the path is the header's to note.
    pub(crate) fn create_bits(&self, map: &File, sectors: u64) -> io::Result<Option<PathBuf>> {
        if let Some(directory) = self.memory(map) {
            match new_in(&directory, map, sectors) {
                Ok((_, path)) => return Ok(Some(path)),
                Err(error) => tracing::warn!("{}: {}: {error}", self.base().display(), NOT_MOVED),
            }
        }
        allocate(map, sectors)?;
        Ok(None)
    }

    /// The file in memory, if there is one that is this overlay's.
    pub(crate) fn bits_in_memory(&self) -> io::Result<Option<PathBuf>> {
        let Ok(map) = File::open(self.map()) else {
            return Ok(None);
        };
        let header = Header::read(&map)?.filter(|header| header.is_of_this_boot().unwrap_or(true));
        if let Some((path, sectors)) = header.and_then(|header| Some((header.bits?, header.sectors)))
            && owned(&path, sectors, &map)?.is_some()
        {
            return Ok(Some(path));
        }
        Ok(None)
    }

    /// Puts the bits behind the map's header, for the case that the memory is gone at the next opening. `kept` is where they are. Nobody
    /// writes to the overlay any more.
    pub(crate) fn save_bits(&self, marks: &Marks, sectors: u64, kept: &Path) -> io::Result<()> {
        if kept == self.map() {
            return Ok(());
        }
        let map = File::options().read(true).write(true).open(self.map())?;
        let is_own = Header::read(&map)?.is_some_and(|header| header.bits.as_deref() == Some(kept));
        if !is_own {
            return Ok(());
        }
        map.set_len(HEADER_BYTES)?;
        map.set_len(HEADER_BYTES + bytes_for(sectors))?;
        marks.each_leaf(|at, bytes| map.write_all_at(bytes, HEADER_BYTES + at))?;
        Header::note_bits(&map, Some(kept), true)
    }

    /// Where the bits belong; `None`: in the map, which lies in memory itself, or there is no other place.
    fn memory(&self, map: &File) -> Option<PathBuf> {
        if !self.in_memory || is_in_memory(map) {
            return None;
        }
        #[cfg(test)]
        if self.memory.is_some() {
            return self.memory.clone();
        }
        memory_directory()
            .inspect_err(|error| tracing::debug!("no memory for an overlay's bits: {error}"))
            .ok()
    }

    fn move_to_memory(&self, map: &File, sectors: u64) -> io::Result<Option<BitsFile>> {
        let Some(directory) = self.memory(map) else {
            return Ok(None);
        };
        let (file, path) = new_in(&directory, map, sectors)?;
        let moved = copy(map, &file, sectors).and_then(|()| Header::note_bits(map, Some(&path), false));
        if let Err(error) = moved {
            removed(&path)?;
            return Err(error);
        }
        map.set_len(HEADER_BYTES)?;
        Ok(Some(bits_file(file, path, sectors)?))
    }
}

pub(crate) const NOT_MOVED: &str = "what it holds is noted on the disk of overlay_dir, where a write may wait for that disk and keep others waiting; \
                         there is no room in memory";

/// A new file, without bits and without space for them.
fn new_in(directory: &Path, map: &File, sectors: u64) -> io::Result<(File, PathBuf)> {
    let path = directory.join(format!("{:016x}", another_copy()));
    let file = create(&path)?;
    let made = file
        .set_len(HEADER_BYTES + bytes_for(sectors))
        .and_then(|()| file.write_all_at(&owner(map, sectors)?, 0));
    match made {
        Ok(()) => Ok((file, path)),
        Err(error) => {
            removed(&path)?;
            Err(error)
        }
    }
}

/// What the file says of itself: whose it is. A copy of a map has another inode, and no bits.
fn owner(map: &File, sectors: u64) -> io::Result<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(map.metadata()?.ino().to_le_bytes());
    Ok(bytes)
}

/// The file with the bits of the overlay with this map; `None`: there is none.
fn owned(path: &Path, sectors: u64, map: &File) -> io::Result<Option<File>> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let expected = owner(map, sectors)?;
    let mut found = vec![0; expected.len()];
    match file.read_exact_at(&mut found, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok((found == expected).then_some(file))
}

/// The same, if it is whole.
fn opened(path: &Path, sectors: u64, map: &File) -> io::Result<Option<File>> {
    let Some(file) = owned(path, sectors, map)? else {
        return Ok(None);
    };
    let is_whole = file.metadata()?.len() == HEADER_BYTES + bytes_for(sectors);
    Ok(is_whole.then_some(file))
}

/// Space for all bits of a map on a disk: a hole that finds none when it is touched would be a fault in the data path.
fn allocate(map: &File, sectors: u64) -> io::Result<()> {
    let bytes = HEADER_BYTES + bytes_for(sectors);
    if is_in_memory(map) {
        return map.set_len(bytes);
    }
    match rustix::fs::fallocate(map, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP) if map.metadata()?.len() < bytes => zeros(map, bytes),
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => Ok(result?),
    }
}

fn zeros(file: &File, bytes: u64) -> io::Result<()> {
    let block = [0; HEADER_BYTES as usize];
    (0..bytes)
        .step_by(block.len())
        .try_for_each(|at| file.write_all_at(&block[..block.len().min((bytes - at) as usize)], at))
}

/// What is not zeros of the bits in a file, to where there are none.
fn copy(from: &File, to: &File, sectors: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES as usize];
    for data in data_of(from, sectors)? {
        let (mut at, end) = (HEADER_BYTES + data.start, HEADER_BYTES + data.end);
        while at < end {
            let chunk = &mut chunk[..(end - at).min(CHUNK_BYTES) as usize];
            from.read_exact_at(chunk, at)?;
            for (leaf, bytes) in (0..).zip(chunk.chunks(HEADER_BYTES as usize)) {
                if bytes.iter().any(|byte| *byte != 0) {
                    to.write_all_at(bytes, at + leaf * HEADER_BYTES)?;
                }
            }
            at += chunk.len() as u64;
        }
    }
    Ok(())
}

/// Where a file with bits has any: the bytes behind the header that are no hole.
fn data_of(file: &File, sectors: u64) -> io::Result<Vec<std::ops::Range<u64>>> {
    let all = HEADER_BYTES + bytes_for(sectors);
    let (mut found, mut at) = (Vec::new(), HEADER_BYTES);
    while at < all
        && let Some(data) = seek(file, SeekFrom::Data(at))?
    {
        let hole = seek(file, SeekFrom::Hole(data))?.unwrap_or(all).min(all);
        if data < hole {
            found.push(data - HEADER_BYTES..hole - HEADER_BYTES);
        }
        at = hole.max(at + 1);
    }
    Ok(found)
}
