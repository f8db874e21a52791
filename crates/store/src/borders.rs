//! Exports of one file whose ranges meet inside a block.
//!
//! Such a block is written by both. Two direct stores keep order through one table of busy blocks. A direct store and one that
//! writes through the page cache cannot: either would write the other's sectors as they were before.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::backing::Backing;
use crate::direct::blocks::Blocks;
use crate::options::StoreError;

/// What the page cache is written by.
const PAGE: u64 = 4096;

/// How a store writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Through the page cache.
    Cached,
    /// Past it, by blocks of this many bytes.
    Direct(u64),
}

impl Way {
    fn block(self) -> u64 {
        match self {
            Way::Cached => PAGE,
            Way::Direct(block) => block.max(PAGE),
        }
    }
}

/// A store's place in its file, known to the others of its registry as long as it lives.
#[derive(Debug)]
pub(crate) struct FilePlace {
    way: Way,
    bytes: Range<u64>,
    /// The blocks of the file that partial writes hold. One table for all direct stores of it.
    pub(crate) blocks: Arc<Blocks>,
}

/// Device and inode, or a block device's number.
type FileId = (bool, u64, u64);

/// The places of all stores, by their file.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<FileId, Vec<Weak<FilePlace>>>>);

/// The place of a store that writes through the page cache.
///
/// # Errors
/// [`StoreError::SharedBlock`].
pub(crate) fn cached(places: &Places, backing: &Backing) -> Result<Arc<FilePlace>, StoreError> {
    enter(places, backing, Way::Cached)
}

/// The place of a store that writes blocks past the page cache.
///
/// # Errors
/// [`StoreError::SharedBlock`].
pub(crate) fn direct(places: &Places, backing: &Backing, block: u64) -> Result<Arc<FilePlace>, StoreError> {
    enter(places, backing, Way::Direct(block))
}

fn enter(places: &Places, backing: &Backing, way: Way) -> Result<Arc<FilePlace>, StoreError> {
    let meta = backing
        .file()
        .metadata()
        .map_err(|error| StoreError::system(backing.path(), "finding what it is", error))?;
    let id = match meta.file_type().is_block_device() {
        true => (true, meta.rdev(), 0),
        false => (false, meta.dev(), meta.ino()),
    };
    let bytes = backing.range();
    let mut places = places.0.lock();
    places.retain(|_, stores| {
        stores.retain(|store| store.strong_count() > 0);
        !stores.is_empty()
    });
    let stores = places.entry(id).or_default();
    let mut blocks = None;
    // Who only reads neither disturbs nor is disturbed: a read past the cache has dirty pages written back first.
    for other in stores
        .iter()
        .filter_map(Weak::upgrade)
        .filter(|_| !backing.read_only())
    {
        let block = way.block().max(other.way.block());
        let (own, theirs) = (around(&bytes, block), around(&other.bytes, block));
        if other.way != way && own.start < theirs.end && theirs.start < own.end {
            let path = backing.path().to_owned();
            return Err(StoreError::SharedBlock { path, block });
        }
        if other.way == way {
            blocks = Some(Arc::clone(&other.blocks));
        }
    }
    let place = Arc::new(FilePlace {
        way,
        bytes,
        blocks: blocks.unwrap_or_default(),
    });
    if !backing.read_only() {
        stores.push(Arc::downgrade(&place));
    }
    Ok(place)
}

/// The whole blocks that the bytes lie in.
fn around(bytes: &Range<u64>, block: u64) -> Range<u64> {
    let end = bytes.end.checked_next_multiple_of(block).unwrap_or(u64::MAX);
    bytes.start - bytes.start % block..end
}
