//! Questions to generic netlink families, one answer each.

use std::io;

use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

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
pub(super) struct Genetlink {
    socket: Socket,
    sequence: u32,
}

impl Genetlink {
    /// Opens a socket; needs no privilege.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub(super) fn open() -> io::Result<Genetlink> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Genetlink { socket, sequence: 0 })
    }

    /// The number of a family.
    ///
    /// # Errors
    /// When the kernel has no such family.
    pub(super) fn family(&mut self, name: &str) -> io::Result<u16> {
        let name = attribute(CONTROL_FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        let answer = self.ask(CONTROL, CONTROL_GET_FAMILY, &name)?;
        let id = find(&answer, CONTROL_FAMILY_ID).and_then(|value| value.try_into().ok());
        id.map(u16::from_ne_bytes).ok_or_else(malformed)
    }

    /// Sends a command with its attributes and returns the attributes of the answer.
    ///
    /// # Errors
    /// What the kernel answered instead.
    pub(super) fn ask(&mut self, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
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
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((NLA_HEADER_SIZE + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes in order, by kind.
pub(super) fn each(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(attributes).map_while(Result::ok).map(|nla| {
        let (kind, end) = (nla.kind(), NLA_HEADER_SIZE + nla.value_length());
        (
            kind,
            nla.into_inner().get(NLA_HEADER_SIZE..end).unwrap_or_default(),
        )
    })
}

/// The value of the first attribute of a kind.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    each(attributes)
        .find(|&(found, _)| found == kind)
        .map(|(_, value)| value)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is malformed")
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
