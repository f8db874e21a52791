//! What AoE and ATA say: request in, reply out.
//!
//! No sockets, no files and no clock: a [`link::Link`] brings frames, a [`crate::store::Store`] has the sectors,
//! and the time is an argument. `docs/conformance.md` has the rules one by one.
//!
//! A [`Session`] is one worker's engine; [`Exports`] are what its port serves; an [`Export`] is shared by all
//! sessions and keeps order among them.
#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects)]

mod access;
mod address;
mod admin;
mod adverts;
mod ata;
mod counters;
mod data;
mod engine;
mod export;
mod exports;
mod late;
mod limiter;
pub mod link;
mod mask;
mod order;
mod parked;
mod query;
mod reply;
mod request;
mod reserve;
mod scatter;
mod session;
mod state;
#[cfg(test)]
mod tests;
mod work;

pub use access::AccessList;
pub use address::Address;
pub use ata::identify::Identity;
pub use counters::{Counter, Counters};
pub use export::{Change, Export, Observer, Options, ReplaceError, WireAdmin};
pub use exports::Exports;
pub use session::{PortInfo, Session};
pub use state::{Keeper, MAX_MASK, MAX_RESERVE, Persistent, StateError};
