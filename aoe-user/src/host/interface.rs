//! The machine's network interfaces: their names, and the state that serving on one depends on.

use std::collections::HashMap;
use std::io;

use aoe_common::Mac;
use initiator::{link_named, link_numbered, links};
use rtnetlink::packet_route::link::{
    InfoData, InfoHsr, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    LinkXdp, Prop, XdpAttached,
};

use super::driver::{XdpFeatures, xdp_features};
use super::queues::{used_rx_queues, used_tx_queues};

/// What is said of an interface without an address of Ethernet: loopback, tunnels and the like.
const NO_ETHERNET: &str = "carries no Ethernet frames with addresses, which AoE needs";

/// What is said of an ipvlan (`ipvlan_handle_mode_l2` of the kernel's `drivers/net/ipvlan/ipvlan_core.c`): it hears broadcasts, and what is sent to
/// its address, which is its parent's, goes to the parent unless it is IP.
const IPVLAN: &str = "is an ipvlan, which gets what is IP and broadcasts only, so no AoE requests: serve the interface below it, or a macvlan";

/// A network interface of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Its alternative names (`ip link property add altname`), as good as the name wherever one is given.
    pub(crate) altnames: Vec<String>,
    /// The kernel's number for it; a new one after the interface was deleted and made again.
    pub(crate) index: u32,
    /// Its address; `None` when it is no Ethernet (tunnels and the like) or has none of its own, so that it cannot carry AoE.
    pub(crate) mac: Option<Mac>,
    /// Its MTU.
    pub(crate) mtu_bytes: u32,
    /// Set up by the administrator.
    pub(crate) up: bool,
    /// The cable is in.
    pub(crate) carrier: bool,
    /// How often carrier came or went, so that a short flap is not missed.
    pub(crate) carrier_changes: u32,
    /// Some XDP program is attached.
    pub(crate) has_xdp: bool,
    /// Receive queues.
    pub(crate) rx_queues: u32,
    /// Transmit queues in use, where the kernel tells.
    pub(crate) tx_queues: Option<u32>,
    /// The loopback interface, which cannot carry AoE either.
    pub(crate) loopback: bool,
    /// The kernel's number of the interface that this one is a slave or a port of.
    pub(crate) controller: Option<u32>,
    /// The kernel's numbers of the interfaces that this one is made on, as a VLAN device or a macvlan is.
    pub(crate) lower: Vec<u32>,
    /// The interfaces whose frames native XDP of this one gets: its own number, or those of its slaves.
    pub(crate) xdp_runs_on: Vec<u32>,
    /// Its driver says that it runs native XDP without redirect.
    pub(crate) lacks_redirect: bool,
    /// It shares its parent's address, and gets frames by their IP addresses.
    pub(crate) is_ipvlan: bool,
}

