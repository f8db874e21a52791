//! The state of the machine's links: what serving on one depends on.

use std::collections::HashMap;
use std::io;

use aoe_common::Mac;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp};

use super::driver::{XdpFeatures, xdp_features};
use super::interface::Interface;
use super::netlink;
use super::queues::used_rx_queues;

/// What is known of an interface that is served or may be.
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

/// All interfaces of the network namespace that the thread is in, by name. It asks sysfs and drivers about each, so it may block.
///
/// # Errors
/// When the kernel does not tell.
pub fn list() -> io::Result<HashMap<String, LinkState>> {
    let mut links: Vec<LinkState> = netlink::links()?.into_iter().map(LinkState::from).collect();
    find_slaves(&mut links);
    Ok(links.into_iter().map(|link| (link.name.clone(), link)).collect())
}

/// Whether the cable of the interface with this number is in at this moment; `None` where there is none, or the kernel does not tell.
pub fn has_carrier(index: u32) -> Option<bool> {
    let links = netlink::links().ok()?;
    let link = links.iter().find(|link| link.header.index == index)?;
    Some(link.header.flags.contains(LinkFlags::LowerUp))
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
}
