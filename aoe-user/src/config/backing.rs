//! What a backing file, block device or image looks like from outside. Opens no file, and takes no lock.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Access as Permission, AtFlags, CWD, accessat};

use super::{ExportConfig, StoreKind};
use crate::store::{RbdImage, StoreError, device_bytes, inspect_nbd, inspect_rbd};

const SECTOR_BYTES: u64 = aoe_common::wire::SECTOR_BYTES as u64;

/// The object behind an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackingFacts {
    /// Equal for two paths that lead to the same bytes, through links of any kind.
    pub(crate) identity: BackingIdentity,
    /// Its size.
    pub(crate) bytes: u64,
}

/// Which bytes a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum BackingIdentity {
    /// A regular file.
    File {
        /// Device number of the file system.
        device: u64,
        /// Inode number.
        inode: u64,
    },
    /// A block device, by its own number: every node of the same device is the same disk.
    Device(u64),
    /// An image elsewhere, by a digest of its address and of the way to it.
    Image(u64),
}

impl BackingFacts {
    /// Whole sectors.
    pub(crate) fn sectors(&self) -> u64 {
        self.bytes / SECTOR_BYTES
    }

    /// Bytes after the last whole sector, which are not exported.
    pub(crate) fn rest_bytes(&self) -> u64 {
        self.bytes % SECTOR_BYTES
    }
}

/// Looks at an export's path: that it is there, may be used as the export wants to, and is large enough.
///
/// # Errors
/// The key at fault and what is wrong with it.
pub(crate) fn examine(export: &ExportConfig) -> Result<BackingFacts, (&'static str, String)> {
    match export.store {
        StoreKind::Rbd => return Ok(examine_image(export)?.0),
        StoreKind::Nbd => return examine_nbd(export),
        _ => {}
    }
    let path = export.path.as_path();
    let backing = locate(path).map_err(|reason| ("path", format!("{}: {reason}", path.display())))?;
    if export.store.uses_file() {
        permitted(export).map_err(|reason| ("path", format!("{}: {reason}", path.display())))?;
    }
    fitting(export, backing)
}

/// Asks an NBD server for its export.
///
/// # Errors
/// The key at fault and what is wrong.
fn examine_nbd(export: &ExportConfig) -> Result<BackingFacts, (&'static str, String)> {
    let found = inspect_nbd(&export.path).map_err(|error| ("path", error.to_string()))?;
    if found.read_only && export.writes_backing() {
        let message = format!(
            "{}: the server exports it read-only; say read_only = true (--read-only)",
            export.path.display()
        );
        return Err(("read_only", message));
    }
    let mut digest = DefaultHasher::new();
    export.path.hash(&mut digest);
    let backing = BackingFacts {
        identity: BackingIdentity::Image(digest.finish()),
        bytes: found.bytes,
    };
    fitting(export, backing)
}

/// Looks at an image in Ceph.
///
/// # Errors
/// The key at fault and what is wrong.
pub(crate) fn examine_image(
    export: &ExportConfig,
) -> Result<(BackingFacts, RbdImage), (&'static str, String)> {
    let found = inspect_rbd(&export.path, &export.ceph).map_err(|error| {
        let key = match error {
            StoreError::CephLibrary { .. } => "store",
            _ => "path",
        };
        (key, error.to_string())
    })?;
    let mut digest = DefaultHasher::new();
    (&export.path, &export.ceph.conf).hash(&mut digest);
    let backing = BackingFacts {
        identity: BackingIdentity::Image(digest.finish()),
        bytes: found.bytes,
    };
    Ok((fitting(export, backing)?, found))
}

/// Whether offset and length fit.
fn fitting(export: &ExportConfig, backing: BackingFacts) -> Result<BackingFacts, (&'static str, String)> {
    let sectors = backing.sectors();
    let name = export.path.display();
    if sectors == 0 {
        let bytes = backing.bytes;
        let size = if bytes == 0 {
            "it is empty".into()
        } else {
            format!("it has only {bytes} bytes")
        };
        return Err((
            "path",
            format!("{name}: {size}; at least one sector of 512 bytes is needed"),
        ));
    }
    if export.offset >= sectors {
        let last = sectors - 1;
        let message = format!(
            "offset {} is beyond the end of {name}, which has {sectors} sectors: 0 to {last}",
            export.offset
        );
        return Err(("offset", message));
    }
    let rest = sectors - export.offset;
    if export.length > rest {
        let message = format!(
            "length {} reaches beyond the end of {name}: from sector {} there are 1 to {rest} (or 0: to the end)",
            export.length, export.offset
        );
        return Err(("length", message));
    }
    Ok(backing)
}

/// The sectors that an export of `backing` serves, which fits by [`examine`].
pub(crate) fn sectors_served(export: &ExportConfig, backing: &BackingFacts) -> u64 {
    let rest = backing.sectors().saturating_sub(export.offset);
    if export.length == 0 {
        rest
    } else {
        rest.min(export.length)
    }
}

fn locate(path: &Path) -> Result<BackingFacts, String> {
    let found = std::fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "no such file or block device".to_owned(),
        _ => e.to_string(),
    })?;
    let kind = found.file_type();
    if kind.is_file() {
        let identity = BackingIdentity::File {
            device: found.dev(),
            inode: found.ino(),
        };
        return Ok(BackingFacts {
            identity,
            bytes: found.len(),
        });
    }
    if kind.is_block_device() {
        let number = found.rdev();
        let bytes = device_bytes(number).map_err(|e| format!("its size cannot be read: {e}"))?;
        return Ok(BackingFacts {
            identity: BackingIdentity::Device(number),
            bytes,
        });
    }
    let kind = if kind.is_dir() {
        "a directory"
    } else {
        "neither a regular file nor a block device"
    };
    Err(format!("it is {kind}; an image file or a block device is needed"))
}

fn permitted(export: &ExportConfig) -> Result<(), String> {
    let may = |permission| accessat(CWD, &export.path, permission, AtFlags::EACCESS);
    may(Permission::READ_OK).map_err(|e| format!("it may not be read: {e}"))?;
    if !export.writes_backing() {
        return Ok(());
    }
    may(Permission::WRITE_OK)
        .map_err(|e| format!("it may not be written ({e}); export it read-only or give the right"))
}
