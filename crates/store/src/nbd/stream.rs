//! A connection to an NBD server: of this host or of another.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustix::process::{PidfdFlags, pidfd_open};

use super::leftover;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// From here on only the end of the connection ends a read.
    pub(super) fn wait_for_ever(&self) -> io::Result<()> {
        self.set_timeout(None)
    }

    pub(super) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
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

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
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
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
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
        let stream = Stream::Unix(UnixStream::connect(path).unwrap());
        // As when the process that made the socket has left it to another.
        assert!(stream.process().is_none(), "nobody has accepted it");
        let (_accepted, _) = listener.accept().unwrap();
        let process = stream.process().expect("this process serves");
        assert_eq!(process.pid, std::process::id().cast_signed());
        assert!(!process.is_dead());
    }
}
