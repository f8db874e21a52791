//! The argument of an ATA command, offsets from its first byte (AoE header + 10), and the values in it (ATA8-ACS-2).
//!
//! ```
//! use aoe_common::wire::ata;
//!
//! /// The argument that reads `count` sectors from `lba` on, with 48-bit addresses.
//! fn read(lba: u64, count: u8) -> [u8; ata::HEADER_LEN] {
//!     let mut argument = [0; ata::HEADER_LEN];
//!     argument[ata::AFLAGS] = ata::AFLAG_EXTENDED;
//!     argument[ata::COUNT] = count;
//!     argument[ata::COMMAND] = ata::command::READ_EXT;
//!     argument[ata::LBA..ata::LBA + 6].copy_from_slice(&lba.to_le_bytes()[..6]);
//!     argument
//! }
//!
//! assert_eq!(read(0x0102, 2), [0x40, 0, 2, 0x24, 0x02, 0x01, 0, 0, 0, 0, 0, 0]);
//! ```

/// AFlags.
pub const AFLAGS: usize = 0;
/// Feature (request) or [`error`] (response) register.
pub const FEATURE: usize = 1;
/// Sector count register.
pub const COUNT: usize = 2;
/// [`command`] (request) or [`status`] (response) register.
pub const COMMAND: usize = 3;
/// LBA, 6 bytes, little-endian.
pub const LBA: usize = 4;
/// Length of the argument; data follows.
pub const HEADER_LEN: usize = 12;

/// AFlags: LBA4 and LBA5 are valid.
pub const AFLAG_EXTENDED: u8 = 0x40;
/// AFlags: asynchronous write.
pub const AFLAG_ASYNC: u8 = 0x02;
/// AFlags: the data goes to the device.
pub const AFLAG_WRITE: u8 = 0x01;

/// The largest LBA, and number of sectors, that 28 bits can say.
pub const MAX_LBA28: u64 = 0x0fff_ffff;

/// Values of the command register.
pub mod command {
    /// DATA SET MANAGEMENT; feature 1: TRIM.
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    /// READ SECTORS.
    pub const READ: u8 = 0x20;
    /// READ SECTORS EXT.
    pub const READ_EXT: u8 = 0x24;
    /// READ DMA EXT.
    pub const READ_DMA_EXT: u8 = 0x25;
    /// READ MULTIPLE EXT.
    pub const READ_MULTIPLE_EXT: u8 = 0x29;
    /// WRITE SECTORS.
    pub const WRITE: u8 = 0x30;
    /// WRITE SECTORS EXT.
    pub const WRITE_EXT: u8 = 0x34;
    /// WRITE DMA EXT.
    pub const WRITE_DMA_EXT: u8 = 0x35;
    /// WRITE MULTIPLE EXT.
    pub const WRITE_MULTIPLE_EXT: u8 = 0x39;
    /// WRITE DMA FUA EXT.
    pub const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    /// READ VERIFY SECTORS.
    pub const READ_VERIFY: u8 = 0x40;
    /// READ VERIFY SECTORS EXT.
    pub const READ_VERIFY_EXT: u8 = 0x42;
    /// EXECUTE DEVICE DIAGNOSTIC.
    pub const DIAGNOSTIC: u8 = 0x90;
    /// SMART.
    pub const SMART: u8 = 0xb0;
    /// READ MULTIPLE.
    pub const READ_MULTIPLE: u8 = 0xc4;
    /// WRITE MULTIPLE.
    pub const WRITE_MULTIPLE: u8 = 0xc5;
    /// SET MULTIPLE MODE.
    pub const SET_MULTIPLE: u8 = 0xc6;
    /// READ DMA.
    pub const READ_DMA: u8 = 0xc8;
    /// WRITE DMA.
    pub const WRITE_DMA: u8 = 0xca;
    /// WRITE MULTIPLE FUA EXT.
    pub const WRITE_MULTIPLE_FUA_EXT: u8 = 0xce;
    /// STANDBY IMMEDIATE.
    pub const STANDBY_IMMEDIATE: u8 = 0xe0;
    /// IDLE IMMEDIATE.
    pub const IDLE_IMMEDIATE: u8 = 0xe1;
    /// STANDBY.
    pub const STANDBY: u8 = 0xe2;
    /// IDLE.
    pub const IDLE: u8 = 0xe3;
    /// CHECK POWER MODE.
    pub const CHECK_POWER: u8 = 0xe5;
    /// SLEEP.
    pub const SLEEP: u8 = 0xe6;
    /// FLUSH CACHE.
    pub const FLUSH: u8 = 0xe7;
    /// FLUSH CACHE EXT.
    pub const FLUSH_EXT: u8 = 0xea;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY: u8 = 0xec;
    /// SET FEATURES.
    pub const SET_FEATURES: u8 = 0xef;
}

/// Bits of the status register.
pub mod status {
    /// Busy.
    pub const BSY: u8 = 0x80;
    /// Device ready.
    pub const DRDY: u8 = 0x40;
    /// Device fault.
    pub const DF: u8 = 0x20;
    /// Data request.
    pub const DRQ: u8 = 0x08;
    /// The command failed; the error register says how.
    pub const ERR: u8 = 0x01;
    /// Bits that are clear when a command succeeded.
    pub const FAILED: u8 = BSY | DF | DRQ | ERR;
}

/// Bits of the error register.
pub mod error {
    /// Data cannot be read.
    pub const UNC: u8 = 0x40;
    /// No such sector.
    pub const IDNF: u8 = 0x10;
    /// Command aborted.
    pub const ABRT: u8 = 0x04;
}
