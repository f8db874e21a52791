//! How the clusters of images are reached.

use std::path::PathBuf;

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
