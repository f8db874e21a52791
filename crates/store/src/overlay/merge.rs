//! A new golden image out of the one below an overlay and what was written: made beside the old one, put in its place by rename.
//!
//! Whatever ends it in the middle leaves the old image and the overlay as they were, and at most a file of another name.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{
    FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, ioctl_ficlone, seek};
use rustix::io::Errno;

use engine::{Extent, SECTOR_BYTES};

use super::OverlayStore;
use super::files::OverlayFiles;

/// What is copied at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Why there is no new image.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Another image is in its place already, or it was changed.
    #[error("{}: has been replaced or changed since this copy was made: a merge would undo that; reset the copy, or put the image back", .0.display())]
    Replaced(PathBuf),
    /// A device cannot be replaced.
    #[error("{}: is no regular file: a new image cannot be put in its place by rename", .0.display())]
    NoFile(PathBuf),
    /// It would belong to somebody else.
    #[error("{}: belongs to user {user}, group {group}, and a file made here cannot be given to them ({cause}): \
             `chown` the image to the user that xblade runs as, or give it CAP_CHOWN", .path.display())]
    Owner {
        /// The image.
        path: PathBuf,
        /// Whom it belongs to.
        user: u32,
        /// Their group.
        group: u32,
        /// The cause.
        cause: io::Error,
    },
    /// Writing, most often.
    #[error("{}: {doing}: {cause}", .path.display())]
    System {
        /// The new image.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The cause.
        cause: io::Error,
    },
}

/// A file that goes unless it was renamed.
struct Unfinished {
    path: PathBuf,
    keep: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl OverlayStore {
    /// Makes the new image and puts it in the old one's place. Nobody may use the overlay meanwhile; it stays as it is, on the old image.
    ///
    /// # Errors
    /// [`MergeError`]; the old image is in its place then.
    pub fn merge(&self, files: &OverlayFiles) -> Result<(), MergeError> {
        let golden = self.golden();
        let path = golden.path();
        if !golden.is_current() || !golden.check_unchanged() {
            return Err(MergeError::Replaced(path.to_owned()));
        }
        // A link would be replaced, not what it leads to.
        let place = std::fs::canonicalize(path).map_err(at(path, "looking for it"))?;
        let old = golden.file().map_err(at(&place, "opening it"))?;
        let meta = old.metadata().map_err(at(&place, "looking at it"))?;
        if !meta.is_file() || meta.file_type().is_block_device() {
            return Err(MergeError::NoFile(place));
        }
        let mut name = place.clone().into_os_string();
        name.push(".merging");
        let mut new = Unfinished {
            path: name.into(),
            keep: false,
        };
        let doing = |doing| at(&new.path, doing);
        let file = make(&new.path).map_err(doing("making it"))?;
        give(&file, &meta).map_err(|cause| MergeError::Owner {
            path: place.clone(),
            user: meta.uid(),
            group: meta.gid(),
            cause,
        })?;
        copy(old, &file, meta.len()).map_err(doing("copying the old image"))?;
        let delta = File::open(files.delta()).map_err(at(&files.delta(), "opening it"))?;
        let first = golden.offset() * SECTOR_BYTES;
        self.apply(&delta, &file, first)
            .map_err(doing("writing what the machine wrote"))?;
        file.sync_all().map_err(doing("putting it on the medium"))?;
        if !golden.is_current() || !golden.check_unchanged() {
            return Err(MergeError::Replaced(place));
        }
        std::fs::rename(&new.path, &place).map_err(doing("putting it in the old one's place"))?;
        new.keep = true;
        let directory = place.parent().unwrap_or(Path::new("/"));
        let named = File::open(directory).and_then(|directory| directory.sync_all());
        if let Err(error) = named {
            // It is there, and on the medium; only a power cut now could bring the old one back.
            tracing::warn!("{}: putting its name on the medium: {error}", place.display());
        }
        Ok(())
    }

    /// Writes all runs of written sectors; what is zeros takes no space.
    fn apply(&self, delta: &File, new: &File, first: u64) -> io::Result<()> {
        let all = Extent {
            lba: 0,
            count: self.sectors,
        };
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        for run in self.marks.written_runs(all) {
            let (mut at, end) = (run.lba * SECTOR_BYTES, run.end() * SECTOR_BYTES);
            while at < end {
                let length = (end - at).min(CHUNK_BYTES - at % CHUNK_BYTES);
                let chunk = &mut buffer[..length as usize];
                delta.read_exact_at(chunk, at)?;
                match chunk.iter().all(|byte| *byte == 0) {
                    true => zeros(new, first + at, chunk)?,
                    false => new.write_all_at(chunk, first + at)?,
                }
                at += length;
            }
        }
        // Writes that are not known any more would be missing in it.
        self.marks.check()
    }
}

/// A file that nobody else can read yet. What an interrupted merge has left goes.
fn make(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path)
}

/// Gives the new image the rights and the owner of the old one. The rights first: only an owner may set them.
fn give(new: &File, old: &Metadata) -> io::Result<()> {
    let made = new.metadata()?;
    new.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    Ok(())
}

fn at<'a>(path: &'a Path, doing: &'static str) -> impl FnOnce(io::Error) -> MergeError + use<'a> {
    move |cause| MergeError::System {
        path: path.to_owned(),
        doing,
        cause,
    }
}

fn zeros(new: &File, at: u64, chunk: &[u8]) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(new, flags, at, chunk.len() as u64) {
        Err(Errno::OPNOTSUPP) => new.write_all_at(chunk, at),
        result => Ok(result?),
    }
}

/// All of a file with its holes, sharing its blocks where the file system can.
fn copy(old: &File, new: &File, bytes: u64) -> io::Result<()> {
    if ioctl_ficlone(new, old).is_ok() {
        return Ok(());
    }
    new.set_len(bytes)?;
    let mut end = 0;
    while let Some(data) = found(seek(old, SeekFrom::Data(end)))? {
        end = found(seek(old, SeekFrom::Hole(data)))?
            .unwrap_or(bytes)
            .min(bytes);
        copy_part(old, new, data, end)?;
    }
    Ok(())
}

fn copy_part(old: &File, new: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = Vec::new();
    while at < end {
        let (mut from, mut to) = (at, at);
        let length = (end - at).min(64 * CHUNK_BYTES) as usize;
        let copied = match copy_file_range(old, Some(&mut from), new, Some(&mut to), length) {
            Ok(copied) if copied > 0 => copied,
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOSYS | Errno::INVAL) => {
                buffer.resize(length.min(CHUNK_BYTES as usize), 0);
                old.read_exact_at(&mut buffer, at)?;
                new.write_all_at(&buffer, at)?;
                buffer.len()
            }
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(error.into()),
        };
        at += copied as u64;
    }
    Ok(())
}

fn found(place: rustix::io::Result<u64>) -> io::Result<Option<u64>> {
    match place {
        Ok(at) => Ok(Some(at)),
        // Nothing but a hole from there on.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
