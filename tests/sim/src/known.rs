//! Faults that the target is known to have, by name, until they are mended: the simulator finds them and goes on.
//!
//! Each says precisely what it covers. A run that breaks a promise in any other way fails, and `--no-known` has these fail, too.

use serde::{Deserialize, Serialize};

use crate::oracle::{Promise, Violation};

/// A known fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Known {
    /// A write that lay in the ring of a worker that did not run is carried out when that one runs again, although its
    /// retransmission by another queue was answered long ago and newer writes, too. Frames carry no time that the engine
    /// could know them by.
    StaleFrameFromStalledRing,
}

impl Known {
    /// All of them.
    pub const ALL: &[Known] = &[Known::StaleFrameFromStalledRing];

    /// The known fault that a violation is, if it is one.
    pub fn of(violation: &Violation) -> Option<Known> {
        match violation.promise {
            Promise::StaleFromRing => Some(Known::StaleFrameFromStalledRing),
            _ => None,
        }
    }
}
