//! Faults that the target is known to have, by name, until they are mended: the simulator finds them and goes on.
//!
//! Each says precisely what it covers. A run that breaks a promise in any other way fails, and `--no-known` has these fail, too.

use serde::{Deserialize, Serialize};

use crate::oracle::Violation;

/// A known fault. There is none at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Known {}

impl Known {
    /// All of them.
    pub const ALL: &[Known] = &[];

    /// The known fault that a violation is, if it is one.
    pub fn of(_: &Violation) -> Option<Known> {
        None
    }
}
