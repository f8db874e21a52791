//! The ATA registers as AoE carries them, both ways.

use aoe_common::wire::ata::{self, error as err, status};
use aoe_common::wire::error;

use crate::store::{Extent, Fault, FaultKind};

/// What an initiator sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    pub aflags: u8,
    pub feature: u8,
    pub count: u8,
    pub command: u8,
    pub lba: [u8; 6],
}

/// What it gets back; AFlags are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Results {
    pub error: u8,
    pub count: u8,
    pub status: u8,
    pub lba: [u8; 6],
}

impl Registers {
    /// From a command's argument.
    #[inline]
    pub(crate) fn read(argument: &[u8; ata::HEADER_LEN]) -> Registers {
        let mut lba = [0; 6];
        lba.copy_from_slice(&argument[ata::LBA..][..6]);
        Registers {
            aflags: argument[ata::AFLAGS],
            feature: argument[ata::FEATURE],
            count: argument[ata::COUNT],
            command: argument[ata::COMMAND],
            lba,
        }
    }

    /// The argument again, reserved bytes zero: AoE errors show the request as it was.
    pub(crate) fn echo(&self) -> [u8; ata::HEADER_LEN] {
        argument(self.aflags, self.feature, self.count, self.command, self.lba)
    }

    /// The LBA registers as a number: 48 bits, or 28 with the low nibble of the device register.
    #[inline]
    pub(crate) fn lba(&self, extended: bool) -> u64 {
        let [a, b, c, d, e, f] = self.lba;
        if extended {
            u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
        } else {
            u64::from_le_bytes([a, b, c, d & 0x0f, 0, 0, 0, 0])
        }
    }

    /// True when the initiator says that data goes to the device.
    #[inline]
    pub(crate) fn writes(&self) -> bool {
        self.aflags & ata::AFLAG_WRITE != 0
    }

    /// Success.
    #[inline]
    pub(crate) fn success(&self) -> Results {
        Results {
            error: 0,
            count: 0,
            status: status::DRDY,
            lba: self.lba,
        }
    }

    /// Command aborted: not supported, or with a bad feature or count.
    pub(crate) fn abort(&self) -> Results {
        Results {
            error: err::ABRT,
            count: self.count,
            status: status::DRDY | status::ERR,
            lba: self.lba,
        }
    }

    /// Sectors beyond the end.
    pub(crate) fn not_found(&self) -> Results {
        Results {
            error: err::IDNF,
            ..self.abort()
        }
    }

    /// What a fault becomes; `extent` is what was to be transferred, where the registers can tell of it.
    ///
    /// # Errors
    /// The AoE error code where the store as a whole is gone.
    pub(crate) fn fault(&self, fault: &Fault, extent: Option<(Extent, bool)>) -> Result<Results, u8> {
        let results = match fault.kind {
            FaultKind::Read => Results {
                error: err::UNC,
                ..self.abort()
            },
            FaultKind::Write => Results {
                status: status::DRDY | status::DF | status::ERR,
                ..self.abort()
            },
            FaultKind::Gone => return Err(error::UNAVAILABLE),
        };
        let Some((extent, extended)) = extent else {
            return Ok(results);
        };
        // A store that names a sector outside the request cannot be right: the first one is the safe answer.
        let end = extent.lba.saturating_add(extent.count);
        let bad = if (extent.lba..end).contains(&fault.lba) {
            fault.lba
        } else {
            extent.lba
        };
        let remaining = end.saturating_sub(bad);
        Ok(Results {
            count: u8::try_from(remaining).unwrap_or(u8::MAX),
            lba: self.with_lba(bad, extended),
            ..results
        })
    }

    fn with_lba(&self, lba: u64, extended: bool) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = lba.to_le_bytes();
        if extended {
            [a, b, c, d, e, f]
        } else {
            [a, b, c, self.lba[3] & 0xf0 | d & 0x0f, self.lba[4], self.lba[5]]
        }
    }
}

impl Results {
    /// True when the status says error.
    pub(crate) fn is_error(&self) -> bool {
        self.status & status::ERR != 0
    }

    /// The argument of the reply.
    #[inline]
    pub(crate) fn write(&self, aflags: u8) -> [u8; ata::HEADER_LEN] {
        argument(aflags, self.error, self.count, self.status, self.lba)
    }
}

#[inline]
fn argument(aflags: u8, feature: u8, count: u8, command: u8, lba: [u8; 6]) -> [u8; ata::HEADER_LEN] {
    let mut argument = [0; ata::HEADER_LEN];
    argument[ata::AFLAGS] = aflags;
    argument[ata::FEATURE] = feature;
    argument[ata::COUNT] = count;
    argument[ata::COMMAND] = command;
    argument[ata::LBA..][..6].copy_from_slice(&lba);
    argument
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: FaultKind, lba: u64) -> Fault {
        Fault {
            kind,
            lba,
            source: std::io::Error::other("test"),
        }
    }

    #[test]
    fn faults_name_the_first_bad_sector_and_what_is_left() {
        let registers = Registers {
            aflags: 0x40,
            feature: 0,
            count: 8,
            command: 0x24,
            lba: [0x10, 0, 0, 0, 1, 0],
        };
        let extent = Extent {
            lba: 0x1_0000_0010,
            count: 8,
        };
        let bad = registers
            .fault(&fault(FaultKind::Read, 0x1_0000_0013), Some((extent, true)))
            .unwrap();
        assert_eq!(
            (bad.status, bad.error, bad.count, bad.lba),
            (0x41, 0x40, 5, [0x13, 0, 0, 0, 1, 0])
        );
        let outside = registers
            .fault(&fault(FaultKind::Write, 3), Some((extent, true)))
            .unwrap();
        assert_eq!((outside.status, outside.error, outside.count), (0x61, 0x04, 8));
        assert_eq!(
            registers.fault(&fault(FaultKind::Gone, 0), Some((extent, true))),
            Err(3)
        );
    }

    #[test]
    fn short_addresses_keep_the_device_register() {
        let registers = Registers {
            aflags: 0,
            feature: 0,
            count: 2,
            command: 0x20,
            lba: [0xff, 0xff, 0xff, 0xe1, 7, 7],
        };
        assert_eq!(registers.lba(false), 0x1ff_ffff);
        let extent = Extent {
            lba: 0x1ff_ffff,
            count: 2,
        };
        let bad = registers
            .fault(&fault(FaultKind::Read, 0x200_0000), Some((extent, false)))
            .unwrap();
        assert_eq!((bad.count, bad.lba), (1, [0, 0, 0, 0xe2, 7, 7]));
    }
}
