//! Opening an image: found, looked at, and locked.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::cluster::{self, BLOCKLIST_OPTION, Clients, Cluster};
use super::error::{Errno, LoadError};
use super::ffi::{self, Operation, Rados, RadosPool, RawImage};
use super::options::CephOptions;
use super::path::RbdPath;
use crate::format;
use crate::format::ImageFormat;
use crate::options::{StoreError, StoreOptions};

/// `RBD_FEATURE_EXCLUSIVE_LOCK`
const EXCLUSIVE_LOCK: u64 = 1 << 2;

/// Where a gateway of a failover group writes, in the image's metadata, that the lock is its own. Others of the group may break the lock
/// that stands there, and nobody else's.
const HOLDER_KEY: &str = "xblade.holder";

/// Where it writes which part of the image the group's initiators see. A gateway that would show them another one does not take it.
const RANGE_KEY: &str = "xblade.range";

const READING_RANGE: &str = "reading which part of it was served";

/// An open image, and all that has to live as long.
#[derive(Debug)]
pub(crate) struct OpenedImage {
    // Dropped in this order.
    pub(crate) image: RawImage,
    _pool: RadosPool,
    pub(crate) cluster: Arc<Cluster>,
}

/// What an image looks like from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RbdImage {
    /// Its size.
    pub bytes: u64,
    /// Who has its lock: an address.
    pub owner: Option<String>,
    /// The owner is alive and has not taken the lock as a gateway of a failover group: another program, or an xblade without a group.
    pub is_foreign: bool,
    /// Which part of it a gateway of a failover group served last.
    pub range: Option<String>,
}

impl RbdImage {
    /// Whether the gateway before served the same part of the image: another one would be another disk to initiators.
    ///
    /// # Errors
    /// It did not.
    pub fn check_range(&self, path: &Path, (offset, length): (u64, u64)) -> Result<(), StoreError> {
        same_range(&parse(path)?, self.range.clone(), &range(offset, length))
    }
}

/// Whether Ceph's libraries can be used; loads them.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<(), LoadError> {
    ffi::functions().map(drop)
}

/// Looks at an image without touching it: no lock, and no watch that would keep others from removing it.
///
/// # Errors
/// When it is not there, or its cluster cannot be reached or does not answer within some seconds.
pub fn inspect(path: &Path, ceph: &CephOptions) -> Result<RbdImage, StoreError> {
    let path = &parse(path)?;
    // Nothing is written through this client, so that what it gives up may be given up.
    let rados = cluster::new_client(ceph, path, &[("rados_osd_op_timeout", "15")])?;
    let (_pool, image) = find(&rados, path, true)?;
    let failed = |doing| move |errno| failure(path, doing, errno);
    let bytes = image.bytes().map_err(failed("reading its size"))?;
    let owner = image.lock_owner().map_err(failed("asking who has its lock"))?;
    let is_foreign = match &owner {
        Some(owner) => is_foreign(&image, path, owner)?,
        None => false,
    };
    let features = image.features().map_err(failed("reading its features"))?;
    // Others are written by no gateway, and some of them have no metadata.
    let is_written = path.snapshot.is_none() && features & EXCLUSIVE_LOCK != 0;
    let range = is_written.then(|| image.metadata(RANGE_KEY)).transpose();
    Ok(RbdImage {
        bytes,
        owner,
        is_foreign,
        range: range.map_err(failed(READING_RANGE))?.flatten(),
    })
}

/// Whether a lock's owner is no gateway of a failover group, and alive: it watches the image, or has stopped doing so less than half a
/// minute ago.
fn is_foreign(image: &RawImage, path: &RbdPath, owner: &String) -> Result<bool, StoreError> {
    let holder = image
        .metadata(HOLDER_KEY)
        .map_err(|errno| failure(path, "reading which gateway has it", errno))?;
    Ok(holder.as_ref() != Some(owner) && is_alive(image, path, owner)?)
}

fn is_alive(image: &RawImage, path: &RbdPath, client: &String) -> Result<bool, StoreError> {
    let watchers = image
        .watchers()
        .map_err(|errno| failure(path, "asking who watches it", errno))?;
    Ok(watchers.contains(client))
}

/// Reads a path.
pub(super) fn parse(path: &Path) -> Result<RbdPath, StoreError> {
    RbdPath::parse(path).map_err(|reason| StoreError::Address {
        path: path.to_owned(),
        reason,
    })
}

/// What went wrong with an image.
pub(super) fn failure(path: &RbdPath, doing: &'static str, errno: Errno) -> StoreError {
    StoreError::Ceph {
        path: path.to_string(),
        doing: doing.to_owned(),
        cause: errno.into(),
    }
}