impl Interface {
    /// Whether `name` is its name or an alternative one.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    /// Its name and all alternative ones.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name)
            .chain(&self.altnames)
            .map(String::as_str)
    }

    /// Why it cannot carry AoE; `None` where it can.
    pub(crate) fn unfit(&self) -> Option<&'static str> {
        if self.is_ipvlan {
            return Some(IPVLAN);
        }
        (self.mac.is_none() || self.loopback).then_some(NO_ETHERNET)
    }

    /// It can carry AoE.
    pub(crate) fn is_fit(&self) -> bool {
        self.unfit().is_none()
    }

    /// The other one is a port or slave of it, or its parent.
    pub(crate) fn is_over(&self, other: &Interface) -> bool {
        other.controller == Some(self.index) || self.lower.contains(&other.index)
    }

    /// Up, and the cable is in.
    pub(crate) fn is_usable(&self) -> bool {
        self.up && self.carrier
    }

    /// As far as the message tells; nobody else is asked.
    fn told_by(message: &LinkMessage) -> Interface {
        let header = &message.header;
        let mut interface = Interface {
            index: header.index,
            up: header.flags.contains(LinkFlags::Up),
            carrier: header.flags.contains(LinkFlags::LowerUp),
            rx_queues: 1,
            loopback: header.flags.contains(LinkFlags::Loopback),
            xdp_runs_on: vec![header.index],
            ..Interface::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                LinkAttribute::PropList(list) => interface.altnames.extend(list.iter().filter_map(altname)),
                // Others have addresses of six bytes, too, and no Ethernet headers (wireless monitors).
                LinkAttribute::Address(bytes) if header.link_layer_type == LinkLayerType::Ether => {
                    interface.mac = <[u8; 6]>::try_from(bytes.as_slice())
                        .ok()
                        .map(Mac)
                        .filter(|mac| mac.is_station());
                }
                LinkAttribute::Mtu(mtu) => interface.mtu_bytes = *mtu,
                LinkAttribute::CarrierChanges(changes) => interface.carrier_changes = *changes,
                LinkAttribute::Controller(index) => {
                    interface.controller = Some(*index).filter(|index| *index != 0);
                }
                LinkAttribute::LinkInfo(parts) => {
                    interface.is_ipvlan = parts.iter().any(is_ipvlan);
                    if parts.iter().any(has_slaves) {
                        interface.xdp_runs_on.clear();
                    }
                    if !is_made_elsewhere(message) {
                        interface.lower.extend(parts.iter().flat_map(made_on));
                    }
                }
                LinkAttribute::Link(index) if is_stacked(message) => interface.lower.push(*index),
                LinkAttribute::NumRxQueues(queues) => interface.rx_queues = *queues,
                LinkAttribute::Xdp(parts) => interface.has_xdp = parts.iter().any(is_program),
                _ => {}
            }
        }
        if interface.is_ipvlan {
            // Its parent's.
            interface.mac = None;
        }
        interface
    }
}

impl From<&LinkMessage> for Interface {
    /// Asks sysfs and the driver, too, so it may block.
    fn from(message: &LinkMessage) -> Interface {
        let mut interface = Interface::told_by(message);
        // Netlink's own number is what the driver allocated, in use or not.
        if let Some(queues) = used_rx_queues(&interface.name, interface.index) {
            interface.rx_queues = queues;
        }
        interface.tx_queues = used_tx_queues(&interface.name, interface.index);
        interface.lacks_redirect = xdp_features(interface.index).is_some_and(XdpFeatures::lacks_redirect);
        interface
    }
}

fn altname(property: &Prop) -> Option<String> {
    match property {
        Prop::AltIfName(name) => Some(name.clone()),
        _ => None,
    }
}

/// Kinds that receive by slaves, also while they have none.
fn has_slaves(part: &LinkInfo) -> bool {
    matches!(part, LinkInfo::Kind(InfoKind::Bond | InfoKind::Team))
}

fn is_ipvlan(part: &LinkInfo) -> bool {
    matches!(part, LinkInfo::Kind(InfoKind::IpVlan | InfoKind::IpVtap))
}

/// What some kinds say of themselves only: the interface below a VXLAN device, those of an HSR or PRP ring.
fn made_on(part: &LinkInfo) -> Vec<u32> {
    let index = |below: u32| (below != 0).then_some(below);
    match part {
        LinkInfo::Data(InfoData::Vxlan(all)) => {
            let below = all.iter().filter_map(|part| match part {
                InfoVxlan::Link(below) => index(*below),
                _ => None,
            });
            below.collect()
        }
        LinkInfo::Data(InfoData::Hsr(all)) => {
            let below = all.iter().filter_map(|part| match part {
                InfoHsr::Port1(below) | InfoHsr::Port2(below) => index(*below),
                _ => None,
            });
            below.collect()
        }
        _ => Vec::new(),
    }
}

/// Kinds that are made on another interface of this network namespace. Of a veth the same attribute names its other end.
fn is_stacked(message: &LinkMessage) -> bool {
    let stacked = |part: &LinkInfo| {
        matches!(
            part,
            LinkInfo::Kind(
                InfoKind::Vlan
                    | InfoKind::MacVlan
                    | InfoKind::MacVtap
                    | InfoKind::IpVlan
                    | InfoKind::IpVtap
                    | InfoKind::MacSec
                    | InfoKind::Dsa
            )
        )
    };
    let mut attributes = message.attributes.iter();
    !is_made_elsewhere(message)
        && attributes
            .any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(parts) if parts.iter().any(stacked)))
}

