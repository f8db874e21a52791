//! Connections of clients that have ended, which a server of this host still keeps.
//!
//! A server goes on with what it was asked for when the client ends, and closes the connection after that: qemu-nbd, qemu-storage-daemon
//! and nbdkit do. So writes of an xblade that was killed can come after those of the next one, for as long as the server has such a
//! connection. The kernel tells of them: linux/unix_diag.h.

use std::io;
use std::os::unix::net::SocketAddr;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};

/// SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, NLMSG_ERROR and NLMSG_DONE of linux/sock_diag.h and linux/netlink.h.
const BY_FAMILY: u16 = 20;
const DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// UDIAG_SHOW_NAME | UDIAG_SHOW_PEER, and the attributes that they bring: UNIX_DIAG_NAME and UNIX_DIAG_PEER.
const SHOW: u32 = 1 | 4;
const NAME: u16 = 0;
const PEER: u16 = 2;
/// TCP_ESTABLISHED, which a connection stays in when its other side has gone.
const CONNECTED: u8 = 1;
/// Sizes of struct nlmsghdr, unix_diag_req and unix_diag_msg.
const HEAD_LEN: usize = 16;
const REQUEST_LEN: usize = 24;
const MESSAGE_LEN: usize = 16;
/// How long the kernel has for each part of its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a part of the kernel's answer at most.
const PART_BYTES: usize = 64 << 10;

/// How many connections that were accepted at a socket have lost their client, and are not closed yet.
///
/// # Errors
/// When the kernel does not tell.
pub(super) fn count(place: &SocketAddr) -> io::Result<usize> {
    let Some(path) = place.as_pathname() else {
        return Ok(0);
    };
    let mut count = 0;
    each_socket(|state, attributes| {
        let name = attribute(attributes, NAME).map(|name| name.strip_suffix(&[0]).unwrap_or(name));
        let is_at = name == Some(path.as_os_str().as_encoded_bytes());
        let peer = attribute(attributes, PEER).and_then(|peer| peer.first_chunk().copied());
        if state == CONNECTED && is_at && peer.map_or(0, u32::from_ne_bytes) == 0 {
            count += 1;
        }
    })?;
    Ok(count)
}

/// Tells of each Unix socket of this network namespace: its state and its attributes.
fn each_socket(mut found: impl FnMut(u8, &[u8])) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(TIMEOUT))?;
    send(&socket, &request(), SendFlags::empty())?;
    let mut part = vec![0; PART_BYTES];
    loop {
        let (len, _) = recv(&socket, part.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &part[..len];
        while let Some((message, tail)) = split(rest, number(rest, 0).map(|len| len as usize)) {
            rest = tail;
            match number(message, 4).map(|kind| kind as u16) {
                Some(DONE) => return Ok(()),
                Some(ERROR) => {
                    let errno = number(message, HEAD_LEN).unwrap_or(0).cast_signed();
                    return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
                }
                _ => {}
            }
            let body = message.get(HEAD_LEN..).unwrap_or_default();
            if let (Some(state), Some(attributes)) = (body.get(2), body.get(MESSAGE_LEN..)) {
                found(*state, attributes);
            }
        }
    }
}

fn request() -> Vec<u8> {
    let mut bytes = ((HEAD_LEN + REQUEST_LEN) as u32).to_ne_bytes().to_vec();
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([AddressFamily::UNIX.as_raw() as u8, 0, 0, 0]);
    for word in [u32::MAX, 0, SHOW, u32::MAX, u32::MAX] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// The value of an attribute.
fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    loop {
        let head = number(rest, 0)?.to_ne_bytes();
        let (length, of) = (
            u16::from_ne_bytes([head[0], head[1]]),
            u16::from_ne_bytes([head[2], head[3]]),
        );
        let (one, tail) = split(rest, Some(usize::from(length)))?;
        if of == kind {
            return one.get(4..);
        }
        rest = tail;
    }
}

/// The first `length` bytes, and what follows them on the next multiple of four.
fn split(bytes: &[u8], length: Option<usize>) -> Option<(&[u8], &[u8])> {
    let length = length.filter(|length| *length >= 4)?;
    let one = bytes.get(..length)?;
    Some((one, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_connection_counts_from_the_end_of_its_client_until_the_server_closes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let place = listener.local_addr().unwrap();
        if let Err(error) = count(&place) {
            println!("skipped: the kernel does not tell of Unix sockets: {error}");
            return;
        }
        let clients = [(); 2].map(|()| UnixStream::connect(&path).unwrap());
        let accepted = [(); 2].map(|()| listener.accept().unwrap().0);
        assert_eq!(count(&place).unwrap(), 0);
        let [first, second] = clients;
        drop(first);
        assert_eq!(count(&place).unwrap(), 1);
        drop(accepted);
        assert_eq!(count(&place).unwrap(), 0);
        drop(second);
    }
}
