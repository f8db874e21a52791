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
pub(super) fn used_tx_queues(name: &str, index: u32) -> Option<u32> {
    const TX_COUNT: u16 = 7;
    shown_queues(name, index, "tx-").or_else(|| Channels::of(index)?.total(TX_COUNT))
}

/// What leaves an interface with that many transmit queues no more receive queues than these.
pub(crate) fn fewer_rx_queues(name: &str, index: u32, tx_queues: u32) -> String {
    match Channels::of(index) {
        Some(channels) => {
            let rx = tx_queues.saturating_sub(channels.count(Channels::COMBINED));
            format!("`ethtool -L {name} rx {rx}`")
        }
        None => {
            "give it as many of both when it is made (`numtxqueues`, `numrxqueues` of `ip link add`)".into()
        }
    }
}

/// The command that leaves an interface one receive queue; `None` where its driver knows no change of their number.
pub(super) fn one_rx_queue(name: &str, index: u32) -> Option<String> {
    let one = Channels::of(index)?.one_rx()?;
    Some(format!("ethtool -L {name} {one}"))
}

pub(super) fn used_rx_queues(name: &str, index: u32) -> Option<u32> {
    const RX_COUNT: u16 = 6;
    shown_queues(name, index, "rx-").or_else(|| Channels::of(index)?.total(RX_COUNT))
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

/// The numbers of queues in use, as the driver tells them `ethtool -l`, which not every driver does: of one direction, and of both.
struct Channels(Vec<u8>);

impl Channels {
    const RX_MAX: u16 = 2;
    const COMBINED_MAX: u16 = 5;
    const COMBINED: u16 = 9;

    fn of(index: u32) -> Option<Channels> {
        const CHANNELS_GET: u8 = 17;
        let mut netlink = Genetlink::open().ok()?;
        let family = netlink.family("ethtool").ok()?;
        let answer = netlink.ask(family, CHANNELS_GET, &ethtool_header(index)).ok()?;
        Some(Channels(answer.to_vec()))
    }

    fn count(&self, kind: u16) -> u32 {
        let value = find(&self.0, kind).and_then(|value| value.try_into().ok());
        value.map_or(0, u32::from_ne_bytes)
    }

    /// What leaves one receive queue; `None` where their number cannot be changed.
    fn one_rx(&self) -> Option<String> {
        if self.count(Channels::COMBINED_MAX) > 1 {
            return Some("combined 1".into());
        }
        // One that both directions share is a receive queue, too.
        let rx = 1_u32.saturating_sub(self.count(Channels::COMBINED));
        (self.count(Channels::RX_MAX) > 1).then(|| format!("rx {rx}"))
    }

    /// Those of one direction and those of both.
    fn total(&self, one_way: u16) -> Option<u32> {
        let total = self.count(one_way).checked_add(self.count(Channels::COMBINED));
        total.filter(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::genetlink::attribute;

    #[test]
    fn one_receive_queue_is_left_by_changing_the_kind_that_can_be_changed() {
        let one_rx = |combined_max: u32, combined: u32, rx_max: u32| {
            let counts = [
                (Channels::RX_MAX, rx_max),
                (Channels::COMBINED_MAX, combined_max),
                (Channels::COMBINED, combined),
            ];
            let told = counts.map(|(kind, count)| attribute(kind, &count.to_ne_bytes()));
            Channels(told.concat()).one_rx()
        };
        assert_eq!(one_rx(8, 8, 0).as_deref(), Some("combined 1"));
        assert_eq!(one_rx(8, 8, 8).as_deref(), Some("combined 1"));
        assert_eq!(one_rx(0, 0, 8).as_deref(), Some("rx 1"));
        assert_eq!(one_rx(1, 0, 8).as_deref(), Some("rx 1"));
        assert_eq!(one_rx(1, 1, 8).as_deref(), Some("rx 0"));
        assert_eq!(one_rx(1, 1, 1), None);
    }
}
