//! The machine's network interfaces, and the names and globs that choose among them.

use std::io;

use aoe_common::Mac;
use globset::GlobBuilder;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, Prop};

pub use initiator::mtu_bytes;

/// Longest name of an interface: that of an alternative name (ALTIFNAMSIZ without its end).
const NAME_MAX: usize = 127;

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

    fn names(&self) -> impl Iterator<Item = &str> {
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

/// Asks for all links over rtnetlink, without waiting for anything but the kernel: sysfs shows the interfaces of the
/// namespace that mounted it.
fn links() -> io::Result<Vec<LinkMessage>> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut found = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            // Messages of one datagram begin at multiples of four bytes.
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => found.push(link),
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// Checks a name or glob as written in a config.
///
/// # Errors
/// What a name or glob looks like.
pub fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return Err("the name of a network interface, or a glob such as \"em*\", is needed".into());
    }
    if is_glob(text) {
        glob(text)?;
    } else if text.len() > NAME_MAX {
        return Err(format!(
            "the name of a network interface has 1 to {NAME_MAX} characters"
        ));
    }
    Ok(text.to_owned())
}

/// True when the text chooses by pattern instead of naming one interface.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// True when one of the names and globs chooses `interface`. Globs leave out what cannot carry AoE.
pub fn chosen(patterns: &[String], interface: &Interface) -> bool {
    Patterns::new(patterns).choose(interface)
}

/// Names and globs, made ready to be asked often.
#[derive(Debug)]
pub struct Patterns {
    names: Vec<String>,
    globs: Vec<globset::GlobMatcher>,
}

impl Patterns {
    /// A text that is no glob after all, which [`pattern`] refuses, chooses nothing.
    pub fn new(patterns: &[String]) -> Patterns {
        let (globs, names): (Vec<_>, Vec<_>) = patterns.iter().partition(|text| is_glob(text));
        Patterns {
            names: names.into_iter().cloned().collect(),
            globs: globs.into_iter().filter_map(|text| glob(text).ok()).collect(),
        }
    }

    /// As [`chosen`].
    pub fn choose(&self, interface: &Interface) -> bool {
        let matches = |glob: &globset::GlobMatcher| interface.names().any(|name| glob.is_match(name));
        self.names.iter().any(|name| interface.is_called(name))
            || interface.mac.is_some() && !interface.loopback && self.globs.iter().any(matches)
    }

    /// The interfaces that are named in full.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

fn glob(text: &str) -> Result<globset::GlobMatcher, String> {
    let glob = GlobBuilder::new(text)
        .build()
        .map_err(|e| format!("not a glob: {}", e.kind()))?;
    Ok(glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str) -> Interface {
        Interface {
            name: name.into(),
            altnames: vec![format!("{name}-of-the-rack")],
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            up: true,
            loopback: false,
        }
    }

    #[test]
    fn names_and_globs_choose() {
        let patterns = ["eth0".to_string(), "em[12]*".into()];
        for (name, expected) in [
            ("eth0", true),
            ("eth01", false),
            ("em1", true),
            ("em2np0", true),
            ("em3", false),
        ] {
            assert_eq!(chosen(&patterns, &interface(name)), expected, "{name}");
        }
    }

    #[test]
    fn alternative_names_choose_as_the_name_does() {
        let lan = interface("eth0");
        for (pattern, expected) in [
            ("eth0-of-the-rack", true),
            ("*-of-the-rack", true),
            ("eth1-of-the-rack", false),
        ] {
            assert_eq!(chosen(&[pattern.to_owned()], &lan), expected, "{pattern}");
        }
        assert!(pattern("enxwith-a-name-of-more-than-fifteen").is_ok());
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
    fn globs_leave_out_what_cannot_carry_aoe() {
        let everything = ["*".to_string()];
        let lo = Interface {
            loopback: true,
            ..interface("lo")
        };
        let tunnel = Interface {
            mac: None,
            ..interface("tun0")
        };
        assert!(!chosen(&everything, &lo));
        assert!(!chosen(&everything, &tunnel));
        assert!(
            chosen(&["lo".to_string()], &lo),
            "named: for validation to refuse with a reason"
        );
    }

    #[test]
    fn patterns_are_checked() {
        assert!(pattern("enp3s0f1np1").is_ok());
        assert!(pattern(&"a".repeat(128)).unwrap_err().contains("1 to 127"));
        assert!(pattern("a-very-long-pattern-but-one*").is_ok());
        assert!(pattern("eth[").unwrap_err().contains("not a glob"));
        for bad in ["", "a b", "a/b"] {
            assert!(pattern(bad).is_err(), "{bad}");
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