/// Finds and opens it. The image must be dropped first.
fn find(rados: &Rados, path: &RbdPath, read_only: bool) -> Result<(RadosPool, RawImage), StoreError> {
    let missing = |what: String| {
        move |errno: Errno| match errno {
            Errno(libc::ENOENT) => StoreError::RbdMissing {
                path: path.to_string(),
                what,
            },
            errno => failure(path, "opening it", errno),
        }
    };
    let pool = rados
        .pool(&path.pool, path.namespace.as_deref())
        .map_err(missing(format!("there is no pool {}", path.pool)))?;
    let spec = path.spec();
    let what = match &path.snapshot {
        Some(snapshot) => format!("there is no snapshot {snapshot} of an image {spec}"),
        None => format!("there is no image {spec}; `rbd create --size SIZE {spec}` makes one"),
    };
    let image = pool
        .open(&path.image, path.snapshot.as_deref(), read_only)
        .map_err(missing(what))?;
    Ok((pool, image))
}

/// Opens what `options` name; locked, unless it is only read. `changed` is called when the image's header changes.
pub(super) fn open(
    options: &StoreOptions,
    clients: &Clients,
    path: &RbdPath,
    read_only: bool,
    changed: Box<dyn Fn() + Send + Sync>,
) -> Result<OpenedImage, StoreError> {
    let cluster = cluster::connect(clients, &options.ceph, path)?;
    let opened = find(&cluster.rados, path, read_only).and_then(|(pool, mut image)| {
        if !read_only {
            check_options(&image, path)?;
            if let Some(takeover) = &options.takeover
                && takeover.same_range
            {
                check_range(&image, path, options)?;
            }
            lock(clients, &cluster, &image, path, options)?;
            if options.takeover.is_some() {
                tell_others(&cluster.rados, &image, path, options)?;
            }
        }
        image
            .watch(changed)
            .map_err(|errno| failure(path, "watching its header", errno))?;
        Ok((pool, image))
    });
    let (pool, image) = opened.inspect_err(|error| {
        if let StoreError::Ceph { cause, .. } = error
            && cause.raw_os_error() == Some(libc::ESHUTDOWN)
        {
            // The client was fenced before: the next one that opens needs another.
            cluster.client.blocklist();
        }
    })?;
    let opened = OpenedImage {
        image,
        _pool: pool,
        cluster,
    };
    if options.format == ImageFormat::Detect {
        refuse_foreign(&opened.image, &options.path, path)?;
    }
    Ok(opened)
}

/// What the image's or the pool's own settings may have changed of ours.
fn check_options(image: &RawImage, path: &RbdPath) -> Result<(), StoreError> {
    let options = image
        .options()
        .map_err(|errno| failure(path, "reading librbd's options for it", errno))?;
    let spec = path.spec();
    for (option, needed) in [
        ("rbd_cache", "false"),
        ("rbd_blocklist_on_break_lock", "true"),
        (BLOCKLIST_OPTION, "0"),
    ] {
        let value = options
            .iter()
            .find(|(name, _)| name == option)
            .map(|(_, value)| value);
        if value.is_some_and(|value| value != needed) {
            return Err(StoreError::RbdOption {
                path: path.to_string(),
                option,
                needed,
                spec,
            });
        }
    }
    Ok(())
}

/// Takes the lock. Never from somebody who is alive, unless it is to be taken over from him, and never from this process.
fn lock(
    clients: &Clients,
    cluster: &Cluster,
    image: &RawImage,
    path: &RbdPath,
    options: &StoreOptions,
) -> Result<(), StoreError> {
    let features = image
        .features()
        .map_err(|errno| failure(path, "reading its features", errno))?;
    if features & EXCLUSIVE_LOCK == 0 {
        return Err(StoreError::RbdFeature {
            path: path.to_string(),
            spec: path.spec(),
        });
    }
    let owner = image
        .lock_owner()
        .map_err(|errno| failure(path, "asking who has its lock", errno))?;
    if let Some(owner) = &owner {
        let takeover = options.takeover.as_ref();
        if clients.have(owner) {
            // Another export has it, or the one before a reload.
            return Err(in_use(clients, path, Some(owner)));
        } else if let Some(takeover) = takeover.filter(|takeover| takeover.from.includes(owner)) {
            break_lock(clients, cluster, path, options, owner, takeover.by)?;
        } else if is_alive(image, path, owner)? {
            // Whoever is alive would be asked for its lock, which takes five seconds when it does not answer; and one that is not exclusive
            // would hand it over, in the middle of its work.
            return Err(in_use(clients, path, Some(owner)));
        } else {
            shut_out(&cluster.rados, path, owner)?;
        }
    }
    // A lock whose owner has gone is broken by librbd, which has the cluster shut the owner out first.
    match image.lock() {
        Ok(()) => Ok(()),
        Err(Errno(libc::EROFS | libc::EBUSY)) => {
            // Somebody was faster.
            let now = owner_now(&cluster.rados, path).ok().flatten();
            Err(in_use(clients, path, now.or(owner).as_deref()))
        }
        Err(errno) => Err(failure(path, "taking its lock", errno)),
    }
}

/// What is said of a lock that is held.
fn in_use(clients: &Clients, path: &RbdPath, holder: Option<&str>) -> StoreError {
    let path = path.to_string();
    match holder {
        Some(holder) if clients.have(holder) => StoreError::RbdInUseHere { path },
        holder => StoreError::RbdInUse {
            path,
            holder: holder.unwrap_or("another client").to_owned(),
        },
    }
}

