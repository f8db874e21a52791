//! More addresses than one on an interface.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::sockopt::add_address;

/// An address that an interface takes frames to besides its own, for as long as this lives: the kernel takes it away when the
/// process ends, in whatever way.
#[derive(Debug)]
pub struct Station {
    // The address is bound to it. It has no protocol, so that it receives nothing.
    _socket: OwnedFd,
}

impl Station {
    /// Adds a unicast address to the interface with this index. Needs `CAP_NET_RAW`; any kernel.
    ///
    /// # Errors
    /// When there is no such interface, or it takes no more addresses.
    pub fn add(interface_index: u32, address: [u8; 6]) -> io::Result<Station> {
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        add_address(&socket, interface_index, address)?;
        Ok(Station { _socket: socket })
    }
}
