//! Connections of clients that have ended, which a server of this host still keeps.
//!
//! A server goes on with what it was asked for when the client ends, and closes the connection after that: qemu-nbd, qemu-storage-daemon
//! and nbdkit do. So writes of an xblade that was killed can come after those of the next one, for as long as the server has such a
//! connection. The kernel tells of them: linux/unix_diag.h.
//!
//! A path does not tell servers apart: it may name another file in another mount namespace. So the file itself is compared, by its number
//! and its file system. A server whose file was removed for the next one of that path is one of these, too: it may write to the same disk.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};

/// SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, NLMSG_ERROR and NLMSG_DONE of linux/sock_diag.h and linux/netlink.h.
const BY_FAMILY: u16 = 20;
const DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER, and the attributes that they bring: UNIX_DIAG_NAME, UNIX_DIAG_VFS and UNIX_DIAG_PEER.
const SHOW: u32 = 1 | 2 | 4;
const NAME: u16 = 0;
const VFS: u16 = 1;
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

/// A socket that was accepted, or waits for it.
#[derive(Debug)]
struct Accepted {
    /// The path that its server was bound to, as it was given.
    name: Option<Box<[u8]>>,
    /// The file there: its inode and its file system.
    file: Option<(u32, u32)>,
    /// The inode of the client's socket; 0: it has gone.
    client: u32,
}

impl Accepted {
    fn of(attributes: &[u8]) -> Accepted {
        let vfs = attribute(attributes, VFS);
        let client = attribute(attributes, PEER).and_then(|peer| number(peer, 0));
        Accepted {
            name: attribute(attributes, NAME).map(Into::into),
            file: vfs.and_then(|vfs| Some((number(vfs, 0)?, number(vfs, 4)?))),
            client: client.unwrap_or(0),
        }
    }

    /// Whether its server is that of another one, or was there before it.
    fn is_at(&self, other: &Accepted) -> bool {
        let (Some((inode, device)), Some((other_inode, other_device))) = (self.file, other.file) else {
            return false;
        };
        device == other_device && (inode == other_inode || self.name == other.name)
    }
}

/// How many connections that were accepted at the socket to which `client` is connected have lost their client, and are not closed yet.
///
/// # Errors
/// When the kernel does not tell.
pub(super) fn count(client: impl AsFd) -> io::Result<usize> {
    // The kernel tells the lower half.
    let inode = rustix::fs::fstat(client)?.st_ino as u32;
    let mut connected = Vec::new();
    each_socket(|state, attributes| {
        if state == CONNECTED {
            connected.push(Accepted::of(attributes));
        }
    })?;
    let own = connected.iter().find(|accepted| accepted.client == inode);
    let own = own.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the other side is not told of"))?;
    let left = connected.iter().filter(|accepted| accepted.client == 0);
    Ok(left.filter(|accepted| accepted.is_at(own)).count())
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
    use std::path::Path;

    use super::*;

    fn connected(path: &Path, listener: &UnixListener) -> (UnixStream, UnixStream) {
        (UnixStream::connect(path).unwrap(), listener.accept().unwrap().0)
    }

    #[test]
    fn a_connection_counts_from_the_end_of_its_client_until_the_server_closes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let (asks, _asked) = connected(&path, &listener);
        if let Err(error) = count(&asks) {
            return crate::skip(&format!("the kernel does not tell of Unix sockets: {error}"));
        }
        let [first, second] = [(); 2].map(|()| connected(&path, &listener));
        assert_eq!(count(&asks).unwrap(), 0);
        drop(first.0);
        assert_eq!(count(&asks).unwrap(), 1);
        drop(first.1);
        assert_eq!(count(&asks).unwrap(), 0);
        drop(second);
    }

    /// As a path is another file in another mount namespace: here a link of the path leads elsewhere.
    #[test]
    fn a_server_with_the_same_path_on_another_file_system_is_another_one() {
        let here = tempfile::tempdir_in(".").unwrap();
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
            return crate::skip("no /dev/shm");
        };
        let link = here.path().join("link");
        let path = link.join("s");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        let (client, _kept) = connected(&path, &other);
        drop(client);
        let (asks, _asked) = connected(&path, &other);
        if let Err(error) = count(&asks) {
            return crate::skip(&format!("the kernel does not tell of Unix sockets: {error}"));
        }
        assert_eq!(count(&asks).unwrap(), 1);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(here.path(), &link).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let (asks, _asked) = connected(&path, &listener);
        assert_eq!(count(&asks).unwrap(), 0);
        // By another name it is the same.
        let name = here.path().join("t");
        std::fs::hard_link(here.path().join("s"), &name).unwrap();
        let (client, _kept) = connected(&name, &listener);
        drop(client);
        assert_eq!(count(&asks).unwrap(), 1);
    }

    /// The one before it, whose file was removed, may still write to the same disk.
    #[test]
    fn a_server_counts_whose_socket_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let before = UnixListener::bind(&path).unwrap();
        let (client, _kept) = connected(&path, &before);
        drop(client);
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let (asks, _asked) = connected(&path, &listener);
        match count(&asks) {
            Ok(left) => assert_eq!(left, 1),
            Err(error) => crate::skip(&format!("the kernel does not tell of Unix sockets: {error}")),
        }
    }
}
