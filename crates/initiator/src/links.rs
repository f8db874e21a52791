//! The links of the network namespace that the thread is in, as rtnetlink tells them. It waits for nothing but the kernel, and sysfs
//! would show the interfaces of the namespace that mounted it.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

/// Longest name that is not an alternative one (`IFNAMSIZ` without its end).
const NAME_MAX: usize = 15;
/// Longest alternative name (`ALTIFNAMSIZ` without its end).
const ALTNAME_MAX: usize = 127;
/// The attribute of an alternative name, which the library only knows in answers.
const IFLA_ALT_IFNAME: u16 = 53;

/// All of them.
///
/// # Errors
/// When the kernel does not tell.
pub fn links() -> io::Result<Vec<LinkMessage>> {
    ask(LinkMessage::default(), NLM_F_DUMP)
}

/// The link that is called so, by its name or an alternative one.
///
/// # Errors
/// `ENODEV` when there is none, or when the kernel does not tell.
pub fn link_named(name: &str) -> io::Result<LinkMessage> {
    let mut wanted = LinkMessage::default();
    wanted.attributes.push(match name.len() {
        0..=NAME_MAX => LinkAttribute::IfName(name.to_owned()),
        _ if name.len() <= ALTNAME_MAX => LinkAttribute::Other(DefaultNla::new(IFLA_ALT_IFNAME, name.into())),
        _ => return Err(Errno::ENODEV.into()),
    });
    one(wanted)
}

/// The link with this number.
///
/// # Errors
/// `ENODEV` when there is none, or when the kernel does not tell.
pub fn link_numbered(index: u32) -> io::Result<LinkMessage> {
    let mut wanted = LinkMessage::default();
    wanted.header.index = index;
    one(wanted)
}

/// The MTU of an interface.
///
/// # Errors
/// When there is no such interface.
pub(crate) fn mtu_bytes(interface: &str) -> io::Result<u32> {
    let attributes = link_named(interface)?.attributes;
    let mtu = attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(mtu),
        _ => None,
    });
    mtu.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn one(wanted: LinkMessage) -> io::Result<LinkMessage> {
    let found = ask(wanted, 0)?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The answers to one request. `how`: [`NLM_F_DUMP`] for all links, or 0 for one.
fn ask(wanted: LinkMessage, how: u16) -> io::Result<Vec<LinkMessage>> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(wanted));
    request.header.flags = NLM_F_REQUEST | how;
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
        // Nothing marks the end of an answer that is no dump.
        if how != NLM_F_DUMP {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(link: &LinkMessage) -> Vec<&str> {
        let attributes = link.attributes.iter();
        attributes
            .filter_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn an_interface_tells_its_mtu() {
        assert!(mtu_bytes("lo").unwrap() >= 1500);
    }

    #[test]
    fn a_link_is_found_by_name_and_by_number_and_among_all() {
        let lo = link_named("lo").unwrap();
        assert_eq!(names(&lo), ["lo"]);
        assert_eq!(names(&link_numbered(lo.header.index).unwrap()), ["lo"]);
        assert!(links().unwrap().iter().any(|link| link.header == lo.header));
    }

    #[test]
    fn what_is_not_there_is_no_device_however_long_its_name() {
        for length in [1, 15, 16, 127, 128, 5000] {
            let error = link_named(&"n".repeat(length)).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(Errno::ENODEV as i32),
                "{length}: {error}"
            );
        }
        let error = link_numbered(0x7fff_ffff).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENODEV as i32), "{error}");
    }
}
