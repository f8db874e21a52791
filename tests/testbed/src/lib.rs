//! The lab: what the integration tests and `cargo xtask run` stand on.
//!
//! Network namespaces joined by veth pairs ([`Lab`]), the real `xblade` in one of them ([`Target`]), a raw initiator
//! ([`Initiator`]) or a virtual machine with a real one ([`vm`]) in the other, images with known contents ([`Image`]),
//! and captures of what went over the wire ([`capture`]). Everything cleans up after itself, however a test ends.

pub mod capture;
pub mod ceph;
pub mod container;
pub mod faulty_export;
pub mod file_system;
pub mod frame;
pub mod gateways;
pub mod image;
pub mod initiator;
pub mod link;
pub mod namespace;
pub mod needs;
pub mod net;
pub mod packages;
mod poll;
pub mod process;
mod random_use;
mod seed;
pub mod shell;
mod stopwatch;
pub mod target;
pub mod values;
pub mod vm;
pub mod writer;

pub use frame::{Address, Reply, Request};
pub use image::Image;
pub use initiator::Initiator;
pub use link::{Lab, Options};
pub use net::Namespace;
pub use poll::eventually;
pub use process::Process;
pub use random_use::used_at_random;
pub use seed::seed;
pub use stopwatch::{Stopwatch, slowdown};
pub use target::Target;
