//! The system calls that make a socket, in their order: memory, rings, bind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, set_xdp_umem_reg, xdp_mmap_offsets, xdp_options,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpMmapOffsets, XdpOptionsFlags, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::config::{Bind, SocketConfig};
use super::error::{XskError, call};
use super::ring::{Entry, Offsets};
use super::umem::{Mapping, Umem};

/// The kernel frees the queue of a closed socket a little later, in the background: a port that is opened again at once
/// (new MTU, restart after a kill) finds it busy for some milliseconds, on a machine that is short of CPU for more than half a second.
const QUEUE_RELEASE: Duration = Duration::from_secs(3);

/// The mapping of a ring and where its parts are.
pub(super) type RingMemory = (Arc<Mapping>, Offsets);

/// A socket with its memory registered and its rings mapped; not bound yet, so that the fill ring can be filled first
/// (a zero-copy driver takes its chunks while it is bound).
pub(super) struct Unbound {
    pub rx: RingMemory,
    pub tx: RingMemory,
    pub fill: RingMemory,
    pub completion: RingMemory,
    pub fd: OwnedFd,
    pub umem: Umem,
}

/// Does the calls of one socket and makes their failures readable.
pub(super) struct Setup<'a> {
    config: &'a SocketConfig,
}

impl Setup<'_> {
    /// Checks the configuration.
    pub(crate) fn new(config: &SocketConfig) -> Result<Setup<'_>, XskError> {
        match config.problem() {
            None => Ok(Setup { config }),
            Some(problem) => Err(XskError::Config {
                interface: interface_name(config.ifindex),
                queue: config.queue,
                problem,
            }),
        }
    }

    /// Everything up to, but without, the bind.
    pub(crate) fn prepare<D: Entry>(&self) -> Result<Unbound, XskError> {
        let config = self.config;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = self.check(
            call::SOCKET,
            socket_with(AddressFamily::XDP, SocketType::RAW, flags, None),
        )?;
        let umem = self.check(call::UMEM, Umem::new(config.chunks, config.chunk_bytes))?;
        let memory = XdpUmemReg {
            addr: umem.address(),
            len: umem.bytes(),
            chunk_size: config.chunk_bytes,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        self.check(call::UMEM_REG, set_xdp_umem_reg(&fd, memory))?;
        self.check(call::FILL, set_xdp_umem_fill_ring_size(&fd, config.ring))?;
        self.check(
            call::COMPLETION,
            set_xdp_umem_completion_ring_size(&fd, config.ring),
        )?;
        self.check(call::RX, set_xdp_rx_ring_size(&fd, config.ring))?;
        self.check(call::TX, set_xdp_tx_ring_size(&fd, config.ring))?;
        let XdpMmapOffsets { rx, tx, fr, cr } = self.check(call::OFFSETS, xdp_mmap_offsets(&fd))?;
        Ok(Unbound {
            rx: self.map::<D>(&fd, rx, XDP_PGOFF_RX_RING)?,
            tx: self.map::<D>(&fd, tx, XDP_PGOFF_TX_RING)?,
            fill: self.map::<u64>(&fd, fr, XDP_UMEM_PGOFF_FILL_RING)?,
            completion: self.map::<u64>(&fd, cr, XDP_UMEM_PGOFF_COMPLETION_RING)?,
            fd,
            umem,
        })
    }

    /// Binds to interface and queue; says whether zero-copy was obtained.
    pub(crate) fn bind(&self, fd: &OwnedFd) -> Result<bool, XskError> {
        let (mode, name) = match self.config.bind {
            Bind::Auto => (SocketAddrXdpFlags::empty(), call::BIND),
            Bind::ZeroCopy => (SocketAddrXdpFlags::XDP_ZEROCOPY, call::BIND_ZEROCOPY),
            Bind::Copy => (SocketAddrXdpFlags::XDP_COPY, call::BIND),
        };
        let mut flags = mode | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        flags.set(SocketAddrXdpFlags::XDP_USE_SG, self.config.multi_buffer());
        let address = SocketAddrXdp::new(flags, self.config.ifindex, self.config.queue);
        let started = Instant::now();
        let mut bound = bind(fd, &address);
        while bound == Err(Errno::BUSY) && started.elapsed() < QUEUE_RELEASE {
            std::thread::sleep(Duration::from_millis(2));
            bound = bind(fd, &address);
        }
        self.check(name, bound)?;
        let options = self.check(call::OPTIONS, xdp_options(fd))?;
        Ok(options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    fn map<T: Entry>(&self, fd: &OwnedFd, offset: XdpRingOffset, page: u64) -> Result<RingMemory, XskError> {
        // The flags word came with Linux 5.4 together with the wake-up flag that it holds.
        let flags = self.check(call::OFFSETS, offset.flags.ok_or(Errno::OPNOTSUPP))?;
        let offsets = Offsets {
            producer: offset.producer as usize,
            consumer: offset.consumer as usize,
            flags: flags as usize,
            entries: offset.desc as usize,
        };
        let bytes = offsets.mapping_bytes::<T>(self.config.ring);
        let mapping = self.check(call::MMAP, Mapping::of_socket(fd.as_fd(), bytes, page))?;
        Ok((Arc::new(mapping), offsets))
    }

    fn check<T>(&self, call: &'static str, result: Result<T, Errno>) -> Result<T, XskError> {
        result.map_err(|errno| XskError::Refused {
            interface: interface_name(self.config.ifindex),
            queue: self.config.queue,
            call,
            errno,
        })
    }
}

/// The interface's name, for messages.
fn interface_name(ifindex: u32) -> String {
    match nix::net::if_::if_indextoname(ifindex) {
        Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
        _ => format!("interface {ifindex}"),
    }
}
