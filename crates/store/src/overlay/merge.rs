//! A new golden image out of the one below an overlay and what was written: made beside the old one, put in its place by rename.
//!
//! Whatever ends it in the middle leaves the old image and the overlay as they were, and at most a file of another name. That name is the
//! same for every merge into an image, and whoever makes the file holds a lock on it (flock) until it is in its place or gone. So there is
//! one merge at a time, whichever process it is of, and a file that nobody has locked is what a process that was killed has left.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{
    FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    FallocateFlags, FlockOperation, SeekFrom, copy_file_range, fallocate, flock, ioctl_ficlone, seek,
};
use rustix::io::Errno;

use engine::{Extent, Health, SECTOR_BYTES, Store as _};

use super::files::OverlayFiles;
use super::{Golden, OverlayStore};
use crate::file_identity::FileIdentity;

/// What is copied at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// How often the new image's name is tried for. Others have its lock for a moment only, to see whether a merge is at work or to take away
/// what one has left.
const TRIES: u32 = 500;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(2);

/// Why there is no new image.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Another image is in its place already, or it was changed.
    #[error("{}: has been replaced or changed since this copy was made: a merge would undo that; reset the copy, or put the image back", .0.display())]
    Replaced(PathBuf),
    /// A device cannot be replaced.
    #[error("{}: is no regular file: a new image cannot be put in its place by rename", .0.display())]
    NoFile(PathBuf),
    /// Another merge is at work on it.
    #[error("{}: another `xblade overlay commit` is making a new image of it: wait until that has ended, then look whether the copy is still to be merged", .0.display())]
    Busy(PathBuf),
    /// What the merge would read is not what was written.
    #[error("{}: the copy or the image is not well, and a merge would make that everybody's: {what}", .path.display())]
    Unwell {
        /// The copy.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
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

/// A file that goes unless it was renamed. The lock on it is held until then.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    file: File,
    keep: bool,
}

