//! From registers to what is to be done, or why it is not.

use super::device::{AtaDevice, has_sectors, inside};
use super::{Opcode, Registers, Results, opcode, smart, trim};
use aoe_common::wire::ata::MAX_LBA28;
use aoe_common::wire::error;

use crate::commands::action::{Action, Refusal};
use crate::mutants::{self, Mutant};
use crate::store::{Durability, Extent};

/// Judges a command.
#[inline]
pub(crate) fn decode(registers: &Registers, device: &AtaDevice<'_>) -> Result<Action, Refusal> {
    let r = registers;
    let abort = Err(Refusal::Ata(r.abort()));
    match opcode(r.command) {
        Opcode::Identify if r.writes() => abort,
        Opcode::Identify if r.count != 1 => Err(Refusal::Aoe(error::ARGUMENT)),
        Opcode::Identify => Ok(Action::Identify),
        Opcode::Read { multiple: true, .. } | Opcode::Write { multiple: true, .. }
            if device.multiple == 0 =>
        {
            abort
        }
        Opcode::Read { extended, .. } => {
            let extent = transfer(r, device, extended, false)?;
            Ok(Action::Read { extent, extended })
        }
        Opcode::Write { .. } if device.read_only => abort,
        Opcode::Write { extended, fua, .. } => {
            let extent = transfer(r, device, extended, true)?;
            let durability = if (fua && !mutants::is(Mutant::ForcedWriteIsOrdinary)) || device.sync {
                Durability::Durable
            } else {
                Durability::WriteBack
            };
            Ok(Action::Write {
                extent,
                extended,
                durability,
            })
        }
        Opcode::Verify { extended } => {
            let count = match (r.count, extended) {
                (0, false) => 256,
                (0, true) => 65536,
                (n, _) => u64::from(n),
            };
            let extent = within(r, device, extended, count)?;
            Ok(Action::Verify { extent, extended })
        }
        Opcode::Flush | Opcode::PowerDown => Ok(Action::Flush),
        Opcode::Idle => Ok(Action::Answer(r.success())),
        Opcode::CheckPower => Ok(Action::Answer(Results {
            count: 0xff,
            ..r.success()
        })),
        Opcode::DataSetManagement => trim::decode(r, device),
        Opcode::SetMultiple => match r.count {
            0 | 1 | 2 | 4 | 8 | 16 => Ok(Action::SetMultiple(r.count)),
            _ => abort,
        },
        Opcode::SetFeatures if holds(r.feature, device) => Ok(Action::Answer(r.success())),
        Opcode::SetFeatures => abort,
        Opcode::Diagnostic => {
            // Diagnostic code 1, "passed", in the error register, and the signature of an ATA device.
            Ok(Action::Answer(Results {
                error: 1,
                count: 1,
                lba: [1, 0, 0, 0, 0, 0],
                ..r.success()
            }))
        }
        Opcode::Smart => smart::decode(r, device.smart),
        Opcode::Unsupported => abort,
    }
}

/// Whether what SET FEATURES asks for is so already: nothing can be switched.
fn holds(feature: u8, device: &AtaDevice<'_>) -> bool {
    match feature {
        // Transfer mode, look-ahead off and on, keep or revert settings at reset: nothing to do.
        0x03 | 0x55 | 0xaa | 0x66 | 0xcc => true,
        // The write cache follows `sync`.
        0x02 => !device.sync,
        0x82 => device.sync,
        _ => false,
    }
}

/// The extent of a READ or WRITE.
#[inline]
fn transfer(r: &Registers, device: &AtaDevice<'_>, extended: bool, out: bool) -> Result<Extent, Refusal> {
    if r.writes() != out || r.count == 0 || r.count > device.per_frame {
        return Err(Refusal::Ata(r.abort()));
    }
    if out && !has_sectors(device.payload, r.count) {
        return Err(Refusal::Aoe(error::ARGUMENT));
    }
    within(r, device, extended, r.count.into())
}

#[inline]
fn within(r: &Registers, device: &AtaDevice<'_>, extended: bool, count: u64) -> Result<Extent, Refusal> {
    let extent = Extent {
        lba: r.lba(extended),
        count,
    };
    // 28-bit commands reach what words 60 and 61 of IDENTIFY say, and no command crosses that border in part.
    let sectors = if extended {
        device.sectors
    } else {
        device.sectors.min(MAX_LBA28)
    };
    if inside(extent, sectors) {
        Ok(extent)
    } else {
        Err(Refusal::Ata(r.not_found()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Traits;

    #[test]
    fn short_addresses_end_where_identify_says() {
        let device = AtaDevice {
            sectors: 1 << 33,
            per_frame: 17,
            read_only: false,
            sync: false,
            traits: Traits {
                trim: false,
                zeroes_after_trim: false,
                physical_exponent: 0,
            },
            multiple: 16,
            smart: None,
            payload: &[],
        };
        let read = |command, lba: u64, count| {
            let [a, b, c, d, e, f, ..] = lba.to_le_bytes();
            let registers = Registers {
                aflags: 0x40,
                feature: 0,
                count,
                command,
                lba: [a, b, c, d, e, f],
            };
            match decode(&registers, &device) {
                Ok(Action::Read { extent, .. }) => Some(extent.lba),
                Err(Refusal::Ata(results)) if results.error == 0x10 => None,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(read(0x20, 0x0fff_fffe, 1), Some(0x0fff_fffe));
        assert_eq!(read(0x20, 0x0fff_fffe, 2), None);
        assert_eq!(read(0x20, 0x0fff_ffff, 1), None);
        assert_eq!(read(0x24, 0x0fff_fffe, 17), Some(0x0fff_fffe), "EXT crosses it");
        assert_eq!(read(0x24, 0xffff_fff8, 16), Some(0xffff_fff8), "and 2^32");
        assert_eq!(read(0x24, (1 << 33) - 17, 17), Some((1 << 33) - 17));
        assert_eq!(read(0x24, (1 << 33) - 16, 17), None);
    }
}
