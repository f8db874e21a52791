//! The host's network interfaces, over rtnetlink.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aoe_common::Mac;
use futures_util::stream::{StreamExt, TryStreamExt};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp};

use super::genetlink::{Genetlink, ethtool_header, find};
use crate::config::interfaces::Interface;
use rtnetlink::{Handle, MulticastGroup};

/// What the supervisor needs to know of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Its name.
    pub name: String,
    /// The kernel's number for it; a new one after the interface was deleted and made again.
    pub index: u32,
    /// Its address; `None` for what is no Ethernet.
    pub mac: Option<Mac>,
    /// Its MTU.
    pub mtu_bytes: u32,
    /// Set up by the administrator.
    pub up: bool,
    /// The cable is in.
    pub carrier: bool,
    /// How often carrier came or went, so that a short flap is not missed.
    pub carrier_changes: u32,
    /// Some XDP program is attached.
    pub has_xdp: bool,
    /// Receive queues.
    pub rx_queues: u32,
    /// It leads nowhere.
    pub loopback: bool,
}

impl LinkState {
    /// Up, and the cable is in.
    pub fn is_usable(&self) -> bool {
        self.up && self.carrier
    }

    /// As the configuration's names and globs are matched against it.
    pub fn interface(&self) -> Interface {
        Interface {
            name: self.name.clone(),
            mac: self.mac,
            up: self.up,
            loopback: self.loopback,
        }
    }
}

/// A connection to rtnetlink.
pub struct Links {
    handle: Handle,
    events: Box<dyn futures_util::Stream<Item = ()> + Unpin + Send>,
}

impl Links {
    /// Connects and subscribes to changes. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> Result<Links> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
            .context("cannot open a netlink socket to watch the interfaces")?;
        tokio::spawn(connection);
        Ok(Links {
            handle,
            events: Box::new(messages.map(|_| ())),
        })
    }

    /// All interfaces of this network namespace by name.
    ///
    /// # Errors
    /// When the kernel refuses the listing.
    pub async fn list(&self) -> Result<HashMap<String, LinkState>> {
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .context("cannot list the interfaces")?;
        Ok(messages
            .into_iter()
            .map(LinkState::from)
            .map(|link| (link.name.clone(), link))
            .collect())
    }

    /// Waits until some interface has changed. Which one is not told: list again and compare, so that nothing
    /// depends on seeing each event.
    pub async fn changed(&mut self) {
        if self.events.next().await.is_none() {
            // The connection is gone (it never should be): leave the supervisor to its timer.
            std::future::pending::<()>().await;
        }
    }
}

impl From<LinkMessage> for LinkState {
    fn from(message: LinkMessage) -> LinkState {
        let mut link = LinkState {
            name: String::new(),
            index: message.header.index,
            mac: None,
            mtu_bytes: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            carrier_changes: 0,
            has_xdp: false,
            rx_queues: 1,
            loopback: message.header.flags.contains(LinkFlags::Loopback),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(bytes).ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu_bytes = mtu,
                LinkAttribute::CarrierChanges(changes) => link.carrier_changes = changes,
                LinkAttribute::NumRxQueues(queues) => link.rx_queues = queues,
                LinkAttribute::Xdp(parts) => {
                    link.has_xdp = parts
                        .iter()
                        .any(|part| matches!(part, LinkXdp::ProgId(id) if *id != 0));
                }
                _ => {}
            }
        }
        // Netlink's own number is what the driver allocated, in use or not.
        link.rx_queues = used_rx_queues(&link.name, link.index).unwrap_or(link.rx_queues);
        link
    }
}

/// Receive queues in use of an interface, where the kernel tells.
pub fn rx_queues(name: &str) -> Option<u32> {
    used_rx_queues(name, if_nametoindex(name).ok()?)
}

/// Transmit queues in use of an interface, where the kernel tells.
pub fn tx_queues(name: &str) -> Option<u32> {
    const TX_COUNT: u16 = 7;
    let index = if_nametoindex(name).ok()?;
    shown_queues(name, index, "tx-").or_else(|| channels(index, TX_COUNT))
}

fn used_rx_queues(name: &str, index: u32) -> Option<u32> {
    const RX_COUNT: u16 = 6;
    shown_queues(name, index, "rx-").or_else(|| channels(index, RX_COUNT))
}

/// The folder of an interface in sysfs, provided it shows this network namespace.
pub fn sysfs(name: &str, index: u32) -> Option<PathBuf> {
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
