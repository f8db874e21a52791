//! What an oracle says when a promise is broken.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Promise {
    /// A request that arrives after a reply was sent sees its effect.
    Order,
    /// A write is not carried out any more after its answer, when newer ones were answered; a copy of it had waited in the ring
    /// of a worker that did not run.
    StaleFromRing,
    /// The same, and no copy had waited in a ring.
    StaleWrite,
    /// An acknowledged write is where its mode says.
    Durable,
    /// A flush covers what was answered before it.
    Flush,
    /// What was acknowledged and is known to be lost is not passed over.
    Loss,
    /// An error is told only when there was one, and to whom it belongs.
    Error,
    /// Access lists, masks and reservations keep out whom they should.
    Access,
    /// Mask, reservation and string are what was answered, also after a restart.
    State,
    /// Replies are well-formed and asked for, and nothing leaks.
    Reply,
    /// Overlapping writes never run at the same time.
    Overlap,
    /// Frames are conserved.
    Frames,
    /// Every request of a well-behaved initiator ends.
    Ends,
    /// One export's faults are not another's.
    Share,
    /// A gateway that does not have the group says nothing.
    Silence,
    /// A gateway answers nothing that was sent before it had the lock.
    Quiet,
    /// Nobody takes the group from a gateway that is well and heard, and of two that do not hear each other nobody does so twice a
    /// minute.
    TakeOver,
    /// Where a gateway can serve, one does before long.
    Outage,
    /// The engine does not panic.
    Panic,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// When.
    pub at_us: u64,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} at {}.{:06} s: {}",
            self.promise,
            self.at_us / 1_000_000,
            self.at_us % 1_000_000,
            self.text
        )
    }
}
