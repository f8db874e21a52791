//! ATA opcodes that are served; every other one is aborted.

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
        0xec => Opcode::Identify,
        0x20 | 0xc8 => read(false, false),
        0x24 | 0x25 => read(true, false),
        0xc4 => read(false, true),
        0x29 => read(true, true),
        0x30 | 0xca => write(false, false, false),
        0x34 | 0x35 => write(true, false, false),
        0xc5 => write(false, true, false),
        0x39 => write(true, true, false),
        0x3d => write(true, false, true),
        0xce => write(true, true, true),
        0x40 => Opcode::Verify { extended: false },
        0x42 => Opcode::Verify { extended: true },
        0xe7 | 0xea => Opcode::Flush,
        0xe0 | 0xe2 | 0xe6 => Opcode::PowerDown,
        0xe1 | 0xe3 => Opcode::Idle,
        0xe5 => Opcode::CheckPower,
        0x06 => Opcode::DataSetManagement,
        0xc6 => Opcode::SetMultiple,
        0xef => Opcode::SetFeatures,
        0x90 => Opcode::Diagnostic,
        0xb0 => Opcode::Smart,
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
