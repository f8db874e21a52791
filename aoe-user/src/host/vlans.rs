//! The VLAN devices of this machine.

use std::collections::BTreeMap;
use std::fs;

/// The VLANs that have a device of their own on an interface.
pub(crate) fn vlan_devices(interface: &str) -> BTreeMap<u16, String> {
    // It is there once the kernel's VLAN module is.
    let text = fs::read_to_string("/proc/net/vlan/config").unwrap_or_default();
    let device = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        let (name, vid, parent) = (columns.next()?, columns.next()?, columns.next()?);
        (parent == interface).then(|| Some((vid.parse().ok()?, name.to_owned())))?
    };
    text.lines().filter_map(device).collect()
}
