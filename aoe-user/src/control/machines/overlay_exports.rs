//! The exports of this process whose machines have copies of an image, for what none of them can tell alone: whose copies lie on an image,
//! and which machines boot.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use aoe_common::Mac;
use parking_lot::RwLock;

use super::Disks;
use super::naming::directory;
use crate::config::{ExportConfig, Overlay, StoreKind};
use crate::store::Golden;

/// All of them, as the configuration has them and as they are open.
#[derive(Debug, Default)]
pub(in crate::control) struct OverlayExports {
    configured: RwLock<Vec<Configured>>,
    open: RwLock<Vec<Weak<Disks>>>,
    /// Copies of one have ended with the host: that is so for a time after its start, and else nobody need look.
    some_ended: AtomicBool,
}

#[derive(Debug, Clone)]
struct Configured {
    address: String,
    /// Of its copies: no other export has the same.
    directory: PathBuf,
    image: PathBuf,
}

/// One whose copies may lie on an image.
#[derive(Debug, Clone)]
pub(super) struct ExportOnImage {
    pub(super) address: String,
    directory: PathBuf,
    /// `None`: it is not open, and nobody can tell what its copies lie on.
    pub(super) disks: Option<Arc<Disks>>,
}

impl PartialEq for ExportOnImage {
    fn eq(&self, other: &ExportOnImage) -> bool {
        let opening = |one: &ExportOnImage| one.disks.as_ref().map(Arc::as_ptr);
        self.directory == other.directory && opening(self) == opening(other)
    }
}

/// Where an export's image is, whatever links lead there. Blocks.
pub(super) fn place(path: &Path) -> io::Result<PathBuf> {
    std::fs::canonicalize(path)
}

impl OverlayExports {
    /// The configuration of now.
    pub(in crate::control) fn configure(&self, exports: &[ExportConfig]) {
        let files = exports
            .iter()
            .filter(|export| export.overlay != Overlay::None && export.store != StoreKind::Rbd);
        let configured = files.filter_map(|export| {
            Some(Configured {
                address: export.address(),
                directory: directory(export)?,
                image: export.path.clone(),
            })
        });
        *self.configured.write() = configured.collect();
    }

    pub(super) fn add(&self, disks: &Arc<Disks>) {
        let mut open = self.open.write();
        open.retain(|disks| disks.strong_count() > 0);
        open.push(Arc::downgrade(disks));
    }

    pub(super) fn remove(&self, disks: &Disks) {
        self.open
            .write()
            .retain(|open| !std::ptr::eq(open.as_ptr(), disks));
    }

    pub(super) fn note_ended(&self) {
        self.some_ended.store(true, Ordering::Relaxed);
    }

    /// A machine boots from one of them. Waits for nothing. Another network may have another machine with its address, which runs on.
    pub(super) fn tell_boot(&self, from: &Disks, mac: Mac) {
        if self.some_ended.load(Ordering::Relaxed) {
            let here = from.network();
            let open = self.open.read();
            let others = open.iter().filter(|disks| !std::ptr::eq(disks.as_ptr(), from));
            others
                .filter_map(Weak::upgrade)
                .filter(|disks| disks.network().meets(&here))
                .for_each(|disks| disks.boots_elsewhere(mac));
        }
    }

    fn open(&self) -> Vec<Arc<Disks>> {
        self.open.read().iter().filter_map(Weak::upgrade).collect()
    }

    /// Those whose copies may lie on this image. May wait for a disk, though not for that of an open export on another image.
    ///
    /// # Errors
    /// When that cannot be told of one.
    pub(super) fn on_image(&self, image: &Golden) -> Result<Vec<ExportOnImage>, String> {
        let looked = |path: &Path, error| format!("{}: looking for it: {error}", path.display());
        let here = place(image.path()).map_err(|error| looked(image.path(), error))?;
        let open = self.open();
        let mut found = Vec::new();
        for disks in open.iter().filter(|disks| disks.are_on(image, &here)) {
            found.push(ExportOnImage {
                address: disks.address.clone(),
                directory: disks.directory.clone(),
                disks: Some(Arc::clone(disks)),
            });
        }
        let configured = self.configured.read().clone();
        for export in configured {
            let of_it = open.iter().find(|disks| disks.directory == export.directory);
            // What is open under this configuration has told already.
            if of_it.is_some_and(|disks| disks.path == export.image)
                || found.iter().any(|one| one.directory == export.directory)
            {
                continue;
            }
            match place(&export.image) {
                Ok(place) if place == here => found.push(ExportOnImage {
                    address: export.address,
                    directory: export.directory,
                    disks: of_it.cloned(),
                }),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(format!(
                        "e{} has copies of an image, and it cannot be told whether of this one: {}",
                        export.address,
                        looked(&export.image, error)
                    ));
                }
                Ok(_) | Err(_) => {}
            }
        }
        found.sort_by(|one, other| one.directory.cmp(&other.directory));
        Ok(found)
    }
}
