//! Questions to generic netlink families, one answer each.

use std::io;

use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use serde::Serialize;

/// The family that knows all others, and what it is asked (linux/genetlink.h).
const CONTROL: u16 = 16;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;

/// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
/// A generic netlink message has four more bytes of header: command, version and two reserved.
const GENERIC_HEADER: usize = 4;

/// A generic netlink socket.
pub struct Genetlink {
    socket: Socket,
    sequence: u32,
}

impl Genetlink {
    /// Opens a socket; needs no privilege.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> io::Result<Genetlink> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Genetlink { socket, sequence: 0 })
    }

    /// The number of a family.
    ///
    /// # Errors
    /// When the kernel has no such family.
    pub fn family(&mut self, name: &str) -> io::Result<u16> {
        let name = attribute(CONTROL_FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        let answer = self.ask(CONTROL, CONTROL_GET_FAMILY, &name)?;
        let id = find(&answer, CONTROL_FAMILY_ID).and_then(|value| value.try_into().ok());
        id.map(u16::from_ne_bytes).ok_or_else(malformed)
    }

    /// Sends a command with its attributes and returns the attributes of the answer.
    ///
    /// # Errors
    /// What the kernel answered instead.
    pub fn ask(&mut self, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        let length = (HEADER + GENERIC_HEADER + attributes.len()) as u32;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(family.to_ne_bytes());
        message.extend(NLM_F_REQUEST.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend([command, 1, 0, 0]);
        message.extend(attributes);
        self.socket.send(&message, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        let kind = answer
            .get(4..6)
            .and_then(|kind| kind.try_into().ok())
            .map(u16::from_ne_bytes);
        if kind.ok_or_else(malformed)? == NLMSG_ERROR {
            let errno = answer
                .get(HEADER..HEADER + 4)
                .and_then(|errno| errno.try_into().ok());
            return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(
                errno.ok_or_else(malformed)?,
            )));
        }
        Ok(answer
            .get(HEADER + GENERIC_HEADER..)
            .ok_or_else(malformed)?
            .to_vec())
    }
}

/// An attribute, padded.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((NLA_HEADER_SIZE + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attribute that tells a request to the family `ethtool` its interface.
pub fn ethtool_header(index: u32) -> Vec<u8> {
    const HEADER: u16 = 1;
    const NESTED: u16 = 0x8000;
    const HEADER_INDEX: u16 = 1;
    attribute(HEADER | NESTED, &attribute(HEADER_INDEX, &index.to_ne_bytes()))
}

/// The attributes in order, by kind.
pub fn each(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(attributes).map_while(Result::ok).map(|nla| {
        let (kind, end) = (nla.kind(), NLA_HEADER_SIZE + nla.value_length());
        (
            kind,
            nla.into_inner().get(NLA_HEADER_SIZE..end).unwrap_or_default(),
        )
    })
}

/// The value of the first attribute of a kind.
pub fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    each(attributes)
        .find(|&(found, _)| found == kind)
        .map(|(_, value)| value)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is malformed")
}

/// Family `ethtool`, command FEATURES_GET: the offloads that are on, and those that can be switched.
pub fn offloads(index: u32) -> Option<(Vec<String>, Vec<String>)> {
    const FEATURES_GET: u8 = 11;
    const SWITCHABLE: u16 = 2;
    const ACTIVE: u16 = 4;
    let mut netlink = Genetlink::open().ok()?;
    let family = netlink.family("ethtool").ok()?;
    let answer = netlink.ask(family, FEATURES_GET, &ethtool_header(index)).ok()?;
    Some((names(find(&answer, ACTIVE)?), names(find(&answer, SWITCHABLE)?)))
}

/// The names of the bits that are set in an ethtool bit set.
fn names(bitset: &[u8]) -> Vec<String> {
    const BITS: u16 = 3;
    const BIT_NAME: u16 = 2;
    let bits = find(bitset, BITS).unwrap_or_default();
    let name = |bit| {
        Some(
            String::from_utf8_lossy(find(bit, BIT_NAME)?)
                .trim_end_matches('\0')
                .to_owned(),
        )
    };
    each(bits).filter_map(|(_, bit)| name(bit)).collect()
}

/// The bits of `NETDEV_A_DEV_XDP_FEATURES` (Documentation/netlink/specs/netdev.yaml), and how many pieces of a frame
/// zero-copy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct XdpFeatures {
    /// The bits.
    #[serde(rename = "feature_bits")]
    pub bits: u64,
    /// Pieces of a frame in zero-copy mode; 1: no multi-buffer there.
    pub zero_copy_pieces: u32,
}

impl XdpFeatures {
    /// Native programs run, and their verdicts PASS, DROP and ABORTED hold.
    pub const fn basic(self) -> bool {
        self.bits & 1 != 0
    }
    /// Native programs can redirect, to AF_XDP sockets for example.
    pub const fn redirect(self) -> bool {
        self.bits & 2 != 0
    }
    /// Native programs run, and what they redirect is dropped.
    pub const fn lacks_redirect(self) -> bool {
        self.basic() && !self.redirect()
    }
    /// AF_XDP without a copy.
    pub const fn zero_copy(self) -> bool {
        self.bits & 8 != 0
    }
    /// Frames of several buffers can be received.
    pub const fn multi_buffer(self) -> bool {
        self.bits & 32 != 0
    }
}

/// Family `netdev` (kernel 6.3), command DEV_GET: what the driver says of XDP.
pub fn xdp_features(index: u32) -> Option<XdpFeatures> {
    const DEV_GET: u8 = 1;
    const IFINDEX: u16 = 1;
    const XDP_FEATURES: u16 = 3;
    const ZERO_COPY_PIECES: u16 = 4;
    let mut netlink = Genetlink::open().ok()?;
    let family = netlink.family("netdev").ok()?;
    let answer = netlink
        .ask(family, DEV_GET, &attribute(IFINDEX, &index.to_ne_bytes()))
        .ok()?;
    let bits = u64::from_ne_bytes(find(&answer, XDP_FEATURES)?.try_into().ok()?);
    let pieces = find(&answer, ZERO_COPY_PIECES).and_then(|value| value.try_into().ok());
    Some(XdpFeatures {
        bits,
        zero_copy_pieces: pieces.map_or(1, u32::from_ne_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_kind_and_cut_to_their_length() {
        let bytes = [attribute(7, b"abc"), attribute(9, &5u32.to_ne_bytes())].concat();
        assert_eq!(bytes.len(), 16);
        assert_eq!(find(&bytes, 7), Some(&b"abc"[..]));
        assert_eq!(find(&bytes, 9), Some(&5u32.to_ne_bytes()[..]));
        assert_eq!(find(&bytes, 8), None);
        assert_eq!(find(&bytes[..10], 9), None);
    }

    #[test]
    fn families_are_looked_up_in_the_kernel() {
        let mut netlink = Genetlink::open().unwrap();
        assert_eq!(netlink.family("nlctrl").unwrap(), CONTROL);
        assert!(netlink.family("no-such-family").is_err());
    }
}
