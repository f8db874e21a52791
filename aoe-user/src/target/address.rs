//! Shelf and slot: what an initiator calls an export by.

use std::fmt;

/// An export's address, as in `e1.2`. Never a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Major address, 0 to 65534.
    pub shelf: u16,
    /// Minor address, 0 to 254.
    pub slot: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.shelf, self.slot)
    }
}
