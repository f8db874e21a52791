//! What AoE and ATA say: request in, reply out.
//!
//! No sockets, no files, no threads, no clock and no randomness: a [`link::Link`] brings frames, a [`Store`] has the
//! sectors, a [`StateStore`] keeps what initiators change, [`Completions`] bring the ends of what those put off, and the
//! time is an argument. The traits are the engine's own; the outside implements them. `docs/conformance.md` has the rules one by one.
//!
//! A [`Session`] is one worker's engine; [`Exports`] are what its port serves; an [`Export`] is shared by all
//! sessions and keeps order among them.
#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects)]

mod access;
mod action;
mod admin;
mod advertisements;
mod ata;
mod choice;
mod completion;
mod counters;
mod data;
mod discovery;
mod dispatch;
mod entry;
mod export;
mod exports;
mod fault;
mod health;
mod histogram;
mod in_flight;
mod initiators;
mod late;
mod limiter;
mod line;
pub mod link;
mod machines;
mod mask;
mod meter;
#[cfg(feature = "mutants")]
pub mod mutants;
#[cfg(not(feature = "mutants"))]
mod mutants;
mod observer;
mod operation;
mod order;
mod place;
mod port;
mod query;
mod remains;
mod reply;
mod request;
mod reserve;
mod rx_frame;
mod scatter;
mod scope;
mod server;
mod session;
mod shared;
mod shares;
mod state;
mod store;
mod stripe;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use access::AccessList;
pub use aoe_common::Address;
pub use ata::identify::Identity;
pub use completion::{Completion, CompletionHandle, Completions, Event, StoreResult, Token};
pub use counters::{Counter, CounterTotals, Counters};
pub use export::{Export, Gateway, Options, ReplaceError, WireAdmin};
pub use exports::Exports;
pub use health::{Health, LostWrites};
pub use histogram::{BUCKETS, Histogram, Latency, bucket_limit_us};
pub use initiators::{INITIATORS_MAX, InitiatorTotals, Initiators};
pub use machines::Machines;
pub use meter::{ExportMeter, Meters};
pub use observer::{Change, Observer};
pub use port::PortInfo;
pub use remains::Remains;
pub use session::Session;
pub use state::{MAX_MASK, MAX_RESERVE, Persistent, StateError, StateStore};
pub use store::{Durability, Extent, Fault, FaultKind, SECTOR_BYTES, Step, Store, Traits};
