//! Clones of a snapshot, one for each machine that writes to a private copy of it.

use super::cluster::{self, Clients, Cluster};
use super::error::Errno;
use super::ffi::{RadosPool, RawImage};
use super::opening::{failure, parse};
use super::path::RbdPath;
use crate::options::{StoreError, StoreKind, StoreOptions};
use crate::registry::StoreRegistry;

/// Set last: a clone without it was not finished, and nobody has used it.
const KIND: &str = "xblade.overlay";
const GOLDEN: &str = "xblade.golden";
/// Its own name: Ceph copies an image's metadata to its clones and copies, and what stands there may be another one's.
const NAME: &str = "xblade.clone";
/// Where a clone says that it stays when its machine boots.
pub const CLONE_PINNED: &str = "xblade.pinned";
const PERSISTENT: &str = "persistent";
const VOLATILE: &str = "volatile";
const YES: &str = "yes";

/// `RBD_FEATURE_LAYERING`, `…_EXCLUSIVE_LOCK`, `…_OBJECT_MAP`, `…_FAST_DIFF` and `…_DEEP_FLATTEN`: what a clone may have of its image's.
const FEATURES: u64 = 0b11_1101;
/// Those that it needs: to be a clone, and to have one writer.
const NEEDED: u64 = 0b101;

/// The clones of a snapshot that are called `IMAGE.PREFIX.NAME`, in its pool.
#[derive(Debug)]
pub struct RbdClones {
    options: StoreOptions,
    registry: StoreRegistry,
    golden: RbdPath,
    prefix: String,
}

/// What a clone says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RbdClone {
    /// It stays until somebody takes it away.
    pub persistent: bool,
    /// It stays when its machine boots.
    pub pinned: bool,
    /// It was made of the snapshot that others are made of now.
    pub current: bool,
}

impl RbdClones {
    /// Those of the snapshot that `options` name. Nothing is asked for yet.
    ///
    /// # Errors
    /// When they name none.
    pub fn new(
        options: &StoreOptions,
        registry: &StoreRegistry,
        prefix: &str,
    ) -> Result<RbdClones, StoreError> {
        let golden = parse(&options.path)?;
        Ok(RbdClones {
            prefix: format!("{}.{prefix}.", golden.image),
            golden,
            options: options.clone(),
            registry: registry.clone(),
        })
    }

    /// What a clone is opened with.
    pub fn options(&self, name: &str) -> StoreOptions {
        StoreOptions {
            kind: StoreKind::Rbd,
            path: self.path(name).to_string().into(),
            read_only: false,
            ..self.options.clone()
        }
    }

