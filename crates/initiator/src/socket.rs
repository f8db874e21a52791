//! A raw packet socket on one interface that hears AoE only, in batches.

use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use aoe_common::Mac;
use aoe_common::wire::eth;
use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use nix::sys::socket::{LinkAddr, MsgFlags, MultiHeaders, bind, recvmmsg, sendmmsg, setsockopt};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};

use super::InitiatorError;
use super::links::mtu_bytes;
use super::transport::{BATCH, Transport};

/// Kernel memory for frames that wait: enough for 64 jumbo frames many times over.
const BUFFER_BYTES: usize = 32 << 20;

/// An AF_PACKET socket, bound to one interface and to AoE's EtherType.
///
/// A PACKET_MMAP ring would save a copy, but it cannot be used without `unsafe`; `recvmmsg` in large batches
/// comes close enough.
pub struct PacketSocket {
    fd: OwnedFd,
    interface: String,
    mac: Mac,
    mtu_bytes: u32,
    snap_bytes: usize,
    received: Vec<u8>,
    rx_headers: MultiHeaders<()>,
    tx_headers: MultiHeaders<()>,
}

impl PacketSocket {
    /// Opens a socket on an Ethernet interface that is up. Needs `CAP_NET_RAW`.
    pub fn open(interface: &str) -> Result<PacketSocket, InitiatorError> {
        PacketSocket::open_for(interface, eth::TYPE_AOE)
    }

    /// Opens a socket that only sends. One that could hear would cost whoever sends to this interface a copy of each frame.
    #[cfg(feature = "load")]
    pub(crate) fn open_deaf(interface: &str) -> Result<PacketSocket, InitiatorError> {
        PacketSocket::open_for(interface, 0)
    }

    fn open_for(interface: &str, ether_type: u16) -> Result<PacketSocket, InitiatorError> {
        let failed = |action| {
            move |cause: io::Error| InitiatorError::Socket {
                interface: interface.into(),
                action,
                cause,
            }
        };
        let (address, flags) = link_address(interface)
            .map_err(|e| failed("list interfaces")(e.into()))?
            .ok_or_else(|| InitiatorError::NoInterface(interface.into()))?;
        let mac = address.addr().map(Mac).filter(|mac| mac.is_station());
        let mac = mac.ok_or_else(|| InitiatorError::NoInterface(interface.into()))?;
        if !flags.contains(InterfaceFlags::IFF_UP) {
            return Err(InitiatorError::Down(interface.into()));
        }
        let protocol = NonZeroU32::new(u32::from(ether_type.to_be())).map(Protocol::from_raw);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol);
        let fd = fd.map_err(|e| match e {
            rustix::io::Errno::PERM => InitiatorError::Permission(interface.into()),
            other => failed("open a raw socket")(other.into()),
        })?;
        // without CAP_NET_ADMIN the socket keeps the default sizes: it works, and bursts may cost retransmissions
        let _ = setsockopt(&fd, RcvBufForce, &BUFFER_BYTES);
        let _ = setsockopt(&fd, SndBufForce, &BUFFER_BYTES);
        // the address's protocol is 0, which keeps the one the socket was made for
        bind(fd.as_raw_fd(), &address).map_err(|e| failed("bind the raw socket")(e.into()))?;
        let mtu_bytes = mtu_bytes(interface).map_err(failed("read the MTU"))?;
        let snap_bytes = (mtu_bytes as usize + eth::HEADER_LEN + eth::TAG_LEN).next_multiple_of(64);
        let mut socket = PacketSocket {
            fd,
            interface: interface.into(),
            mac,
            mtu_bytes,
            snap_bytes,
            received: vec![0; BATCH * snap_bytes],
            rx_headers: MultiHeaders::preallocate(BATCH, None),
            tx_headers: MultiHeaders::preallocate(BATCH, None),
        };
        // until it was bound the socket heard every interface
        while socket.receive(BATCH, |_, _| {})? > 0 {}
        Ok(socket)
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The interface's address.
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// The interface's MTU when the socket was opened.
    pub const fn mtu_bytes(&self) -> u32 {
        self.mtu_bytes
    }

    fn failed(&self, action: &'static str, errno: Errno) -> InitiatorError {
        InitiatorError::Socket {
            interface: self.interface.clone(),
            action,
            cause: errno.into(),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Transport for PacketSocket {
    fn receive_heads(&mut self, bytes: usize) {
        self.snap_bytes = self.snap_bytes.min(bytes);
    }

    fn send(&mut self, frames: &[&[u8]]) -> Result<usize, InitiatorError> {
        let slices: ArrayVec<[IoSlice<'_>; 1], BATCH> = frames
            .iter()
            .take(BATCH)
            .map(|frame| [IoSlice::new(frame)])
            .collect();
        let sent = sendmmsg(
            self.fd.as_raw_fd(),
            &mut self.tx_headers,
            slices.iter(),
            [const { None::<()> }; BATCH],
            [],
            MsgFlags::MSG_DONTWAIT,
        );
        match sent.map(Iterator::count) {
            Ok(count) => Ok(count),
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => Ok(0),
            Err(Errno::ENETDOWN | Errno::ENXIO) => Err(InitiatorError::Down(self.interface.clone())),
            Err(errno) => Err(self.failed("send", errno)),
        }
    }

    fn receive(&mut self, most: usize, mut each: impl FnMut(&[u8], usize)) -> Result<usize, InitiatorError> {
        let most = most.min(BATCH);
        let mut frames = self.received.chunks_exact_mut(self.snap_bytes).take(most);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(frames.next().unwrap_or_default())]);
        let slices = slices[..most].iter_mut();
        // MSG_TRUNC: tell the length of the whole frame, however much of it fits
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        match recvmmsg(self.fd.as_raw_fd(), &mut self.rx_headers, slices, flags, None) {
            Ok(messages) => Ok(messages
                .map(|message| each(message.iovs().next().unwrap_or_default(), message.bytes))
                .count()),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(Errno::ENETDOWN) => Err(InitiatorError::Down(self.interface.clone())),
            Err(errno) => Err(self.failed("receive", errno)),
        }
    }

    fn wait(&self, limit: Duration) -> Result<(), InitiatorError> {
        // poll(2) counts whole milliseconds: round up, or a short wait would spin
        let limit = PollTimeout::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(self.failed("wait for an answer", errno)),
        }
    }
}

fn link_address(interface: &str) -> nix::Result<Option<(LinkAddr, InterfaceFlags)>> {
    let mut found = getifaddrs()?.filter(|entry| entry.interface_name == interface);
    Ok(found.find_map(|entry| Some((*entry.address?.as_link_addr()?, entry.flags))))
}
