//! What AoE and ATA say: request in, reply out.
//!
//! No sockets, no files and no clock: a [`link::Link`] brings frames, a [`crate::store::Store`] has the sectors,
//! and the time is an argument. `docs/conformance.md` has the rules one by one.
#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects)]

mod address;
pub mod link;
mod state;

pub use address::Address;
pub use state::{Keeper, MAX_MASK, MAX_RESERVE, Persistent, StateError};