/// What it is made on is in another network namespace, and so is the number of that.
fn is_made_elsewhere(message: &LinkMessage) -> bool {
    let is_elsewhere = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkNetNsId(_));
    message.attributes.iter().any(is_elsewhere)
}

/// The kernel gives a single number only where one program is attached, and numbers by mode where there are more (in the card and in
/// the driver).
fn is_program(part: &LinkXdp) -> bool {
    match part {
        LinkXdp::Attached(how) => *how != XdpAttached::None,
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            *id != 0
        }
        _ => false,
    }
}

/// Who is a slave or port of another has its frames seen by the other's native program, and only as its own: a bond, and a
/// virtual machine's card with an accelerated one beside it.
fn find_slaves(interfaces: &mut [Interface]) {
    let slaves: Vec<(u32, u32)> = interfaces
        .iter()
        .filter_map(|interface| Some((interface.controller?, interface.index)))
        .collect();
    for interface in interfaces {
        let own = slaves
            .iter()
            .filter(|(controller, _)| *controller == interface.index);
        let mut own: Vec<u32> = own.map(|(_, slave)| *slave).collect();
        own.sort_unstable();
        if !own.is_empty() {
            interface.xdp_runs_on = own;
        }
    }
}

/// The interfaces of the network namespace that the thread is in, by name. It asks sysfs and drivers about each, so it may block.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn list() -> io::Result<Vec<Interface>> {
    let mut found: Vec<Interface> = links()?.iter().map(Interface::from).collect();
    find_slaves(&mut found);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// An interface over this one that has an XDP program: the kernel attaches none to this one then.
pub(crate) fn upper_with_program(name: &str) -> Option<String> {
    let found: Vec<Interface> = links().ok()?.iter().map(Interface::told_by).collect();
    let lower = found.iter().find(|interface| interface.is_called(name))?;
    let mut above = found.iter().filter(|upper| upper.is_over(lower));
    Some(above.find(|upper| upper.has_xdp)?.name.clone())
}

/// The interface that is called so, by its name or an alternative one.
pub(crate) fn named<'a>(interfaces: &'a HashMap<String, Interface>, name: &str) -> Option<&'a Interface> {
    let called = || interfaces.values().find(|interface| interface.is_called(name));
    interfaces.get(name).or_else(called)
}

/// The name of the interface that is called so by any of its names; what nothing is called stays as it is.
pub(crate) fn real_name(name: &str) -> String {
    link_named(name).map_or_else(|_| name.to_owned(), |link| Interface::told_by(&link).name)
}

/// What an open port asks about its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkState {
    /// The cable is in.
    pub(crate) carrier: bool,
    /// Some XDP program is attached.
    pub(crate) has_program: bool,
    /// Frames that it has received.
    pub(crate) received: Option<u64>,
    /// How often the carrier has come or gone.
    pub(crate) carrier_changes: u32,
}

/// The interface with this number at this moment; `None` where there is none, or the kernel does not tell.
pub(crate) fn link_state(index: u32) -> Option<LinkState> {
    let message = link_numbered(index).ok()?;
    let link = Interface::told_by(&message);
    let received = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(counted) => Some(counted.rx_packets),
        _ => None,
    });
    let carrier_changes = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::CarrierChanges(times) => Some(*times),
        _ => None,
    });
    Some(LinkState {
        carrier: link.carrier,
        has_program: link.has_xdp,
        received,
        carrier_changes: carrier_changes.unwrap_or(0),
    })
}

