//! What ATA commands are judged by.

use crate::store::{Extent, Traits};

/// What a command is judged by.
#[derive(Debug)]
pub(crate) struct AtaDevice<'a> {
    /// Sectors the export has.
    pub sectors: u64,
    /// Sectors that fit a frame of this port.
    pub per_frame: u8,
    /// Writes are refused, to everyone or to this source.
    pub read_only: bool,
    /// All writes are durable.
    pub sync: bool,
    /// What the store can do.
    pub traits: Traits,
    /// Current multiple mode; 0: off.
    pub multiple: u8,
    /// SMART is offered; `Some(true)`: and enabled.
    pub smart: Option<bool>,
    /// The frame's data after the ATA header.
    pub payload: &'a [&'a [u8]],
}

/// True when the payload has `count` sectors.
#[inline]
pub(super) fn has_sectors(payload: &[&[u8]], count: u8) -> bool {
    crate::frames::scatter::total(payload) >= bytes_of(count.into())
}

/// Bytes of `sectors` sectors; what does not fit memory cannot be there.
#[inline]
pub(crate) fn bytes_of(sectors: u64) -> usize {
    usize::try_from(sectors)
        .unwrap_or(usize::MAX)
        .saturating_mul(aoe_common::wire::SECTOR_BYTES)
}

/// True when the whole extent exists.
#[inline]
pub(super) fn inside(extent: Extent, sectors: u64) -> bool {
    extent
        .lba
        .checked_add(extent.count)
        .is_some_and(|end| end <= sectors)
}
