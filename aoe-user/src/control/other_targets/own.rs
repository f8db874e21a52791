//! The addresses that this process answers from.

use std::sync::Arc;

use aoe_common::Mac;
use parking_lot::Mutex;

/// Whoever answers from one of them is this process by another path, and no other target. An address of this host alone does not tell:
/// another target may run here, on an interface of its own. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct OwnAddresses(Arc<Mutex<Vec<Mac>>>);

/// Keeps an address in the set as long as it lives.
#[derive(Debug)]
pub(in crate::control) struct OwnAddress {
    all: OwnAddresses,
    mac: Mac,
}

impl OwnAddresses {
    /// A port answers from this address, or is about to.
    pub(in crate::control) fn add(&self, mac: Mac) -> OwnAddress {
        self.0.lock().push(mac);
        OwnAddress {
            all: self.clone(),
            mac,
        }
    }

    pub(super) fn contains(&self, mac: Mac) -> bool {
        self.0.lock().contains(&mac)
    }
}

impl Drop for OwnAddress {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        // Ports of one address, as of a VLAN device and its interface, each have their own entry.
        if let Some(place) = all.iter().position(|mac| *mac == self.mac) {
            all.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_ours_as_long_as_a_port_has_it() {
        let (all, mac) = (OwnAddresses::default(), Mac([2, 0, 0, 0, 0, 1]));
        assert!(!all.contains(mac));
        let (first, second) = (all.add(mac), all.clone().add(mac));
        drop(first);
        assert!(all.contains(mac));
        drop(second);
        assert!(!all.contains(mac));
    }
}
