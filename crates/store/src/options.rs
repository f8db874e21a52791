//! What a store is opened with, and messages that say what is wrong with it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::commit::machine::OnLostWrite;
use crate::commit::policy::{Losses, Policy};
use crate::format::ImageFormat;
use crate::limits;
use crate::rbd::{CephOptions, LoadError, Takeover};
use engine::SECTOR_BYTES;

/// Kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// A shared mapping of a file or block device.
    Mmap,
    /// O_DIRECT through io_uring.
    Direct,
    /// Memory, of the file's size, lost at exit.
    Ram,
    /// An image in a Ceph cluster, through librbd.
    Rbd,
    /// An export of an NBD server.
    Nbd,
    /// Reads give zeros, writes vanish; for measuring.
    Null,
}

impl StoreKind {
    /// Every value by its name.
    pub const NAMES: [(&'static str, StoreKind); 6] = [
        ("mmap", StoreKind::Mmap),
        ("direct", StoreKind::Direct),
        ("rbd", StoreKind::Rbd),
        ("nbd", StoreKind::Nbd),
        ("ram", StoreKind::Ram),
        ("null", StoreKind::Null),
    ];

    /// True when it is elsewhere: the path is an address.
    pub fn is_remote(self) -> bool {
        matches!(self, StoreKind::Rbd | StoreKind::Nbd)
    }

    /// True when the path is a file's that is read and written; else only its size counts, or it names no file.
    pub fn uses_file(self) -> bool {
        matches!(self, StoreKind::Mmap | StoreKind::Direct)
    }
}

impl std::fmt::Display for StoreKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = StoreKind::NAMES.iter().find(|(_, kind)| kind == self);
        f.write_str(name.map_or("?", |(name, _)| name))
    }
}

/// What to open and how.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreOptions {
    /// Kind of store.
    pub kind: StoreKind,
    /// A regular file or a block device. `ram` and `null` take its size if it exists.
    pub path: PathBuf,
    /// First sector served.
    pub offset: u64,
    /// Sectors served; 0: to the end, following growth.
    pub length: u64,
    /// Never write; the file is opened for reading only, and readers share it.
    pub read_only: bool,
    /// The object has writers elsewhere: no lock, and only the direct store.
    pub shared: bool,
    /// Allocate all space of the range now.
    pub prealloc: bool,
    /// What a power cut may take away: the writes acknowledged within this time.
    pub flush_interval: Duration,
    /// What becomes of a store whose acknowledged writes were lost.
    pub on_lost_write: OnLostWrite,
    /// Whether images that are no plain sectors are refused.
    pub format: ImageFormat,
    /// Where images in Ceph are.
    pub ceph: CephOptions,
    /// For an image of a failover group, whose lock may be broken.
    pub takeover: Option<Takeover>,
}

impl StoreOptions {
    /// The defaults for `path`: all of it, writable, write-back within one second.
    pub fn new(kind: StoreKind, path: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions {
            kind,
            path: path.into(),
            offset: 0,
            length: 0,
            read_only: false,
            shared: false,
            prealloc: false,
            flush_interval: Duration::from_secs(1),
            on_lost_write: OnLostWrite::Stop,
            format: ImageFormat::Detect,
            ceph: CephOptions::default(),
            takeover: None,
        }
    }
}

