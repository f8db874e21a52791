//! The network that an export is served on: an address is one machine's there, and may be another one's elsewhere.

use aoe_common::Vlan;

use crate::config::{ExportConfig, interfaces};

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Network {
    vlan: Vlan,
    /// Names and globs, as configured.
    interfaces: Vec<String>,
}

impl Default for Network {
    /// Of an export that nothing is known of yet.
    fn default() -> Network {
        Network {
            vlan: Vlan::Untagged,
            interfaces: Vec::new(),
        }
    }
}

impl Network {
    pub(super) fn of(config: &ExportConfig) -> Network {
        Network {
            vlan: config.vlan,
            interfaces: config.interfaces.clone(),
        }
    }

    /// Whether one machine may be heard at both, as far as the configuration tells.
    pub(super) fn meets(&self, other: &Network) -> bool {
        self.vlan.overlaps(other.vlan) && interfaces::meet(&self.interfaces, &other.interfaces)
    }
}
