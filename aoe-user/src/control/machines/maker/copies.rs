//! What there is of machines' copies: files beside each other, or clones in Ceph.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::super::content::Content;
use super::super::naming::DiskName;
use super::calls::Calls;
use crate::config::{ExportConfig, StoreKind};
use crate::control::store_options::store_options;
use crate::store::{OverlayFiles, RbdClones, StoreRegistry, look_for_memory};

/// Where the copies of an export are.
#[derive(Debug)]
pub(super) enum Copies {
    /// Files in a directory.
    Files {
        /// Which.
        directory: PathBuf,
        /// It is noted in memory what they hold, where there is a place for it.
        in_memory: bool,
    },
    /// Clones of the image's snapshot.
    Clones(Arc<RbdClones>, Calls),
}

/// What a copy that is there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Left {
    pub(super) persistent: bool,
    /// It stays when its machine boots.
    pub(super) pinned: bool,
}

impl Copies {
    /// Those of an export whose own directory this is.
    pub(super) fn new(
        config: &ExportConfig,
        directory: PathBuf,
        in_memory: bool,
        registry: &StoreRegistry,
    ) -> Result<Copies> {
        if config.store != StoreKind::Rbd {
            if in_memory && let Err(error) = look_for_memory() {
                tracing::warn!(
                    "{}: what copies hold is noted on the disk of overlay_dir ({}), unless that is a tmpfs: while that disk is slow or \
                     hangs, a machine's write keeps other exports waiting; there is no place in memory: {error}",
                    config.address(),
                    directory.display()
                );
            }
            return Ok(Copies::Files { directory, in_memory });
        }
        // The directory's name tells exports apart.
        let prefix = directory.file_name().unwrap_or_default().to_string_lossy();
        let clones = RbdClones::new(&store_options(config), registry, &prefix)?;
        Ok(Copies::Clones(Arc::new(clones), Calls::new()))
    }

    /// The files of a copy; of a clone, which has none, where they would be.
    pub(super) fn files(&self, name: &DiskName) -> OverlayFiles {
        match self {
            Copies::Files { directory, in_memory } => {
                OverlayFiles::placed(directory.join(name.file_stem()), *in_memory)
            }
            Copies::Clones(..) => OverlayFiles::new(name.file_stem()),
        }
    }

    /// Everybody of whose copy there is something, even if it does not go on.
    pub(super) fn names(&self) -> Result<Vec<DiskName>> {
        Ok(match self {
            Copies::Files { directory, .. } => {
                let entries = std::fs::read_dir(directory)
                    .with_context(|| format!("{}: cannot be read", directory.display()))?;
                let mut names = Vec::new();
                for entry in entries {
                    let entry = entry.with_context(|| format!("{}: cannot be read", directory.display()))?;
                    names.extend(DiskName::of_file(&entry.path()));
                }
                names
            }
            Copies::Clones(clones, _) => {
                let names = clones.names()?;
                names.iter().filter_map(|name| DiskName::of_stem(name)).collect()
            }
        })
    }

    /// What a copy is that goes on; `None`: there is none.
    ///
    /// # Errors
    /// When that cannot be told.
    pub(super) fn left(&self, name: &DiskName) -> Result<Option<Left>> {
        match self {
            Copies::Files { .. } => {
                let files = self.files(name);
                let unknown = || format!("{}: what is there cannot be told", files.base().display());
                let left = Left {
                    persistent: files.are_persistent(),
                    pinned: files.are_pinned().with_context(unknown)?,
                };
                Ok(files.are_left().with_context(unknown)?.then_some(left))
            }
            Copies::Clones(clones, _) => {
                let (clones, stem) = (Arc::clone(clones), name.file_stem());
                let found = self.about(&name.to_string(), move || Ok(clones.find(&stem)?))?;
                Ok(found.map(|clone| Left {
                    persistent: clone.persistent,
                    pinned: clone.pinned,
                }))
            }
        }
    }

    /// Whether there is anything that can be taken away.
    ///
    /// # Errors
    /// When that cannot be told.
    pub(super) fn has_any(&self, name: &DiskName) -> Result<bool> {
        Ok(match self {
            Copies::Files { .. } => {
                let files = self.files(name);
                files.have_any()
            }
            Copies::Clones(..) => self.left(name)?.is_some(),
        })
    }

    /// Takes a copy away that nobody has open any more. What is given of it goes first, which may be a call to a cluster, too.
    ///
    /// # Errors
    /// When it stays.
    pub(super) fn discard(&self, name: &DiskName, content: Option<Content>) -> Result<()> {
        match self {
            Copies::Files { .. } => {
                drop(content);
                let files = self.files(name);
                files
                    .discard()
                    .with_context(|| format!("{}: cannot be removed", files.base().display()))
            }
            Copies::Clones(clones, _) => {
                let (clones, stem) = (Arc::clone(clones), name.file_stem());
                self.about(&name.to_string(), move || {
                    drop(content);
                    Ok(clones.remove(&stem)?)
                })
            }
        }
    }

    /// Nobody asks for anything any more: what was begun comes to its end.
    pub(super) fn finish(&self) {
        if let Copies::Clones(_, calls) = self {
            calls.finish();
        }
    }

    /// Does something that waits for the storage of one machine's copy, or of the image.
    ///
    /// # Errors
    /// Its own; also when a cluster does not answer in time.
    pub(super) fn about<T: Send + 'static>(
        &self,
        what: &str,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match self {
            Copies::Files { .. } => call(),
            Copies::Clones(_, calls) => calls.about(what, call),
        }
    }
}
