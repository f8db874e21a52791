//! DATA SET MANAGEMENT with TRIM (ATA8-ACS-2 §7.5).

use aoe_common::wire::SECTOR_BYTES;
use aoe_common::wire::error;

use super::device::{AtaDevice, bytes_of, has_sectors, inside};
use super::registers::Registers;
use crate::commands::action::{Action, Refusal};
use crate::frames::scatter;
use crate::store::Extent;

/// Blocks of 64 ranges that one command may carry where frames are large enough.
const MAX_BLOCKS: u8 = 8;

/// Blocks of ranges one command may carry on a port: IDENTIFY word 105.
pub(super) fn max_blocks(per_frame: u8) -> u8 {
    per_frame.min(MAX_BLOCKS)
}

/// Judges the command and reads its ranges; all are checked before any is trimmed.
pub(super) fn decode(r: &Registers, device: &AtaDevice<'_>) -> Result<Action, Refusal> {
    let is_trim = r.feature & 1 != 0;
    let fits = (1..=max_blocks(device.per_frame)).contains(&r.count);
    if !is_trim || !fits || !r.writes() || device.read_only || !device.traits.trim {
        return Err(Refusal::Ata(r.abort()));
    }
    if !has_sectors(device.payload, r.count) {
        return Err(Refusal::Aoe(error::ARGUMENT));
    }
    let mut extents = Vec::new();
    let mut block = [0u8; SECTOR_BYTES];
    for number in 0..u64::from(r.count) {
        scatter::gather(device.payload, bytes_of(number), &mut block);
        for entry in block.as_chunks::<8>().0 {
            let extent = range(*entry);
            if extent.count == 0 {
                continue;
            }
            if !inside(extent, device.sectors) {
                return Err(Refusal::Ata(r.not_found()));
            }
            extents.push(extent);
        }
    }
    if extents.is_empty() {
        return Ok(Action::Answer(r.success()));
    }
    Ok(Action::Trim(extents))
}

/// One range entry: 48 bits of LBA, 16 of length, little-endian.
fn range(entry: [u8; 8]) -> Extent {
    let value = u64::from_le_bytes(entry);
    Extent {
        lba: value & 0xffff_ffff_ffff,
        count: value >> 48,
    }
}