impl StoreOptions {
    /// How a store of a file commits.
    pub(crate) fn policy(&self, losses: Losses) -> Policy {
        Policy {
            flush_interval: self.flush_interval,
            on_lost_write: self.on_lost_write,
            losses,
            leftovers: !self.read_only,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is nothing at the path.
    #[error("{}: no such file; `xblade create` makes an image", .0.display())]
    Missing(PathBuf),
    /// There is nothing at a path under /dev.
    #[error("{}: no such device: it is not plugged in, not set up yet, or has another name", .0.display())]
    NoDevice(PathBuf),
    /// The path is a directory.
    #[error("{}: is a directory, not an image or a block device", .0.display())]
    Directory(PathBuf),
    /// The path is a socket, pipe or character device.
    #[error("{}: is neither a regular file nor a block device", .0.display())]
    NotAnImage(PathBuf),
    /// The process may not open it.
    #[error("{}: permission denied ({access} access is needed)", .path.display())]
    Permission {
        /// What was to be opened.
        path: PathBuf,
        /// "read" or "read and write".
        access: &'static str,
    },
    /// A mount is in the way, not rights.
    #[error("{}: lies on a read-only file system; export it read-only, or mount that for writing", .0.display())]
    ReadOnlyFileSystem(PathBuf),
    /// Nothing in it.
    #[error("{}: is empty", .0.display())]
    Empty(PathBuf),
    /// Less than a sector in it.
    #[error("{}: has {bytes} bytes, less than one sector (512)", .path.display())]
    UnderOneSector {
        /// What was opened.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The offset leaves nothing to serve.
    #[error("{}: offset {offset} is beyond the end: 0 to {} is possible ({sectors} sectors)", .path.display(), .sectors - 1)]
    OffsetBeyondEnd {
        /// What was opened.
        path: PathBuf,
        /// As asked, in sectors.
        offset: u64,
        /// Size of the object in sectors.
        sectors: u64,
    },
    /// Offset and length reach beyond the end.
    #[error("{}: length {length} at offset {offset} is beyond the end: 1 to {} is possible, or 0 for all ({sectors} sectors)", .path.display(), .sectors - .offset)]
    LengthBeyondEnd {
        /// What was opened.
        path: PathBuf,
        /// As asked, in sectors.
        offset: u64,
        /// As asked, in sectors.
        length: u64,
        /// Size of the object in sectors.
        sectors: u64,
    },
    /// Another process (or another export) has it.
    #[error("{}: in use by {holder}", .path.display())]
    InUse {
        /// What was opened.
        path: PathBuf,
        /// Name and pid where they can be found out.
        holder: String,
    },
    /// Not plain sectors.
    #[error("{}: is a {format} image, whose bytes are not the disk's: make a raw one with `{convert}`, or say format = \"raw\" (--format raw) to export its bytes as they are", .path.display())]
    Foreign {
        /// What was opened.
        path: PathBuf,
        /// What it is.
        format: &'static str,
        /// The command that makes a raw image of it.
        convert: String,
    },
    /// Another export of this process shares a block with it and writes it in another way.
    #[error("{}: shares a block of {block} bytes with another export of the same file, which has another kind of store; give both the same store, or begin and end them at multiples of {block} bytes", .path.display())]
    SharedBlock {
        /// What was opened.
        path: PathBuf,
        /// What the exports' borders must be multiples of, in bytes.
        block: u64,
    },
    /// The file system has no O_DIRECT.
    #[error("{}: its file system has no direct I/O (O_DIRECT); use store = \"mmap\"", .0.display())]
    NoDirect(PathBuf),
    /// There are not as many addresses.
    #[error("{}: {bytes} bytes are more than can be mapped here{}; use store = \"direct\" (--direct), which maps nothing", .path.display(), .limit.as_ref().map_or(String::new(), |limit| format!(" ({limit})")))]
    TooLargeToMap {
        /// What was to be mapped.
        path: PathBuf,
        /// Bytes to map.
        bytes: u64,
        /// The limit that is in the way, where it is one of the process's own.
        limit: Option<String>,
    },
    /// `shared` without `direct`.
    #[error("{}: a shared backend needs the direct store, not {kind}: a page cache here would hide the other side's writes", .path.display())]
    SharedNeedsDirect {
        /// What was to be opened.
        path: PathBuf,
        /// What was asked for.
        kind: StoreKind,
    },
    /// `prealloc` failed.
    #[error("{}: cannot reserve {bytes} bytes: {cause}", .path.display())]
    Prealloc {
        /// What was opened.
        path: PathBuf,
        /// Size of the range.
        bytes: u64,
        /// The cause.
        cause: io::Error,
    },
    /// `ram` or `null` without a size.
    #[error("{}: no such file, so the {kind} store needs a length in sectors", .path.display())]
    NoSize {
        /// What was given.
        path: PathBuf,
        /// What was asked for.
        kind: StoreKind,
    },
    /// A path that begins like an address and is none.
    #[error("{}: {reason}", .path.display())]
    Address {
        /// What was given.
        path: PathBuf,
        /// What it should be.
        reason: &'static str,
    },
    /// Ceph's libraries are not there.
    #[error("{path}: {cause}")]
    CephLibrary {
        /// What was to be opened.
        path: String,
        /// What is missing.
        cause: LoadError,
    },
    /// There is no such image in the cluster.
    #[error("{path}: {what}")]
    RbdMissing {
        /// What was to be opened.
        path: String,
        /// What there is not, and what makes it.
        what: String,
    },
    /// Another client writes the image.
    #[error(
        "{path}: in use by {holder}, which has its exclusive lock; Ceph lets go of the lock of a client that died after 30 s"
    )]
    RbdInUse {
        /// What was to be opened.
        path: String,
        /// The client's address.
        holder: String,
    },
    /// This process has it.
    #[error(
        "{path}: still in use by this xblade, which closes an earlier opening of it or has it in another export; it is opened when that has \
         ended"
    )]
    RbdInUseHere {
        /// What was to be opened.
        path: String,
    },
    /// Another gateway of the failover group served another part of the image.
    #[error(
        "{path}: the gateway before served {before} of it (in sectors of 512 bytes), this one would serve {here}; make them alike in both \
         configurations. What is here is right once you say `xblade failover take`, or `{forget}` where the group is active here already"
    )]
    RbdRange {
        /// What was to be opened.
        path: String,
        /// What was served.
        before: String,
        /// What would be.
        here: String,
        /// The command that has it forgotten.
        forget: String,
    },
    /// The image cannot be locked.
    #[error(
        "{path}: has no exclusive lock, without which two writers would not know of each other; add it with `rbd feature enable {spec} exclusive-lock`, or export it read-only"
    )]
    RbdFeature {
        /// What was to be opened.
        path: String,
        /// The image as `rbd` takes it.
        spec: String,
    },
    /// A setting of the image or its pool stands against ours.
    #[error(
        "{path}: {option} must be {needed}, and the image's or its pool's own settings say otherwise; remove that with `rbd config image remove {spec} {option}` or `rbd config pool remove`"
    )]
    RbdOption {
        /// What was to be opened.
        path: String,
        /// librbd's option.
        option: &'static str,
        /// The value that it must have.
        needed: &'static str,
        /// The image as `rbd` takes it.
        spec: String,
    },
    /// Anything else that Ceph said.
    #[error("{path}: {doing}: {cause}")]
    Ceph {
        /// What it happened to.
        path: String,
        /// What was being done.
        doing: String,
        /// The cause.
        cause: io::Error,
    },
    /// An NBD server that is not there, or refuses.
    #[error("{}: {reason}", .path.display())]
    Nbd {
        /// What was to be opened.
        path: PathBuf,
        /// What it said, and what to do.
        reason: String,
    },
    /// Anything else the system said.
    #[error("{}: {doing}: {cause}{}", .path.display(), limits::of_failure(.cause))]
    System {
        /// What it happened to.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The cause.
        cause: io::Error,
    },
}

