//! What an export is called and who may use it: the words that config, engine and filter share.

use core::fmt;

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

/// What an initiator may do with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read; writes are aborted.
    ReadOnly,
}

impl Access {
    /// Every value by its name.
    pub const NAMES: [(&'static str, Access); 2] = [("rw", Access::ReadWrite), ("ro", Access::ReadOnly)];
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Access::NAMES.iter().find(|(_, known)| known == self);
        f.write_str(name.map_or("?", |(name, _)| name))
    }
}

/// VLAN rule of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vlan {
    /// Untagged and priority-tagged (VID 0) frames.
    Untagged,
    /// Frames tagged with this VID, 1 to 4094.
    Id(u16),
    /// Any frame, tagged or not.
    Any,
}

impl Vlan {
    /// True when there is a frame that both rules answer to.
    pub fn overlaps(self, other: Vlan) -> bool {
        self == other || self == Vlan::Any || other == Vlan::Any
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Vlan::Untagged => f.write_str("untagged"),
            Vlan::Id(id) => write!(f, "{id}"),
            Vlan::Any => f.write_str("any"),
        }
    }
}
