//! AF_XDP: the memory shared with the kernel, its four rings, and the socket of one receive queue.
//!
//! A [`Socket`] owns its memory (UMEM), cut into chunks of one size. A chunk is always in exactly one place: the pool,
//! the kernel's receive side (fill ring, driver, RX ring), the caller's hands as part of a [`Frame`], or the transmit
//! side (overflow queue, TX ring, driver, completion ring). [`Socket::chunk_counts`] counts the places; their sum never changes.
//!
//! | file | what |
//! | --- | --- |
//! | `config` | what to open, and sizes that suit an MTU |
//! | `umem` | mapped memory, and the bytes of a frame in it |
//! | `ring` | one end of a ring shared with the kernel |
//! | `chunk` | who holds which chunk |
//! | `frame` | a frame's pieces: how frames grow, shrink and are put together |
//! | `setup` | the system calls that make a socket, in order |
//! | `socket` | the data path |
//! | `sockopt` | socket options that no library sets |
//! | `station` | one more address on an interface |
//! | `release` | taking the queue back from an owner that hangs in the kernel |
//!
//! Minimum kernel: 5.18, as XDP programs with `xdp.frags` need; frames of several chunks (jumbo frames) need 6.6.
//! Source: Documentation/networking/af_xdp.rst of the Linux kernel.
#![deny(clippy::arithmetic_side_effects)]

// So that the README's example is compiled with the tests of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod chunk;
mod config;
mod error;
mod frame;
mod live;
mod release;
mod ring;
mod setup;
mod socket;
mod sockopt;
mod station;
mod stats;
mod umem;

pub use chunk::ChunkCounts;
pub use config::{Bind, SocketConfig};
pub use error::XskError;
pub use frame::{Frame, MAX_FRAME_BYTES, MAX_PIECES, Pieces, PiecesMut};
pub use release::QueueRelease;
pub use socket::Socket;
pub use station::Station;
pub use stats::Statistics;
