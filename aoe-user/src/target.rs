//! The engine with this machine's stores behind it.

pub use engine::{AccessList, Address, Change, Identity, Observer, Options, Persistent, PortInfo, WireAdmin};
pub(crate) use engine::{Counters, Gateway};

use crate::store::CompletionQueue;

/// An export on one of this machine's stores.
pub type Export = engine::Export<CompletionQueue>;
/// The exports of one port.
pub type Exports = engine::Exports<CompletionQueue>;
/// The engine of one worker, on a link of kind `L`.
pub type Session<L> = engine::Session<L, CompletionQueue>;
/// Keeps what initiators change.
pub(crate) type DynStateStore = dyn engine::StateStore<CompletionQueue>;