impl StoreError {
    /// A [`StoreError::System`] with its context.
    pub(crate) fn system(path: &Path, doing: &'static str, cause: impl Into<io::Error>) -> StoreError {
        StoreError::System {
            path: path.to_owned(),
            doing,
            cause: cause.into(),
        }
    }
}

/// The same options, for looking at the file without touching or locking it.
pub(crate) fn reading(options: &StoreOptions) -> StoreOptions {
    StoreOptions {
        read_only: true,
        shared: true,
        prealloc: false,
        ..options.clone()
    }
}

/// Checks offset and length (sectors) against an object of `bytes`, and gives the sectors to serve.
pub(crate) fn served_sectors(path: &Path, bytes: u64, offset: u64, length: u64) -> Result<u64, StoreError> {
    let path = || path.to_owned();
    let sectors = bytes / SECTOR_BYTES;
    if bytes == 0 {
        return Err(StoreError::Empty(path()));
    }
    if sectors == 0 {
        return Err(StoreError::UnderOneSector { path: path(), bytes });
    }
    if offset >= sectors {
        return Err(StoreError::OffsetBeyondEnd {
            path: path(),
            offset,
            sectors,
        });
    }
    match length {
        0 => Ok(sectors - offset),
        length if length <= sectors - offset => Ok(length),
        length => Err(StoreError::LengthBeyondEnd {
            path: path(),
            offset,
            length,
            sectors,
        }),
    }
}