/// Whether the cable of the interface with this number is in at this moment; `None` where there is none, or the kernel does not tell.
pub(crate) fn has_carrier(index: u32) -> Option<bool> {
    link_state(index).map(|link| link.carrier)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, attributes: Vec<LinkAttribute>) -> Interface {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        Interface::told_by(&message)
    }

    #[test]
    fn only_ethernet_has_an_address_for_aoe() {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName("x".into()));
        link.attributes
            .push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]));
        link.header.link_layer_type = LinkLayerType::Ether;
        assert!(Interface::from(&link).mac.is_some());
        for other in [
            LinkLayerType::Ieee80211Radiotap,
            LinkLayerType::Infiniband,
            LinkLayerType::None,
        ] {
            link.header.link_layer_type = other;
            assert_eq!(Interface::from(&link).mac, None, "{other:?}");
        }
    }

    #[test]
    fn an_ipvlan_has_no_address_of_its_own() {
        let made = |kind| {
            let address = LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]);
            let mut link = LinkMessage::default();
            link.header.link_layer_type = LinkLayerType::Ether;
            link.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]), address];
            Interface::told_by(&link)
        };
        for kind in [InfoKind::IpVlan, InfoKind::IpVtap] {
            let interface = made(kind);
            assert_eq!((interface.mac, interface.unfit()), (None, Some(IPVLAN)));
        }
        assert!(made(InfoKind::MacVlan).is_fit());
    }

    #[test]
    fn the_loopback_interface_is_listed() {
        let lo = list()
            .unwrap()
            .into_iter()
            .find(|interface| interface.name == "lo")
            .unwrap();
        assert!(lo.loopback && lo.mac.is_none() && lo.mtu_bytes >= 1500);
        assert_eq!(has_carrier(lo.index), Some(lo.carrier));
        assert_eq!(
            (real_name("lo").as_str(), real_name("no such").as_str()),
            ("lo", "no such")
        );
    }

    #[test]
    fn what_is_made_of_another_is_over_it() {
        let kind = |kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
        let over = |index, attributes| interface(index, attributes);
        let nic = interface(2, vec![LinkAttribute::Controller(5)]);
        let macvlan = over(3, vec![LinkAttribute::Link(2), kind(InfoKind::MacVlan)]);
        assert!(macvlan.is_over(&nic) && !nic.is_over(&macvlan));
        assert!(interface(5, vec![kind(InfoKind::Bridge)]).is_over(&nic));
        // A port of a switch, over the interface that leads to it.
        assert!(over(3, vec![LinkAttribute::Link(2), kind(InfoKind::Dsa)]).is_over(&nic));
        let with = |data| interface(3, vec![LinkAttribute::LinkInfo(vec![LinkInfo::Data(data)])]);
        assert!(with(InfoData::Vxlan(vec![InfoVxlan::Link(2)])).is_over(&nic));
        assert!(!with(InfoData::Vxlan(vec![InfoVxlan::Link(0)])).is_over(&nic));
        let ring = with(InfoData::Hsr(vec![InfoHsr::Port1(7), InfoHsr::Port2(2)]));
        assert!(ring.is_over(&nic) && !nic.is_over(&ring));
        // The other end is no lower device, nor what has its number in another namespace.
        assert!(!over(3, vec![LinkAttribute::Link(2), kind(InfoKind::Veth)]).is_over(&nic));
        let elsewhere = vec![
            LinkAttribute::Link(2),
            kind(InfoKind::MacVlan),
            LinkAttribute::LinkNetNsId(0),
        ];
        assert!(!over(3, elsewhere).is_over(&nic));
    }

    #[test]
    fn programs_in_several_modes_are_programs() {
        let has_xdp = |parts: Vec<LinkXdp>| interface(2, vec![LinkAttribute::Xdp(parts)]).has_xdp;
        let attached = LinkXdp::Attached;
        assert!(!has_xdp(vec![attached(XdpAttached::None)]));
        assert!(has_xdp(vec![
            attached(XdpAttached::Driver),
            LinkXdp::ProgId(7),
            LinkXdp::DrvProgId(7)
        ]));
        // In the driver and in the card: no single number.
        assert!(has_xdp(vec![
            LinkXdp::DrvProgId(7),
            LinkXdp::HwProgId(8),
            attached(XdpAttached::Multiple)
        ]));
        assert!(has_xdp(vec![attached(XdpAttached::Multiple)]));
    }

    #[test]
    fn native_xdp_of_a_bond_runs_on_its_slaves() {
        let bond = || vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bond)])];
        let slave = || vec![LinkAttribute::Controller(9)];
        let mut links = [
            interface(9, bond()),
            interface(3, slave()),
            interface(2, slave()),
            interface(4, vec![]),
        ];
        find_slaves(&mut links);
        let runs_on: Vec<&[u32]> = links.iter().map(|link| link.xdp_runs_on.as_slice()).collect();
        assert_eq!(runs_on, [&[2, 3][..], &[3], &[2], &[4]]);
        assert!(interface(9, bond()).xdp_runs_on.is_empty(), "no slave yet");
    }
}
