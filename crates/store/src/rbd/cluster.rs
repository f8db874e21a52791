//! The clients of clusters that this process has: shared by images, as many for a cluster as the configuration says.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

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
    /// What locks of its own may show as their owner's address.
    addresses: Mutex<Vec<String>>,
}

impl CephClient {
    /// The cluster takes nothing from it any more, for good: another client has to be made.
    pub(crate) fn is_blocklisted(&self) -> bool {
        self.blocklisted.load(Ordering::Acquire)
    }

    pub(crate) fn blocklist(&self) {
        self.blocklisted.store(true, Ordering::Release);
    }

    /// Locks of its own show one of these addresses: one, or several as `[A,B]`.
    fn learn_addresses(&self, addresses: &str) {
        let list = addresses
            .strip_prefix('[')
            .and_then(|list| list.strip_suffix(']'));
        let all = list.unwrap_or(addresses).split(',');
        let all = all.map(|address| without_type(address).to_owned());
        self.addresses.lock().extend(all);
    }

    fn is_at(&self, address: &str) -> bool {
        self.addresses
            .lock()
            .iter()
            .any(|own| own == without_type(address))
    }

    /// No further image is opened through it: it has lost one to somebody else. What it has besides goes on.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn is_usable(&self) -> bool {
        !self.is_blocklisted() && !self.retired.load(Ordering::Acquire)
    }
}

/// An address as locks show it. Clients have no type of address, and some versions write one nevertheless.
fn without_type(address: &str) -> &str {
    let types = ["v1:", "v2:", "any:"];
    types
        .iter()
        .find_map(|kind| address.strip_prefix(kind))
        .unwrap_or(address)
}

/// How long a connection may take to be made. Nothing else has a limit: a cluster that does not answer is waited for.
const CONNECT_SECONDS: &str = "15";

/// The connections to each cluster.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    of_clusters: Mutex<HashMap<CephOptions, OfCluster>>,
    /// All that have images, of whatever cluster, also those that get no more.
    own: Mutex<Vec<Weak<CephClient>>>,
    breakers: Mutex<HashMap<CephOptions, Arc<WhileUsed<Rados>>>>,
}

/// For each cluster a lock of its own: connecting takes time.
type OfCluster = Arc<Mutex<Vec<Weak<Cluster>>>>;

impl Clients {
    /// Whether a lock with this address is this process's own, and keeps somebody from writing: what is shut out already has nothing left.
    pub(crate) fn have(&self, address: &str) -> bool {
        let own = self.own.lock();
        let mut live = own.iter().filter_map(Weak::upgrade);
        live.any(|client| client.is_at(address) && !client.is_blocklisted())
    }

    /// From before it has its first lock.
    fn add(&self, client: &Arc<CephClient>) {
        let mut own = self.own.lock();
        own.retain(|client| client.strong_count() > 0);
        own.push(Arc::downgrade(client));
    }

    /// The client that breaks locks: one for all images that are taken over at the same time. `may_go_on` is asked before it is made, for which others
    /// may have been waited.
    pub(crate) fn breaker(
        &self,
        options: &CephOptions,
        path: &RbdPath,
        may_go_on: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<Arc<Rados>, StoreError> {
        let breaker = Arc::clone(self.breakers.lock().entry(options.clone()).or_default());
        breaker.get(|| {
            may_go_on()?;
            // Who has its lock is shut out by the client that takes it: each change of the OSD map may wait a second for the one before
            // (`paxos_propose_interval`).
            new_client(options, path, &[("rbd_blocklist_on_break_lock", "false")])
        })
    }
}

/// One for all that need it at the same time; it goes with the last of them.
#[derive(Debug)]
struct WhileUsed<T>(Mutex<Weak<T>>);

impl<T> Default for WhileUsed<T> {
    fn default() -> WhileUsed<T> {
        WhileUsed(Mutex::new(Weak::new()))
    }
}

impl<T> WhileUsed<T> {
    /// The one that there is, or else a new one, which others wait for.
    fn get<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut one = self.0.lock();
        if let Some(one) = one.upgrade() {
            return Ok(one);
        }
        let new = Arc::new(make()?);
        *one = Arc::downgrade(&new);
        Ok(new)
    }
}

/// A client for one more image: the one with the fewest, or a new one.
pub(crate) fn connect(
    all: &Clients,
    options: &CephOptions,
    path: &RbdPath,
) -> Result<Arc<Cluster>, StoreError> {
    let clients = Arc::clone(all.of_clusters.lock().entry(options.clone()).or_default());
    // Held while connecting: whoever else wants one takes it, too.
    let mut clients = clients.lock();
    let usable = |client: &Weak<Cluster>| client.upgrade().filter(|cluster| cluster.client.is_usable());
    clients.retain(|client| usable(client).is_some());
    if clients.len() >= usize::from(options.clusters.max(1))
        && let Some(cluster) = clients.iter().filter_map(usable).min_by_key(Arc::strong_count)
    {
        return Ok(cluster);
    }
    let rados = new_client(options, path, &[])?;
    let addresses = rados.addresses().map_err(|errno| StoreError::Ceph {
        path: path.to_string(),
        doing: "asking for its own address".to_owned(),
        cause: errno.into(),
    })?;
    let client = Arc::new(CephClient::default());
    client.learn_addresses(&addresses);
    all.add(&client);
    let cluster = Arc::new(Cluster { rados, client });
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A hundred images are taken over side by side: each would connect at the same moment, while the gateway before is already shut out.
    #[test]
    fn all_that_break_locks_at_the_same_time_do_it_through_one_client() {
        const IMAGES: usize = 16;
        let (one, made) = (WhileUsed::<()>::default(), AtomicUsize::new(0));
        let make = || {
            made.fetch_add(1, Ordering::Relaxed);
            Ok::<(), ()>(())
        };
        let all_have_it = Barrier::new(IMAGES);
        std::thread::scope(|scope| {
            for _ in 0..IMAGES {
                scope.spawn(|| {
                    let _one = one.get(make);
                    all_have_it.wait();
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
        // The next take-over has another: this one may have been shut out meanwhile.
        assert!(one.get(|| Err(())).is_err());
        one.get(make).unwrap();
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn locks_of_all_clients_of_this_process_are_its_own_as_long_as_they_can_be_used() {
        let (clients, [first, second]) = (Clients::default(), [(); 2].map(|()| Arc::default()));
        clients.add(&first);
        clients.add(&second);
        first.learn_addresses("10.0.0.1:0/17");
        second.learn_addresses("[v2:[fd00::1]:0/5,v1:[fd00::1]:0/5]");
        for own in ["10.0.0.1:0/17", "v2:10.0.0.1:0/17", "[fd00::1]:0/5"] {
            assert!(clients.have(own), "{own}");
        }
        for other in ["10.0.0.1:0/1", "10.0.0.2:0/17", ""] {
            assert!(!clients.have(other), "{other}");
        }
        // One image of it is lost: what it has besides goes on.
        first.retire();
        assert!(clients.have("10.0.0.1:0/17"));
        second.blocklist();
        assert!(
            !clients.have("[fd00::1]:0/5"),
            "nothing of it is written any more"
        );
        drop(first);
        assert!(!clients.have("10.0.0.1:0/17"), "its images are closed");
    }
}
