//! Paths that are addresses: of an image in Ceph, or of an export of an NBD server.

use std::path::Path;

use crate::nbd::NbdAddress;
use crate::options::StoreKind;
use crate::rbd::RbdPath;

/// A path that begins as an address does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemotePath {
    /// The store that it needs.
    pub store: StoreKind,
    /// What it names can only be read.
    pub read_only: bool,
}

impl RemotePath {
    /// Reads a path. `None`: it is a file's.
    ///
    /// # Errors
    /// What it should be, where it begins as an address and is none.
    pub fn of(path: &Path) -> Option<Result<RemotePath, &'static str>> {
        if RbdPath::is_meant(path) {
            let image = RbdPath::parse(path);
            return Some(image.map(|image| RemotePath {
                store: StoreKind::Rbd,
                read_only: image.snapshot.is_some(),
            }));
        }
        NbdAddress::is_meant(path).then(|| {
            let address = NbdAddress::parse(path);
            address.map(|_| RemotePath {
                store: StoreKind::Nbd,
                read_only: false,
            })
        })
    }
}
