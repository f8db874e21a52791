//! How long the frames of an interface may be.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

/// The MTU of an interface of the network namespace that the thread is in. Over rtnetlink, without waiting for anything
/// but the kernel: sysfs shows the interfaces of the namespace that mounted it.
///
/// # Errors
/// When there is no such interface.
pub fn mtu_bytes(interface: &str) -> io::Result<u32> {
    let mut wanted = LinkMessage::default();
    wanted
        .attributes
        .push(LinkAttribute::IfName(interface.to_owned()));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(wanted));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::deserialize(&answer).map_err(io::Error::other)?;
    let link = match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => link,
        NetlinkPayload::Error(error) => return Err(error.to_io()),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mtu = link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(mtu),
        _ => None,
    });
    mtu.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_tells_its_mtu() {
        assert!(mtu_bytes("lo").unwrap() >= 1500);
        let error = mtu_bytes("nosuchinterface").unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(nix::errno::Errno::ENODEV as i32),
            "{error}"
        );
    }
}
