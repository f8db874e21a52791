//! What AoE and ATA say: request in, reply out.
//!
//! No sockets, no files, no threads, no clock and no randomness: a [`Link`](frames::link::Link) brings frames, a [`Store`] has the
//! sectors, a [`StateStore`] keeps what initiators change, [`Completions`] bring the ends of what those put off, and the
//! time is an argument. The traits are the engine's own; the outside implements them. `docs/conformance.md` has the rules one by one.
//!
//! A [`Session`] is one worker's engine; [`Exports`] are what its port serves; an [`Export`] is shared by all
//! sessions and keeps order among them.
#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects)]

mod ata;
mod commands;
mod counters;
mod export;
mod frames;
#[cfg(feature = "mutants")]
pub mod mutants;
#[cfg(not(feature = "mutants"))]
mod mutants;
mod order;
mod session;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use aoe_common::Address;
pub use ata::identify::Identity;
pub use counters::histogram::{BUCKETS, Histogram, Latency};
pub use counters::initiators::{InitiatorTotals, Initiators};
pub use counters::meter::{ExportMeter, Meters};
pub use counters::{CounterTotals, Counters, EventCount};
pub use export::access::AccessList;
pub use export::exports::Exports;
pub use export::machines::{Machines, SeenDisk};
pub use export::observer::{Change, Observer};
pub use export::state::{MAX_MASK, MAX_RESERVE, Persistent, StateError, StateStore};
pub use export::{Export, Gateway, Options, ReplaceError, WireAdmin};
pub use frames::link;
pub use frames::port::PortInfo;
pub use session::Session;
pub use session::completion::{Completion, CompletionHandle, Completions, Event, StoreResult, Token};
pub use session::remains::Remains;
pub use store::health::{Health, LostWrites};
pub use store::{Durability, Extent, Fault, FaultKind, SECTOR_BYTES, Step, Store, Traits};
