//! The host's network interfaces, over rtnetlink.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aoe_common::Mac;
use futures_util::stream::{StreamExt, TryStreamExt};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp};

use super::genetlink::{Genetlink, XdpFeatures, ethtool_header, find, xdp_features};
use crate::config::interfaces::Interface;
use crate::port::Nic;
use rtnetlink::{Handle, MulticastGroup};
use tracing::{error, warn};

/// Between two tries to get a netlink socket.
const REOPEN_AGAIN: Duration = Duration::from_secs(1);

/// What the supervisor needs to know of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Its name.
    pub name: String,
    /// Its alternative names.
    pub altnames: Vec<String>,
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
    /// The kernel's number of the interface that this one is a slave or a port of.
    pub controller: Option<u32>,
    /// The interfaces whose frames native XDP of this one gets: its own number, or those of its slaves.
    pub xdp_runs_on: Vec<u32>,
    /// Its driver says that it runs native XDP without redirect.
    pub lacks_redirect: bool,
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
            altnames: self.altnames.clone(),
            mac: self.mac,
            up: self.up,
            loopback: self.loopback,
        }
    }

    /// As a port is opened on it; `None` for what is no Ethernet.
    pub fn nic(&self) -> Option<Nic> {
        Some(Nic {
            name: self.name.clone(),
            index: self.index,
            mac: self.mac?,
            mtu_bytes: self.mtu_bytes,
            rx_queues: self.rx_queues,
            carrier: self.carrier,
            xdp_runs_on: self.xdp_runs_on.clone(),
            lacks_redirect: self.lacks_redirect,
        })
    }
}

/// The interface that is called so, by its name or an alternative one.
pub fn named<'a>(links: &'a HashMap<String, LinkState>, name: &str) -> Option<&'a LinkState> {
    let has_altname = |link: &&LinkState| link.altnames.iter().any(|own| own == name);
    links.get(name).or_else(|| links.values().find(has_altname))
}

/// Who is a slave or port of another has its frames seen by the other's native program, and only as its own: a bond, and a
/// virtual machine's card with a fast lane.
fn find_slaves(links: &mut [LinkState]) {
    let slaves: Vec<(u32, u32)> = links
        .iter()
        .filter_map(|link| Some((link.controller?, link.index)))
        .collect();
    for link in links {
        let own = slaves.iter().filter(|(controller, _)| *controller == link.index);
        let mut own: Vec<u32> = own.map(|(_, slave)| *slave).collect();
        own.sort_unstable();
        if !own.is_empty() {
            link.xdp_runs_on = own;
        }
    }
}

/// A connection to rtnetlink.
pub struct Links {
    handle: Handle,
    events: Box<dyn futures_util::Stream<Item = ()> + Unpin + Send>,
    /// Drives the connection; over where the connection is.
    connection: tokio::task::JoinHandle<()>,
    /// When to connect again.
    reopen_at: Option<Instant>,
}

impl Links {
    /// Connects and subscribes to changes. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> Result<Links> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
            .context("cannot open a netlink socket to watch the interfaces")?;
        Ok(Links {
            handle,
            events: Box::new(messages.map(|_| ())),
            connection: tokio::spawn(connection),
            reopen_at: None,
        })
    }

    /// All interfaces of this network namespace by name, in a future of its own.
    ///
    /// # Errors
    /// When the kernel refuses the listing.
    pub fn list(&self) -> impl Future<Output = Result<HashMap<String, LinkState>>> + Send + 'static {
        let handle = self.handle.clone();
        async move {
            let messages: Vec<LinkMessage> = handle
                .link()
                .get()
                .execute()
                .try_collect()
                .await
                .context("cannot list the interfaces")?;
            // It asks sysfs and drivers about each.
            let links = tokio::task::spawn_blocking(|| {
                let mut links: Vec<LinkState> = messages.into_iter().map(LinkState::from).collect();
                find_slaves(&mut links);
                links.into_iter().map(|link| (link.name.clone(), link)).collect()
            });
            links.await.context("cannot ask about the interfaces")
        }
    }

    /// Waits until some interface has changed. Which one is not told: list again and compare, so that nothing
    /// depends on seeing each event. A connection that ends is opened again, which counts as a change: some may have been missed.
    /// Can be dropped and called again at any time.
    pub async fn changed(&mut self) {
        if self.reopen_at.is_none() {
            if self.events.next().await.is_some() {
                return;
            }
            error!("the connection that tells of changed interfaces has ended: opening another");
        }
        loop {
            let at = *self.reopen_at.get_or_insert_with(Instant::now);
            tokio::time::sleep_until(at.into()).await;
            match Links::open() {
                Ok(links) => {
                    *self = links;
                    return;
                }
                Err(error) => {
                    warn!("{error:#}; trying again");
                    self.reopen_at = Some(Instant::now() + REOPEN_AGAIN);
                }
            }
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl From<LinkMessage> for LinkState {
    fn from(message: LinkMessage) -> LinkState {
        let Interface {
            name,
            altnames,
            mac,
            up,
            loopback,
        } = Interface::from(&message);
        let mut link = LinkState {
            name,
            altnames,
            index: message.header.index,
            mac,
            mtu_bytes: 0,
            up,
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            carrier_changes: 0,
            has_xdp: false,
            rx_queues: 1,
            loopback,
            controller: None,
            xdp_runs_on: vec![message.header.index],
            lacks_redirect: xdp_features(message.header.index).is_some_and(XdpFeatures::lacks_redirect),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => link.mtu_bytes = mtu,
                LinkAttribute::CarrierChanges(changes) => link.carrier_changes = changes,
                LinkAttribute::Controller(index) => link.controller = Some(index).filter(|index| *index != 0),
                LinkAttribute::LinkInfo(parts) if parts.iter().any(has_slaves) => link.xdp_runs_on.clear(),
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

/// Kinds that receive by slaves, also while they have none.
fn has_slaves(part: &LinkInfo) -> bool {
    matches!(part, LinkInfo::Kind(InfoKind::Bond | InfoKind::Team))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkState {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        message.into()
    }

    #[test]
    fn native_xdp_of_a_bond_runs_on_its_slaves() {
        let bond = || vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bond)])];
        let slave = || vec![LinkAttribute::Controller(9)];
        let mut links = [
            link(9, bond()),
            link(3, slave()),
            link(2, slave()),
            link(4, vec![]),
        ];
        find_slaves(&mut links);
        let runs_on: Vec<&[u32]> = links.iter().map(|link| link.xdp_runs_on.as_slice()).collect();
        assert_eq!(runs_on, [&[2, 3][..], &[3], &[2], &[4]]);
        assert!(link(9, bond()).xdp_runs_on.is_empty(), "no slave yet");
    }

    #[test]
    fn a_connection_that_ends_is_opened_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut links = Links::open().unwrap();
            let first = links.connection.id();
            links.connection.abort();
            // Events that came before are changes, too.
            while links.connection.id() == first {
                let limit = Duration::from_secs(60);
                tokio::time::timeout(limit, links.changed()).await.unwrap();
            }
            assert!(links.list().await.unwrap().contains_key("lo"));
        });
    }
}
