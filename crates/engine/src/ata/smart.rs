//! SMART, as little of it as tools need: off unless the export says `smart = true`.

use aoe_common::wire::SECTOR_BYTES;
use aoe_common::wire::identify::set_checksum;

use super::registers::Registers;
use crate::commands::action::{Action, Refusal};

/// LBA mid and high must hold this key.
const KEY: [u8; 2] = [0x4f, 0xc2];

/// Judges a SMART command; `smart` is `None` where it is not offered, else whether it is enabled.
pub(super) fn decode(r: &Registers, smart: Option<bool>) -> Result<Action, Refusal> {
    let abort = Err(Refusal::Ata(r.abort()));
    let Some(enabled) = smart else {
        return abort;
    };
    if r.lba[1..3] != KEY {
        return abort;
    }
    match r.feature {
        0xd8 => Ok(Action::SetSmart(true)),
        0xd9 if enabled => Ok(Action::SetSmart(false)),
        // RETURN STATUS: the unchanged key means healthy; a failing export fails its requests.
        0xda if enabled => Ok(Action::Answer(r.success())),
        0xd0 if enabled && !r.writes() => Ok(Action::SmartData),
        _ => abort,
    }
}

/// SMART data of a device without attributes: revision 16, no offline collection, no self-tests.
pub(crate) fn read_data() -> [u8; SECTOR_BYTES] {
    let mut data = [0; SECTOR_BYTES];
    data[0] = 16;
    set_checksum(&mut data);
    data
}
