//! How many queues an interface has in use.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::net::if_::if_nametoindex;

use super::driver::ethtool_header;
use super::genetlink::{Genetlink, find};

/// Receive queues in use of an interface, where the kernel tells.
pub(crate) fn rx_queues(name: &str) -> Option<u32> {
    used_rx_queues(name, if_nametoindex(name).ok()?)
}

/// Transmit queues in use of an interface, where the kernel tells.
pub(super) fn tx_queues(name: &str) -> Option<u32> {
    const TX_COUNT: u16 = 7;
    let index = if_nametoindex(name).ok()?;
    shown_queues(name, index, "tx-").or_else(|| channels(index, TX_COUNT))
}

pub(super) fn used_rx_queues(name: &str, index: u32) -> Option<u32> {
    const RX_COUNT: u16 = 6;
    shown_queues(name, index, "rx-").or_else(|| channels(index, RX_COUNT))
}

/// The folder of an interface in sysfs, provided it shows this network namespace.
pub(crate) fn sysfs(name: &str, index: u32) -> Option<PathBuf> {
    let device = Path::new("/sys/class/net").join(name);
    let shown = std::fs::read_to_string(device.join("ifindex")).ok()?;
    (shown.trim().parse() == Ok(index)).then_some(device)
}

/// Queues in use: sysfs has a folder for each.
fn shown_queues(name: &str, index: u32, prefix: &str) -> Option<u32> {
    let queues = std::fs::read_dir(sysfs(name, index)?.join("queues")).ok()?;
    let count = queues
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().starts_with(prefix.as_bytes()))
        .count();
    u32::try_from(count).ok().filter(|count| *count > 0)
}

/// The same, as the driver tells it `ethtool -l`, which not every driver does: those of one direction and those of both.
fn channels(index: u32, one_way: u16) -> Option<u32> {
    const CHANNELS_GET: u8 = 17;
    const COMBINED_COUNT: u16 = 9;
    let mut netlink = Genetlink::open().ok()?;
    let family = netlink.family("ethtool").ok()?;
    let answer = netlink.ask(family, CHANNELS_GET, &ethtool_header(index)).ok()?;
    let count = |kind| {
        let value = find(&answer, kind)?.try_into().ok()?;
        Some(u32::from_ne_bytes(value))
    };
    let (one_way, combined) = (count(one_way).unwrap_or(0), count(COMBINED_COUNT).unwrap_or(0));
    one_way.checked_add(combined).filter(|count| *count > 0)
}
