//! Histories: what many clients saw of a few sectors while network and target misbehaved, and whether one disk that
//! does one thing at a time could have shown it to them.
//!
//! [`workload`] runs [`client`]s, which retransmit as Linux's driver does, through a [`network`] that loses,
//! duplicates, delays and reorders frames by a seeded plan, against a target behind a [`network::Wire`]: the real one
//! over [`veth`], or the [`fake`] one in this process, which can be told to misbehave. Every client records when it
//! asked and when it was told; [`check`] judges the record of each sector.
//!
//! # What the wire itself cannot give
//!
//! AoE has no sequence numbers, so a target cannot tell a write that the network held back from a new one, and
//! a client whose reply was lost writes twice. If somebody else wrote the sector in between, the old contents come
//! back, and no target can help it. Users keep out of that by having one writer a sector at a time (a file system, a
//! cluster's lock manager), and [`workload::Discipline`] says how the tests do.

pub mod check;
pub mod client;
pub mod fake;
pub mod network;
pub mod record;
pub mod veth;
pub mod workload;