    /// The names of all that there are, finished or not. Blocks, as all that follows.
    ///
    /// # Errors
    /// Of the cluster.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let (_cluster, pool) = self.pool()?;
        let images = pool
            .images()
            .map_err(|errno| failure(&self.golden, "listing the images of its pool", errno))?;
        let own = images.iter().filter_map(|image| image.strip_prefix(&self.prefix));
        Ok(own.map(str::to_owned).collect())
    }

    /// What a clone is; `None`: there is none, or its making was interrupted.
    ///
    /// # Errors
    /// Of the cluster.
    pub fn find(&self, name: &str) -> Result<Option<RbdClone>, StoreError> {
        let path = self.path(name);
        let failed = |errno| failure(&path, "reading what it is", errno);
        let (_cluster, pool) = self.pool()?;
        let image = match pool.open(&path.image, None, true) {
            Err(Errno(libc::ENOENT)) => return Ok(None),
            image => image.map_err(failed)?,
        };
        let value = |key| image.metadata(key).map_err(failed);
        let kind = value(KIND)?;
        let Some(kind) = kind else { return Ok(None) };
        // Of the image that it was made of, if its making was interrupted; one that was renamed has something of its own.
        if value(NAME)?.is_some_and(|name| name != path.image) && !image.has_data().map_err(failed)? {
            return Ok(None);
        }
        Ok(Some(RbdClone {
            persistent: kind == PERSISTENT,
            pinned: value(CLONE_PINNED)?.is_some_and(|pinned| pinned == YES),
            current: value(GOLDEN)? == Some(self.golden.to_string()),
        }))
    }

    /// Makes a clone in the place of one that is there. What a crash in the middle of this leaves is taken away the next time.
    ///
    /// # Errors
    /// Of the cluster.
    pub fn make(&self, name: &str, persistent: bool) -> Result<(), StoreError> {
        self.remove(name)?;
        let (cluster, pool) = self.pool()?;
        let (path, golden) = (self.path(name), &self.golden);
        let snapshot = golden.snapshot.as_deref().unwrap_or_default();
        let parent = pool
            .open(&golden.image, Some(snapshot), true)
            .map_err(|errno| failure(golden, "opening it", errno))?;
        let features = parent
            .features()
            .map_err(|errno| failure(golden, "reading its features", errno))?;
        drop(parent);
        let doing =
            "cloning it (before Ceph's clone v2 its snapshot has to be protected: `rbd snap protect`)";
        pool.clone_image(
            (&golden.image, snapshot),
            &path.image,
            features & FEATURES | NEEDED,
        )
        .map_err(|errno| failure(golden, doing, errno))?;
        let noting = |errno| failure(&path, "noting what it is", errno);
        let kind = if persistent { PERSISTENT } else { VOLATILE };
        let note = || {
            let image = pool.open(&path.image, None, false)?;
            image.set_metadata(GOLDEN, &golden.to_string())?;
            image.set_metadata(CLONE_PINNED, pinned_text(false))?;
            image.set_metadata(NAME, &path.image)?;
            image.set_metadata(KIND, kind)
        };
        let noted = note();
        if noted.is_err() {
            // Without its marks it would be in the way for good.
            let _ = pool.remove(&path.image);
        }
        drop((pool, cluster));
        noted.map_err(noting)
    }

    /// Takes a clone away, with all that was written to it; that there is none is well. Nobody may have it open.
    ///
    /// # Errors
    /// Of the cluster, and for an image of that name that is not known to be a clone made here.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let (_cluster, pool) = self.pool()?;
        let path = self.path(name);
        let finding = |errno| failure(&path, "finding out who made it", errno);
        let image = match pool.open(&path.image, None, true) {
            Err(Errno(libc::ENOENT)) => return Ok(()),
            image => image.map_err(finding)?,
        };
        let is_own = image.metadata(GOLDEN).map_err(finding)?.is_some();
        if !is_own {
            if !self.is_unfinished(&image).map_err(finding)? {
                return Err(failure(
                    &path,
                    "an image of that name is there that xblade did not make: `rbd rm` it, or give it another name",
                    Errno(libc::EEXIST),
                ));
            }
            tracing::warn!("{path}: a clone whose making was cut off, with nothing in it: it is taken away");
        }
        drop(image);
        match pool.remove(&path.image) {
            Ok(()) | Err(Errno(libc::ENOENT)) => Ok(()),
            Err(errno) => Err(failure(
                &path,
                "removing it (busy: it is open, or was by who died less than half a minute ago)",
                errno,
            )),
        }
    }

    /// Whether an image that is called like a clone is what a crash leaves between the making of one and its marks: nothing has ever been
    /// written to it, so that nothing is lost with it, and it is a clone of this image, or not even that yet.
    fn is_unfinished(&self, image: &RawImage) -> Result<bool, Errno> {
        let is_of_ours = image.parent()?.is_none_or(|parent| {
            let namespace = self.golden.namespace.as_deref().unwrap_or_default();
            (&*parent.pool, &*parent.namespace, &*parent.image)
                == (&*self.golden.pool, namespace, &*self.golden.image)
        });
        Ok(is_of_ours && !image.has_data()?)
    }

    fn path(&self, name: &str) -> RbdPath {
        RbdPath {
            image: format!("{}{name}", self.prefix),
            snapshot: None,
            ..self.golden.clone()
        }
    }

    /// The client is to live as long as the pool.
    fn pool(&self) -> Result<(std::sync::Arc<Cluster>, RadosPool), StoreError> {
        let clients: &Clients = self.registry.clients();
        let cluster = cluster::connect(clients, &self.options.ceph, &self.golden)?;
        let pool = cluster
            .rados
            .pool(&self.golden.pool, self.golden.namespace.as_deref())
            .map_err(|errno| failure(&self.golden, "opening its pool", errno))?;
        Ok((cluster, pool))
    }
}

/// The value of [`CLONE_PINNED`].
pub fn pinned_text(pinned: bool) -> &'static str {
    if pinned { YES } else { "no" }
}
