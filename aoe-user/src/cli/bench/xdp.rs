//! AF_XDP sockets on one interface that hear answers only: for loads that a packet socket is too slow for.

use std::os::fd::AsFd;
use std::time::Duration;

use arrayvec::ArrayVec;
use nix::net::if_::if_nametoindex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::config::Mode;
use crate::filter::{Attach, FilterError, Responses};
use crate::initiator::{BATCH, InitiatorError, PacketSocket, Transport};
use crate::port::mode::{Affected, Way, first_that_works, ways};
use crate::xsk::{Frame, Pieces, Socket, SocketConfig, XskError};

/// Why AF_XDP sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum XdpError {
    /// There is no such interface any more.
    #[error(transparent)]
    Initiator(#[from] InitiatorError),
    /// The XDP program could not be attached.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// An AF_XDP socket could not be opened.
    #[error(transparent)]
    Socket(#[from] XskError),
}

impl XdpError {
    fn affects(&self) -> Affected {
        match self {
            XdpError::Filter(error) => error.into(),
            XdpError::Socket(error) => error.into(),
            XdpError::Initiator(_) => Affected::Interface,
        }
    }
}

/// Bytes of an answer to have brought in before they are asked for: all of an ordinary one.
const HINT_BYTES: usize = 1536;
/// The most that [`SocketConfig::ring`] may be.
const LARGEST_RING: u32 = 32_768;

/// AF_XDP sockets on all receive queues of an interface, and the XDP program that brings answers to them.
///
/// While this lives, user-space initiators on the same interface hear no answers; Linux's own initiator does. The interface is an
/// ordinary one again as soon as this is dropped or its process has ended, in whatever way.
pub(super) struct XdpSocket {
    // First, so that nothing arrives any more when the sockets close.
    _program: Responses,
    /// By receive queue. Requests leave by the first.
    sockets: Vec<Socket>,
    /// Hears nothing while the program is attached, but does hear that the interface goes down, as AF_XDP sockets do not.
    packet: PacketSocket,
    attached: Attach,
    /// Bytes of a frame that are looked at.
    wanted_bytes: usize,
    /// Frames of this round; empty between rounds.
    batch: ArrayVec<Frame, BATCH>,
    /// Where frames in several pieces become whole.
    whole: Vec<u8>,
}

impl XdpSocket {
    /// Opens a socket on each of the `rx_queues` of the packet socket's interface, with room for the answers to `depth` requests,
    /// and attaches the program.
    ///
    /// Needs `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_NET_RAW`, Linux 5.18, and for jumbo frames 6.6.
    pub(super) fn open(packet: PacketSocket, rx_queues: u32, depth: u16) -> Result<XdpSocket, XdpError> {
        let name = packet.interface();
        let ifindex = if_nametoindex(name).map_err(|_| InitiatorError::NoInterface(name.into()))?;
        let usual = SocketConfig::for_mtu(ifindex, 0, packet.mtu_bytes());
        let config = with_room_for(&usual, depth);
        let open = |way: Way| Ok((way.attach, open_as(&packet, rx_queues, &config, way)?));
        let best = ways(Mode::Auto)[0];
        let (attached, (program, sockets)) = first_that_works(Mode::Auto, best, open, XdpError::affects)?;
        Ok(XdpSocket {
            _program: program,
            sockets,
            packet,
            attached,
            wanted_bytes: usize::MAX,
            batch: ArrayVec::new(),
            whole: Vec::new(),
        })
    }

    /// How it is attached and bound: `native copy`, `native zero-copy` or `generic copy`.
    pub(super) fn mode(&self) -> String {
        let zero_copy = self.sockets.iter().all(Socket::is_zerocopy);
        format!(
            "{} {}",
            self.attached,
            if zero_copy { "zero-copy" } else { "copy" }
        )
    }
}

impl Transport for XdpSocket {
    fn receive_heads(&mut self, bytes: usize) {
        self.wanted_bytes = bytes;
    }

    fn send(&mut self, frames: &[&[u8]]) -> Result<usize, InitiatorError> {
        let Some(socket) = self.sockets.first_mut() else {
            return Ok(0);
        };
        let taken = frames.iter().take(BATCH).take_while(|bytes| queue(socket, bytes));
        Ok(taken.count())
    }

    fn receive(&mut self, most: usize, mut each: impl FnMut(&[u8], usize)) -> Result<usize, InitiatorError> {
        let mut received = 0;
        for socket in &mut self.sockets {
            // sends what was queued, and gives the kernel back what was received
            socket.kick();
            while received + self.batch.len() < most.min(BATCH)
                && let Some(frame) = socket.receive()
            {
                // The heads of a batch are on their way together, which makes the load 3 to 5 % faster.
                socket.prefetch(&frame, self.wanted_bytes.min(HINT_BYTES));
                self.batch.push(frame);
            }
            received += self.batch.len();
            for frame in self.batch.drain(..) {
                let (wanted, whole) = (self.wanted_bytes, &mut self.whole);
                each(contiguous(&socket.pieces(&frame), wanted, whole), frame.bytes());
                socket.free(frame);
            }
        }
        Ok(received)
    }

    fn wait(&self, limit: Duration) -> Result<(), InitiatorError> {
        let fds = self.sockets.iter().map(Socket::fd);
        let mut fds: Vec<_> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        fds.push(PollFd::from_borrowed_fd(self.packet.as_fd(), PollFlags::empty()));
        let limit = Timespec::try_from(limit).ok();
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) if fds.iter().any(|fd| fd.revents().intersects(PollFlags::ERR)) => {
                Err(InitiatorError::Down(self.packet.interface().into()))
            }
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(InitiatorError::Socket {
                interface: self.packet.interface().into(),
                action: "wait for an answer",
                cause: errno.into(),
            }),
        }
    }
}

