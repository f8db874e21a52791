//! The clients of clusters that this process has: shared by images, as many for a cluster as the configuration says.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::error::Errno;
use super::ffi::Rados;
use super::options::CephOptions;
use super::path::RbdPath;
use super::unconnected;
use crate::options::StoreError;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) rados: Rados,
    pub(crate) client: Arc<CephClient>,
}

/// What images under way know of the client that they belong to.
#[derive(Debug, Default)]
pub(crate) struct CephClient {
    blocklisted: AtomicBool,
    retired: AtomicBool,
    /// Its address, once it is known from a lock.
    address: OnceLock<String>,
}

impl CephClient {
    /// The cluster takes nothing from it any more, for good: another client has to be made.
    pub(crate) fn is_blocklisted(&self) -> bool {
        self.blocklisted.load(Ordering::Acquire)
    }

    pub(crate) fn blocklist(&self) {
        self.blocklisted.store(true, Ordering::Release);
    }

    /// A lock of its own shows this address.
    pub(crate) fn learn_address(&self, address: &str) {
        self.address.get_or_init(|| address.to_owned());
    }

    /// Whether a lock is its own. False where it has none yet.
    pub(crate) fn is_at(&self, address: &str) -> bool {
        self.address.get().is_some_and(|own| own == address)
    }

    /// No further image is opened through it: it has lost one to somebody else. What it has besides goes on.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn is_usable(&self) -> bool {
        !self.is_blocklisted() && !self.retired.load(Ordering::Acquire)
    }
}

/// How long a connection may take to be made. Nothing else has a limit: a cluster that does not answer is waited for.
const CONNECT_SECONDS: &str = "15";

/// The connections to each cluster.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<CephOptions, OfCluster>>);

/// For each cluster a lock of its own: connecting takes time.
type OfCluster = Arc<Mutex<Vec<Weak<Cluster>>>>;

/// A client for one more image: the one with the fewest, or a new one.
pub(crate) fn connect(
    all: &Clients,
    options: &CephOptions,
    path: &RbdPath,
) -> Result<Arc<Cluster>, StoreError> {
    let clients = Arc::clone(all.0.lock().entry(options.clone()).or_default());
    // Held while connecting: whoever else wants one takes it, too.
    let mut clients = clients.lock();
    let usable = |client: &Weak<Cluster>| client.upgrade().filter(|cluster| cluster.client.is_usable());
    clients.retain(|client| usable(client).is_some());
    if clients.len() >= usize::from(options.clusters.max(1))
        && let Some(cluster) = clients.iter().filter_map(usable).min_by_key(Arc::strong_count)
    {
        return Ok(cluster);
    }
    let cluster = Arc::new(Cluster {
        rados: new_client(options, path, &[])?,
        client: Arc::default(),
    });
    clients.push(Arc::downgrade(&cluster));
    Ok(cluster)
}

/// For how long librbd has a client shut out.
pub(super) const BLOCKLIST_OPTION: &str = "rbd_blocklist_expire_seconds";

/// A client with these options besides the usual ones.
pub(super) fn new_client(
    options: &CephOptions,
    path: &RbdPath,
    more: &[(&str, &str)],
) -> Result<Rados, StoreError> {
    let failed = |doing: String| {
        move |errno: Errno| StoreError::Ceph {
            path: path.to_string(),
            doing,
            cause: errno.into(),
        }
    };
    let user = &options.user;
    let rados = Rados::new(user)
        .map_err(|cause| StoreError::CephLibrary {
            path: path.to_string(),
            cause,
        })?
        .map_err(failed(format!("making the client client.{user}")))?;
    let conf = options.conf.as_ref().map(|conf| conf.to_string_lossy());
    rados.read_file(conf.as_deref()).map_err(failed(match &conf {
        Some(conf) => format!("reading Ceph's configuration {conf}"),
        None => "reading Ceph's configuration ($CEPH_CONF, or /etc/ceph/ceph.conf)".to_owned(),
    }))?;
    let usual = [
        // What is answered is on all replicas.
        ("rbd_cache", "false"),
        // Every trimmed sector reads as zeros.
        ("rbd_skip_partial_discard", "false"),
        // Whoever loses its lock cannot write any more. Ceph 15 and older have another name for it.
        ("rbd_blocklist_on_break_lock", "true"),
        // Zero is the monitors' own time, an hour. Of any other one librbd 16 makes a command that they do not understand, and no lock is
        // broken. `Rados::shut_out` prolongs it.
        (BLOCKLIST_OPTION, "0"),
        // An operation that was given up has an unknown end, and none may be told to an initiator.
        ("rados_osd_op_timeout", "0"),
        ("client_mount_timeout", CONNECT_SECONDS),
        // One thread ends all operations. With more, the one that told that an image is open may look at it once more after another
        // one has closed it: librbd's ImageState::complete_action_unlock (src/librbd/ImageState.cc) takes its lock again, and the
        // process ends with `std::system_error`. More clients (`clusters`) are more threads.
        ("librados_thread_count", "1"),
    ];
    for (option, value) in usual.iter().chain(more) {
        rados
            .set(option, value)
            .map_err(failed(format!("setting {option} = {value}")))?;
    }
    rados.connect().map_err(|errno| StoreError::Ceph {
        path: path.to_string(),
        doing: format!("connecting to the cluster as client.{user}"),
        cause: io::Error::other(unconnected::explain(&rados, user, errno)),
    })?;
    Ok(rados)
}
