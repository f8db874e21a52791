//! A connection to an NBD server: of this host or of another.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt;
use rustix::process::{PidfdFlags, pidfd_open};

use super::address::Server;

/// How long a server has for each step until it is ready for requests. After that it may take as long as it wants.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// When a silent host is asked whether it is still there, and how often then.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Connects. Reads end with an error after [`PATIENCE`] until [`Stream::wait_for_ever`].
    pub(super) fn connect(server: &Server) -> io::Result<Stream> {
        let stream = match server {
            Server::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Server::Tcp(host, port) => Stream::Tcp(tcp(host, *port)?),
        };
        stream.set_patience(Some(PATIENCE))?;
        Ok(stream)
    }

    /// From here on only the end of the connection ends a read.
    pub(super) fn wait_for_ever(&self) -> io::Result<()> {
        self.set_patience(None)
    }

    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
        }
    }

    /// Ends reads and writes of all who use it.
    pub(super) fn shut_down(&self) {
        // Fails only where the other side has ended it already.
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// The process at the other end, where that can be known: it is on this host.
    pub(super) fn process(&self) -> Option<Process> {
        let Stream::Unix(stream) = self else { return None };
        let credentials = sockopt::socket_peercred(stream).ok()?;
        let fd = pidfd_open(credentials.pid, PidfdFlags::empty()).ok()?;
        Some(Process {
            pid: credentials.pid.as_raw_nonzero().get(),
            fd,
        })
    }
}

fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let (idle, interval, count) = KEEPALIVE;
                sockopt::set_socket_keepalive(&stream, true)?;
                sockopt::set_tcp_keepidle(&stream, idle)?;
                sockopt::set_tcp_keepintvl(&stream, interval)?;
                sockopt::set_tcp_keepcnt(&stream, count)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&mut &*stream).read(buffer),
            Stream::Tcp(stream) => (&mut &*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&mut &*stream).write(bytes),
            Stream::Tcp(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A server's process.
///
/// Of a server that was given its socket by another process (socket activation) it is that one, which only errs on the safe side: it lives longer.
#[derive(Debug)]
pub(super) struct Process {
    pub pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// It does nothing any more.
    pub(super) fn is_dead(&self) -> bool {
        let fd = self.fd.as_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&rustix::time::Timespec::default())), Ok(1))
    }
}