/// Who has the lock now. A handle that is open knows only who had it when it looked first.
fn owner_now(rados: &Rados, path: &RbdPath) -> Result<Option<String>, StoreError> {
    let (_pool, image) = find(rados, path, true)?;
    let owner = image.lock_owner();
    owner.map_err(|errno| failure(path, "asking who has its lock", errno))
}

/// Shuts out the client that has the lock, and breaks it. What that takes is there first: who is shut out loses all that it has.
fn break_lock(
    clients: &Clients,
    cluster: &Cluster,
    path: &RbdPath,
    options: &StoreOptions,
    owner: &str,
    by: Instant,
) -> Result<(), StoreError> {
    let in_time = || match Instant::now() > by {
        true => Err(in_use(clients, path, Some(owner))),
        false => Ok(()),
    };
    let breaker = clients.breaker(&options.ceph, path, in_time)?;
    let (_pool, image) = find(&breaker, path, false)?;
    in_time()?;
    shut_out(&cluster.rados, path, owner)?;
    match image.break_lock(owner) {
        // It has let go of it, or somebody else was faster: then the lock cannot be taken.
        Ok(()) | Err(Errno(libc::ENOENT | libc::EBUSY)) => Ok(()),
        Err(errno) => Err(failure(path, "breaking the lock of the gateway before", errno)),
    }
}

/// Shuts a client out for thirty days, not for Ceph's usual hour: a write that is inside a client which cannot reach the cluster would be carried
/// out, after all that was written since, when the entry expires before the client reaches it again. `rados` has the OSD map with the entry when this
/// returns, so that all it writes comes after (`RadosClient::blocklist_add` in Ceph's src/librados). An entry that is there already stays
/// as it is (`OSDMap::apply_incremental`): this must come first.
fn shut_out(rados: &Rados, path: &RbdPath, client: &str) -> Result<(), StoreError> {
    const SECONDS: u32 = 30 * 24 * 3600;
    let shut_out = rados.shut_out(client, SECONDS);
    shut_out.map_err(|errno| failure(path, "shutting out the client that had it", errno))
}

/// A part of an image, in sectors.
fn range(offset: u64, length: u64) -> String {
    format!("offset {offset}, length {length}")
}

/// The part of an image that is to be served.
fn range_of(options: &StoreOptions) -> String {
    range(options.offset, options.length)
}

/// The gateway before served the same part of the image: another one would be another disk to initiators.
fn check_range(image: &RawImage, path: &RbdPath, options: &StoreOptions) -> Result<(), StoreError> {
    let before = image.metadata(RANGE_KEY);
    let before = before.map_err(|errno| failure(path, READING_RANGE, errno))?;
    same_range(path, before, &range_of(options))
}

fn same_range(path: &RbdPath, before: Option<String>, here: &str) -> Result<(), StoreError> {
    match before.filter(|before| before != here) {
        Some(before) => Err(StoreError::RbdRange {
            path: path.to_string(),
            before,
            here: here.to_owned(),
            forget: format!("rbd image-meta remove {} {RANGE_KEY}", path.spec()),
        }),
        None => Ok(()),
    }
}

/// Writes down for other gateways of the failover group that the lock is that of one of them, and what it serves.
fn tell_others(
    rados: &Rados,
    image: &RawImage,
    path: &RbdPath,
    options: &StoreOptions,
) -> Result<(), StoreError> {
    // Nobody has it: it is lost again, which its keeper finds out.
    let Some(owner) = owner_now(rados, path)? else {
        return Ok(());
    };
    let told = image
        .set_metadata(HOLDER_KEY, &owner)
        .and_then(|()| image.set_metadata(RANGE_KEY, &range_of(options)));
    told.map_err(|errno| failure(path, "writing down which gateway has it", errno))
}

/// Images that are no plain sectors, as with files.
fn refuse_foreign(image: &RawImage, name: &Path, path: &RbdPath) -> Result<(), StoreError> {
    let failed = |errno: Errno| failure(path, "reading it", errno);
    let bytes = image.bytes().map_err(failed)?;
    let read = |start: u64, len: usize| -> io::Result<Box<[u8]>> {
        let (done, end) = std::sync::mpsc::sync_channel(1);
        // Nobody listens only where this function has ended.
        let told = Box::new(move |result| drop(done.send(result)));
        image.start(Operation::Read(start), vec![0; len].into_boxed_slice(), told)?;
        let result = end.recv().map_err(io::Error::other)?;
        Ok(result?)
    };
    let foreign = format::recognise_in(bytes, read).map_err(|cause| StoreError::Ceph {
        path: path.to_string(),
        doing: "reading it".to_owned(),
        cause,
    })?;
    match foreign {
        Some(foreign) => Err(StoreError::Foreign {
            path: name.to_owned(),
            format: foreign.name,
            convert: foreign.convert(name),
        }),
        None => Ok(()),
    }
}
