//! How the clusters of images are reached.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How a cluster is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CephOptions {
    /// Ceph's configuration file; none: where Ceph looks by itself (`$CEPH_CONF`, then `/etc/ceph/ceph.conf`).
    pub conf: Option<PathBuf>,
    /// Who to be: `client.USER`.
    pub user: String,
    /// Clients (`rados_t`) that images are spread over, at most.
    pub clusters: u16,
}

impl CephOptions {
    /// Who to be where nothing is said.
    pub const USER: &str = "xblade";
}

impl Default for CephOptions {
    fn default() -> CephOptions {
        CephOptions {
            conf: None,
            user: CephOptions::USER.to_owned(),
            clusters: 1,
        }
    }
}

/// How a gateway of a failover group takes an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Whose lock may be broken.
    pub from: LockOf,
    /// The image is taken only where the gateway before served the same part of it.
    pub same_range: bool,
    /// No lock is broken after this time: where Ceph took so long, the gateway before was silent because of that, and may be well again.
    pub by: Instant,
    /// After so long without an answer of Ceph's nobody is answered until there is one.
    pub lease: Duration,
}

/// Clients by the lock that they have on an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockOf {
    /// Whoever has it.
    Anybody,
    /// The one with this address, as [`crate::inspect_rbd`] tells it.
    Client(String),
    /// None: a lock that is held is not touched.
    Nobody,
}

impl LockOf {
    pub(super) fn includes(&self, address: &str) -> bool {
        match self {
            LockOf::Anybody => true,
            LockOf::Client(client) => client == address,
            LockOf::Nobody => false,
        }
    }
}
