//! ATA opcodes that are served; every other one is aborted.

use aoe_common::wire::ata::command;

/// What a command register value means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// IDENTIFY DEVICE.
    Identify,
    /// READ in all its forms; `multiple`: only while a multiple mode is set.
    Read { extended: bool, multiple: bool },
    /// WRITE in all its forms; `fua`: on the medium before the reply.
    Write {
        extended: bool,
        multiple: bool,
        fua: bool,
    },
    /// READ VERIFY.
    Verify { extended: bool },
    /// FLUSH CACHE.
    Flush,
    /// STANDBY and SLEEP: a flush; the export stays up.
    PowerDown,
    /// IDLE: nothing to do.
    Idle,
    /// CHECK POWER MODE.
    CheckPower,
    /// DATA SET MANAGEMENT.
    DataSetManagement,
    /// SET MULTIPLE MODE.
    SetMultiple,
    /// SET FEATURES.
    SetFeatures,
    /// EXECUTE DEVICE DIAGNOSTIC.
    Diagnostic,
    /// SMART.
    Smart,
    /// Aborted.
    Unsupported,
}

/// Looks a command register value up.
#[inline]
pub(crate) const fn opcode(command: u8) -> Opcode {
    const fn read(extended: bool, multiple: bool) -> Opcode {
        Opcode::Read { extended, multiple }
    }
    const fn write(extended: bool, multiple: bool, fua: bool) -> Opcode {
        Opcode::Write {
            extended,
            multiple,
            fua,
        }
    }
    match command {
        command::IDENTIFY => Opcode::Identify,
        command::READ | command::READ_DMA => read(false, false),
        command::READ_EXT | command::READ_DMA_EXT => read(true, false),
        command::READ_MULTIPLE => read(false, true),
        command::READ_MULTIPLE_EXT => read(true, true),
        command::WRITE | command::WRITE_DMA => write(false, false, false),
        command::WRITE_EXT | command::WRITE_DMA_EXT => write(true, false, false),
        command::WRITE_MULTIPLE => write(false, true, false),
        command::WRITE_MULTIPLE_EXT => write(true, true, false),
        command::WRITE_DMA_FUA_EXT => write(true, false, true),
        command::WRITE_MULTIPLE_FUA_EXT => write(true, true, true),
        command::READ_VERIFY => Opcode::Verify { extended: false },
        command::READ_VERIFY_EXT => Opcode::Verify { extended: true },
        command::FLUSH | command::FLUSH_EXT => Opcode::Flush,
        command::STANDBY_IMMEDIATE | command::STANDBY | command::SLEEP => Opcode::PowerDown,
        command::IDLE_IMMEDIATE | command::IDLE => Opcode::Idle,
        command::CHECK_POWER => Opcode::CheckPower,
        command::DATA_SET_MANAGEMENT => Opcode::DataSetManagement,
        command::SET_MULTIPLE => Opcode::SetMultiple,
        command::SET_FEATURES => Opcode::SetFeatures,
        command::DIAGNOSTIC => Opcode::Diagnostic,
        command::SMART => Opcode::Smart,
        _ => Opcode::Unsupported,
    }
}

impl Opcode {
    /// True for what takes data from the frame and changes sectors.
    pub(crate) const fn has_payload(self) -> bool {
        matches!(self, Opcode::Write { .. } | Opcode::DataSetManagement)
    }

    /// True for what a reservation of others does not block.
    pub(crate) const fn passes_reservation(self) -> bool {
        matches!(self, Opcode::Identify | Opcode::CheckPower | Opcode::Flush)
    }
}
