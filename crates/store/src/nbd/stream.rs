//! A connection to an NBD server: of this host or of another.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustix::process::{PidfdFlags, pidfd_open};

use super::address::NbdServer;
use super::leftover;

/// How long a server has for each step until it is ready for requests. After that it may take as long as it wants.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// When a silent host is asked whether it is still there, and how often then.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// How often a server of this host that does not accept connections is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Connects. Reads end with an error after [`TIMEOUT`] until [`Stream::wait_for_ever`].
    pub(super) fn connect(server: &NbdServer) -> io::Result<Stream> {
        let stream = match server {
            NbdServer::Unix(path) => Stream::Unix(unix(path)?),
            NbdServer::Tcp(host, port) => Stream::Tcp(tcp(host, *port)?),
        };
        stream.set_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    /// From here on only the end of the connection ends a read.
    pub(super) fn wait_for_ever(&self) -> io::Result<()> {
        self.set_timeout(None)
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
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

    /// How many clients of its server have ended while the server may still be at their requests: 0 also where nobody can know, as of a
    /// server on another host.
    pub(super) fn leftovers(&self) -> usize {
        let Stream::Unix(stream) = self else { return 0 };
        leftover::count(stream).unwrap_or_else(|error| {
            tracing::debug!("which clients of an NBD server have ended is not known: {error}");
            0
        })
    }

    /// The process at the other end, where that can be known: it is on this host, and holds the connections that it has accepted.
    ///
    /// What the kernel tells is who made the socket. That may be somebody else: systemd, or a process that has left the work to
    /// a child, so it is looked for among the process's open files, which takes the same user or CAP_SYS_PTRACE.
    pub(super) fn process(&self) -> Option<Process> {
        let Stream::Unix(stream) = self else { return None };
        let credentials = sockopt::socket_peercred(stream).ok()?;
        let fd = pidfd_open(credentials.pid, PidfdFlags::empty()).ok()?;
        let pid = credentials.pid.as_raw_nonzero().get();
        let place = stream.peer_addr().ok()?;
        let accepted = accepted_at(place.as_pathname()?)?;
        // After the process was opened: another of its number would not have them.
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        let holds = links.any(|link| accepted.iter().any(|inode| link == Path::new(inode)));
        holds.then_some(Process { pid, fd })
    }
}

/// Connects, to a server that accepts connections within [`TIMEOUT`]: a stopped one may have a queue that is full, which the kernel
/// would wait for without an end.
fn unix(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    let end = Instant::now() + TIMEOUT;
    // Nothing tells when there is room.
    while let Err(error) = connect(&socket, &address) {
        match error {
            Errno::AGAIN if Instant::now() < end => std::thread::sleep(ACCEPT_PAUSE),
            Errno::AGAIN => {
                let what = "the server accepts no connections: those that wait for it fill its queue";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            error => return Err(error.into()),
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The connections that were accepted on a socket, as `/proc/PID/fd` names them (`socket:[INODE]`).
fn accepted_at(place: &Path) -> Option<Vec<String>> {
    /// SS_CONNECTED of linux/net.h, in the column `St` of `/proc/net/unix` (net/unix/af_unix.c, unix_seq_show).
    const CONNECTED: &str = "03";
    let table = std::fs::read_to_string("/proc/self/net/unix").ok()?;
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        // Num RefCount Protocol Flags Type St Inode Path; the path may have blanks.
        let mut words = line.split_ascii_whitespace();
        let (state, inode) = (words.nth(5)?, words.next()?);
        let is_at = |path: &str| path.trim_start().as_bytes() == place.as_os_str().as_encoded_bytes();
        let path = line.split_once(inode).map(|(_, rest)| rest);
        if state == CONNECTED && path.is_some_and(is_at) {
            found.push(format!("socket:[{inode}]"));
        }
    }
    Some(found)
}

fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
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
#[derive(Debug)]
pub(super) struct Process {
    pub(crate) pid: i32,
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

/// A socket whose queue of connections is full, and those who wait in it.
#[cfg(test)]
pub(super) fn full(path: &Path) -> (OwnedFd, Vec<OwnedFd>) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    let address = SocketAddrUnix::new(path).unwrap();
    let listener = new();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = new();
        match connect(&socket, &address) {
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
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_process_that_holds_the_connection_is_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let stream = Stream::connect(&NbdServer::Unix(path)).unwrap();
        // As when the process that made the socket has left it to another.
        assert!(stream.process().is_none(), "nobody has accepted it");
        let (_accepted, _) = listener.accept().unwrap();
        let process = stream.process().expect("this process serves");
        assert_eq!(process.pid, std::process::id().cast_signed());
        assert!(!process.is_dead());
    }

    #[test]
    fn a_server_that_accepts_nothing_is_waited_for_with_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_listener, _waiting) = full(&path);
        let (end, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || end.send(Stream::connect(&NbdServer::Unix(path)).map(drop)));
        let error = ended
            .recv_timeout(Duration::from_secs(60))
            .expect("within a minute")
            .unwrap_err();
        assert!(error.to_string().contains("accepts no connections"), "{error}");
    }
}