/// A new image that is whole and on the medium, and not in the old one's place yet. It goes if it never gets there.
#[derive(Debug)]
pub struct MergedImage {
    new: Unfinished,
    place: PathBuf,
    golden: Golden,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What somebody else has put there is not ours.
        if !self.keep && is_at(&self.file, &self.path).unwrap_or_default() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl OverlayStore {
    /// What keeps this overlay from being merged, as far as that can be told before.
    ///
    /// # Errors
    /// [`MergeError`]
    pub fn check_mergeable(&self) -> Result<(), MergeError> {
        let golden = self.golden();
        check_is_same(golden, golden.path())?;
        self.marks.check().map_err(|error| MergeError::Unwell {
            path: golden.path().to_owned(),
            what: error.to_string(),
        })?;
        for health in [self.health(), golden.health()] {
            let (Health::LostWrites(_) | Health::Silent(_) | Health::Degraded(_)) = &health else {
                continue;
            };
            return Err(MergeError::Unwell {
                path: golden.path().to_owned(),
                what: told(health),
            });
        }
        Ok(())
    }

    /// Makes the new image. Nobody may use the overlay meanwhile, and what was written to it is on its medium; it stays as it is, on the
    /// old image. May wait for a disk.
    ///
    /// # Errors
    /// [`MergeError`]
    pub fn merge(&self, files: &OverlayFiles) -> Result<MergedImage, MergeError> {
        self.look_at_backing();
        self.check_mergeable()?;
        let golden = self.golden();
        let path = golden.path();
        // A link would be replaced, not what it leads to.
        let place = std::fs::canonicalize(path).map_err(at(path, "looking for it"))?;
        let old = golden.file().map_err(at(&place, "opening it"))?;
        let meta = old.metadata().map_err(at(&place, "looking at it"))?;
        if !meta.is_file() || meta.file_type().is_block_device() {
            return Err(MergeError::NoFile(place));
        }
        let new = make(&place)?;
        let (file, doing) = (&new.file, |doing| at(&new.path, doing));
        give(file, &meta).map_err(|cause| MergeError::Owner {
            path: place.clone(),
            user: meta.uid(),
            group: meta.gid(),
            cause,
        })?;
        copy(old, file, meta.len()).map_err(doing("copying the old image"))?;
        let delta = File::open(files.delta()).map_err(at(&files.delta(), "opening it"))?;
        let first = golden.offset() * SECTOR_BYTES;
        self.apply(&delta, file, first)
            .map_err(doing("writing what the machine wrote"))?;
        file.sync_all().map_err(doing("putting it on the medium"))?;
        self.check_mergeable()?;
        let golden = golden.clone();
        Ok(MergedImage { new, place, golden })
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

impl MergedImage {
    /// Puts it in the old image's place.
    ///
    /// # Errors
    /// [`MergeError`]; the old image, or another one that was put there meanwhile, is in its place then.
    pub fn put_in_place(mut self) -> Result<(), MergeError> {
        let (path, place) = (&self.new.path, &self.place);
        check_is_same(&self.golden, place)?;
        let doing = || at(path, "putting it in the old one's place");
        if !is_at(&self.new.file, path).map_err(doing())? {
            // Somebody has put something else there.
            return Err(doing()(io::ErrorKind::NotFound.into()));
        }
        std::fs::rename(path, place).map_err(doing())?;
        self.new.keep = true;
        let directory = place.parent().unwrap_or(Path::new("/"));
        let named = File::open(directory).and_then(|directory| directory.sync_all());
        if let Err(error) = named {
            // It is there, and on the medium; only a power cut now could bring the old one back.
            tracing::warn!("{}: putting its name on the medium: {error}", place.display());
        }
        Ok(())
    }
}

fn check_is_same(golden: &Golden, place: &Path) -> Result<(), MergeError> {
    match golden.is_current() && golden.check_unchanged() {
        true => Ok(()),
        false => Err(MergeError::Replaced(place.to_owned())),
    }
}

fn told(health: Health) -> String {
    match health {
        Health::Healthy => String::new(),
        Health::LostWrites(lost) => format!(
            "{lost}; look whether the copy is whole, then accept the loss (`xblade state clear`, --lost-writes), and try again"
        ),
        Health::Silent(why) | Health::Degraded(why) => why,
    }
}

/// What the new image is called while it is made.
fn unfinished(place: &Path) -> PathBuf {
    let mut name = place.to_owned().into_os_string();
    name.push(".merging");
    name.into()
}

/// Whether a new image is being made that is to replace the one at `path`.
pub(super) fn is_under_way(path: &Path) -> bool {
    let Ok(place) = std::fs::canonicalize(path) else {
        return false;
    };
    let opened = open_left(&unfinished(&place));
    opened.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK))
}

/// Takes away what a merge into the image at `path` has left that was killed; tells where it lay. One that is at work is left alone.
///
/// # Errors
/// When it is there and stays.
pub fn remove_unfinished_merge(path: &Path) -> io::Result<Option<PathBuf>> {
    let place = match std::fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        place => place?,
    };
    let path = unfinished(&place);
    match std::fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_file() => {}
        _ => return Ok(None),
    }
    match remove_left(&path) {
        Ok(()) => Ok(Some(path)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_left(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = FileIdentity::of(&file.metadata()?);
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        meta => Ok(FileIdentity::of(&meta?) == own),
    }
}

/// Takes away what nobody is at work on. `WouldBlock`: somebody is.
fn remove_left(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    if meta.is_file() {
        let file = open_left(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // Else whoever had it has put it in its place meanwhile.
        return match is_at(&file, path)? {
            true => std::fs::remove_file(path),
            false => Ok(()),
        };
    }
    std::fs::remove_file(path)
}

/// A file that nobody else can read yet, locked. What an interrupted merge has left goes.
fn make(place: &Path) -> Result<Unfinished, MergeError> {
    let path = unfinished(place);
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => MergeError::Busy(place.to_owned()),
        _ => at(&path, "making it")(error),
    };
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o600);
    let waits = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    let mut made = None;
    for _ in 0..TRIES {
        let file = match made.take().map_or_else(|| options.open(&path), Ok) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match remove_left(&path) {
                    Err(error) if waits(&error) => std::thread::sleep(PAUSE),
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
                continue;
            }
            file => file.map_err(failed)?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from) {
            // Somebody looks at it, or takes it for a left one.
            Err(error) if waits(&error) => {
                made = Some(file);
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(failed(error)),
            Ok(()) if is_at(&file, &path).map_err(failed)? => {
                return Ok(Unfinished {
                    path,
                    file,
                    keep: false,
                });
            }
            Ok(()) => {}
        }
    }
    Err(MergeError::Busy(place.to_owned()))
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Machines whose persistent copies begin look, and so does a start of xblade.
    #[test]
    fn who_only_looks_whether_a_merge_is_at_work_keeps_none_from_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("golden");
        std::fs::write(&place, b"image").unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        is_under_way(&place);
                        let _ = remove_unfinished_merge(&place);
                    }
                });
            }
            let made: Vec<_> = (0..500).map(|_| make(&place).map(drop)).collect();
            ended.store(true, Ordering::Relaxed);
            for made in made {
                made.unwrap();
            }
        });
        assert!(!unfinished(&place).exists());
    }
}
