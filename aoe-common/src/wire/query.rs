//! The argument of Query Config (AoEr11 §3.2); offsets from its first byte.

/// Buffer count, 2 bytes, big-endian.
pub const BUFFERS: usize = 0;
/// Firmware version, 2 bytes, big-endian.
pub const FIRMWARE: usize = 2;
/// Sectors per ATA command.
pub const SECTORS: usize = 4;
/// AoE version in the high nibble, a [`subcommand`] in the low one.
pub const SUBCOMMAND: usize = 5;
/// Length of the config string, 2 bytes, big-endian.
pub const STRING_LEN: usize = 6;
/// Length of the argument; the string follows.
pub const HEADER_LEN: usize = 8;

/// What is asked of the config string.
pub mod subcommand {
    /// Tell it.
    pub const READ: u8 = 0;
    /// Answer only where it is the request's string.
    pub const TEST: u8 = 1;
    /// Answer only where it begins with the request's string.
    pub const PREFIX: u8 = 2;
    /// Set it where there is none yet.
    pub const SET: u8 = 3;
    /// Set it, whatever it was.
    pub const FORCE_SET: u8 = 4;
}
