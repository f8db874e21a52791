//! The other side of the wire: an AoE initiator in user space.
//!
//! `xblade bench` measures targets with it, and a starting target asks with it whether its address is taken. It
//! speaks through an AF_PACKET socket, so it needs `CAP_NET_RAW` and no XDP, works on every Ethernet interface and
//! against every target. Loads that this is too slow for bring a [`Transport`] of their own.

#![forbid(unsafe_code)]

mod client;
#[cfg(feature = "load")]
pub mod flood;
pub mod frame;
mod identify;
mod links;
#[cfg(feature = "load")]
pub mod load;
mod socket;
pub mod stamp;
mod transport;

pub use client::{Client, Found};
pub use frame::Route;
pub use identify::DiskIdentity;
pub use links::{link_named, link_numbered, links};
pub use socket::PacketSocket;
pub use transport::{BATCH, Transport};

use std::io;

/// What can go wrong for an initiator.
#[derive(Debug, thiserror::Error)]
pub enum InitiatorError {
    /// There is no interface of this name, or it has no Ethernet address.
    #[error("{0}: no such Ethernet interface (`ip link` lists them)")]
    NoInterface(String),
    /// The interface is administratively down.
    #[error("{0} is down (`ip link set {0} up`)")]
    Down(String),
    /// A raw socket was refused.
    #[error("a raw socket on {0} needs root or CAP_NET_RAW")]
    Permission(String),
    /// A system call on the socket failed.
    #[error("{interface}: {action}: {cause}")]
    Socket {
        /// The interface.
        interface: String,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Nobody answered in time.
    #[error("{what}: no answer within {seconds:.1} s")]
    Timeout {
        /// What was asked for.
        what: String,
        /// How long it was asked, retransmissions included.
        seconds: f64,
    },
    /// The target answered with an AoE error (AoEr11 §2.4).
    #[error("{what}: the target answered AoE error {code} ({})", frame::error_text(*code))]
    Aoe {
        /// What was asked for.
        what: String,
        /// The code.
        code: u8,
    },
    /// The device answered with ERR set.
    #[error("{what}: the device answered status {status:#04x}, error {error:#04x}")]
    Ata {
        /// What was asked for.
        what: String,
        /// Status register.
        status: u8,
        /// Error register.
        error: u8,
    },
    /// The answer had fewer data than were asked for.
    #[error("{what}: the answer has {got} bytes of data instead of {wanted}")]
    Short {
        /// What was asked for.
        what: String,
        /// Bytes that came.
        got: usize,
        /// Bytes that were due.
        wanted: usize,
    },
}
