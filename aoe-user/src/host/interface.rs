//! The machine's network interfaces by their names.

use std::io;

use aoe_common::Mac;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, Prop};

use super::netlink::links;

pub use initiator::mtu_bytes;

/// What is said of an interface without an address of Ethernet: loopback, tunnels and the like.
pub const NO_ETHERNET: &str = "carries no Ethernet frames with addresses, which AoE needs";

/// A network interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its alternative names (`ip link property add altname`), as good as the name wherever one is given.
    pub altnames: Vec<String>,
    /// Its address; `None` when it is no Ethernet (tunnels and the like), so that it cannot carry AoE.
    pub mac: Option<Mac>,
    /// Administratively up.
    pub up: bool,
    /// The loopback interface, which cannot carry AoE either.
    pub loopback: bool,
}

impl Interface {
    /// Whether `name` is its name or an alternative one.
    pub fn is_called(&self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    /// Its name and all alternative ones.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name)
            .chain(&self.altnames)
            .map(String::as_str)
    }
}

impl From<&LinkMessage> for Interface {
    fn from(message: &LinkMessage) -> Interface {
        let header = &message.header;
        let mut interface = Interface {
            name: String::new(),
            altnames: Vec::new(),
            mac: None,
            up: header.flags.contains(LinkFlags::Up),
            loopback: header.flags.contains(LinkFlags::Loopback),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                // Others have addresses of six bytes, too, and no Ethernet headers (wireless monitors).
                LinkAttribute::Address(bytes) if header.link_layer_type == LinkLayerType::Ether => {
                    interface.mac = <[u8; 6]>::try_from(bytes.as_slice())
                        .ok()
                        .map(Mac)
                        .filter(|mac| mac.is_station());
                }
                LinkAttribute::PropList(list) => interface.altnames.extend(list.iter().filter_map(altname)),
                _ => {}
            }
        }
        interface
    }
}

fn altname(property: &Prop) -> Option<String> {
    match property {
        Prop::AltIfName(name) => Some(name.clone()),
        _ => None,
    }
}

/// The interfaces of the network namespace that the thread is in, by name.
///
/// # Errors
/// When the kernel does not tell.
pub fn list() -> io::Result<Vec<Interface>> {
    let mut found: Vec<Interface> = links()?.iter().map(Interface::from).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The name of the interface that is called so by any of its names; what nothing is called stays as it is.
pub fn real_name(name: &str) -> String {
    let called = |interface: &Interface| interface.is_called(name);
    let found = list().ok().and_then(|all| all.into_iter().find(called));
    found.map_or_else(|| name.to_owned(), |interface| interface.name)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_loopback_interface_is_listed() {
        let lo = list()
            .unwrap()
            .into_iter()
            .find(|interface| interface.name == "lo")
            .unwrap();
        assert!(lo.loopback && lo.mac.is_none());
    }
}
