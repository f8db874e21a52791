//! Who learns what happens to an export.

use std::fmt;

use aoe_common::Address;

use crate::store::Fault;

/// What changed of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The config string: advertise.
    String,
    /// The MAC mask: tell the filter.
    Mask,
    /// The reservation.
    Reserve,
    /// The size; sectors now. Advertise.
    Size(u64),
    /// The store was unavailable and serves again: advertise.
    Returned,
}

/// Who is told about an export. Calls come from workers and must not block.
pub trait Observer: Send + Sync + fmt::Debug {
    /// Something that others see changed and is in force.
    fn changed(&self, address: Address, change: Change);

    /// An operation failed; its initiator was answered with an error.
    fn fault(&self, address: Address, fault: &Fault);
}
