//! Makes connections to NBD servers: within limits, and not beyond the end of the store that wants them.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
#[cfg(test)]
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, retry_on_intr};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt};

use super::address::NbdServer;
use super::sockets::Sockets;
use super::stream::Stream;

/// How long a server has for each step until it is ready for requests. After that it may take as long as it wants.
const TIMEOUT: Duration = Duration::from_secs(5);
/// When a silent host is asked whether it is still there, and how often then.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// How often a server of this host that does not accept connections is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Connects, unless the store of `sockets` ends meanwhile. Reads end with an error after some seconds until [`Stream::wait_for_ever`].
pub(super) fn connect(server: &NbdServer, sockets: &Sockets) -> io::Result<Arc<Stream>> {
    let stream = match server {
        NbdServer::Unix(path) => unix(path, sockets)?,
        NbdServer::Tcp(host, port) => tcp(host, *port, sockets)?,
    };
    ioctl_fionbio(&*stream, false)?;
    stream.set_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Of both kinds of stream.
const NEW: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Connects, to a server that accepts connections within [`TIMEOUT`]: a stopped one may have a queue that is full, which the kernel
/// would wait for without an end.
fn unix(path: &Path, sockets: &Sockets) -> io::Result<Arc<Stream>> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, NEW, None)?;
    let stream = sockets.enter(Stream::Unix(socket.into()))?;
    let address = SocketAddrUnix::new(path)?;
    let end = Instant::now() + TIMEOUT;
    // Nothing tells when there is room.
    while let Err(error) = net::connect(&*stream, &address) {
        sockets.check()?;
        match error {
            Errno::AGAIN if Instant::now() < end => std::thread::sleep(ACCEPT_PAUSE),
            Errno::AGAIN => {
                let what = "the server accepts no connections: those that wait for it fill its queue";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            error => return Err(error.into()),
        }
    }
    Ok(stream)
}

fn tcp(host: &str, port: u16, sockets: &Sockets) -> io::Result<Arc<Stream>> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match reach(address, sockets) {
            Ok(stream) => {
                let (idle, interval, count) = KEEPALIVE;
                sockopt::set_tcp_nodelay(&*stream, true)?;
                sockopt::set_socket_keepalive(&*stream, true)?;
                sockopt::set_tcp_keepidle(&*stream, idle)?;
                sockopt::set_tcp_keepintvl(&*stream, interval)?;
                sockopt::set_tcp_keepcnt(&*stream, count)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connects to a host that answers within [`TIMEOUT`]. The socket is known before, so that it can be shut down meanwhile.
fn reach(address: SocketAddr, sockets: &Sockets) -> io::Result<Arc<Stream>> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, NEW, None)?;
    let stream = sockets.enter(Stream::Tcp(socket.into()))?;
    match net::connect(&*stream, &address) {
        Err(Errno::INPROGRESS) => {}
        result => result?,
    }
    // One that was shut down before it connected does so all the same.
    sockets.check()?;
    let fd = stream.as_fd();
    let limit = Timespec::try_from(TIMEOUT).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    match retry_on_intr(|| poll(&mut fds, Some(&limit)))? {
        0 => Err(io::Error::from(io::ErrorKind::TimedOut)),
        _ => {
            sockopt::socket_error(fd)??;
            Ok(stream)
        }
    }
}

/// A socket whose queue of connections is full, and those who wait in it.
#[cfg(test)]
pub(super) fn full(path: &Path) -> (OwnedFd, Vec<OwnedFd>) {
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, NEW, None).unwrap();
    let address = SocketAddrUnix::new(path).unwrap();
    let listener = new();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = new();
        match net::connect(&socket, &address) {
            Ok(()) => waiting.push(socket),
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                return (listener, waiting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_server_that_accepts_nothing_is_waited_for_with_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_listener, _waiting) = full(&path);
        let (end, ended) = std::sync::mpsc::channel();
        let sockets = Sockets::default();
        std::thread::spawn(move || end.send(connect(&NbdServer::Unix(path), &sockets).map(drop)));
        let error = ended
            .recv_timeout(Duration::from_secs(60))
            .expect("within a minute")
            .unwrap_err();
        assert!(error.to_string().contains("accepts no connections"), "{error}");
    }

    /// A port whose queue of connections is full: the kernel sends the questions again, for minutes.
    #[test]
    fn the_end_of_a_store_ends_a_connection_that_is_on_its_way() {
        let listener = socket_with(AddressFamily::INET, SocketType::STREAM, NEW, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        rustix::net::bind(&listener, &any).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let listener = TcpListener::from(listener);
        let address = listener.local_addr().unwrap();
        let _first = TcpStream::connect(address).unwrap();
        let fd = listener.as_fd();
        // From here on it is full.
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
        let sockets = Arc::new(Sockets::default());
        let (end, ended) = std::sync::mpsc::channel();
        let of_thread = Arc::clone(&sockets);
        std::thread::spawn(move || end.send(reach(address, &of_thread).map(drop)));
        while sockets.is_empty() {
            std::thread::yield_now();
        }
        sockets.close();
        let error = ended
            .recv_timeout(Duration::from_secs(60))
            .expect("within a minute");
        assert_ne!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