/// Attaches the program and opens the sockets in one way.
fn open_as(
    packet: &PacketSocket,
    rx_queues: u32,
    config: &SocketConfig,
    Way { attach, bind }: Way,
) -> Result<(Responses, Vec<Socket>), XdpError> {
    let mut program = Responses::load(packet.mac())?;
    let mut sockets = Vec::new();
    for queue in 0..rx_queues {
        let socket = Socket::open(&SocketConfig {
            bind,
            queue,
            ..config.clone()
        })?;
        program.set_socket(queue, socket.fd())?;
        sockets.push(socket);
    }
    program.attach(packet.interface(), config.ifindex, attach)?;
    Ok((program, sockets))
}

/// Puts a frame on the way to the TX ring; false when the socket has no memory to spare.
fn queue(socket: &mut Socket, bytes: &[u8]) -> bool {
    let Some(mut frame) = socket.allocate(bytes.len()) else {
        return false;
    };
    let mut rest = bytes;
    for piece in socket.pieces_mut(&mut frame) {
        let (now, later) = rest.split_at(piece.len());
        piece.copy_from_slice(now);
        rest = later;
    }
    socket.transmit(frame);
    true
}

/// At least the `wanted` first bytes of a frame, or all of it, in one piece.
fn contiguous<'a>(pieces: &Pieces<'a>, wanted: usize, whole: &'a mut Vec<u8>) -> &'a [u8] {
    match pieces.first() {
        Some(first) if pieces.len() == 1 || first.len() >= wanted => first,
        _ => {
            whole.clear();
            whole.extend(pieces.iter().flat_map(|piece| piece.iter()));
            whole
        }
    }
}

/// Chunks for the answers to all that can be outstanding, and not for many more: few of them stay in the CPU's cache.
fn with_room_for(usual: &SocketConfig, depth: u16) -> SocketConfig {
    let pieces = usual.frame_bytes / usual.chunk_bytes + 1;
    // twice: answers to copies of requests come on top
    let fill = (2 * u32::from(depth) * pieces).clamp(64, LARGEST_RING);
    SocketConfig {
        ring: fill.next_power_of_two().max(usual.ring),
        // a part of them is kept from the receive side
        chunks: usual.chunks.max(2 * fill),
        fill,
        ..usual.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_all_that_is_outstanding_find_room() {
        for (mtu, pieces) in [(1500, 1), (9000, 3)] {
            for depth in [1, 64, 1000, 4096] {
                let config = with_room_for(&SocketConfig::for_mtu(1, 0, mtu), depth);
                assert!(
                    config.fill >= u32::from(depth) * pieces && config.fill <= config.ring,
                    "{config:?}"
                );
                assert!(config.chunks - config.chunks / 4 >= config.fill, "{config:?}");
                assert!(config.ring.is_power_of_two() && config.ring <= LARGEST_RING);
            }
        }
    }

    #[test]
    fn only_frames_that_are_looked_at_as_a_whole_are_put_together() {
        let pieces: Pieces<'_> = [&[1u8; 100][..], &[2; 50]].into_iter().collect();
        let mut whole = Vec::new();
        assert_eq!(contiguous(&pieces, 60, &mut whole), [1; 100]);
        let all = contiguous(&pieces, usize::MAX, &mut whole);
        assert_eq!((all.len(), all[99], all[100]), (150, 1, 2));
    }
}
