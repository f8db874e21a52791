//! The argument of Reserve/Release (AoE command 3); offsets from its first byte.

/// A [`subcommand`].
pub const SUBCOMMAND: usize = 0;
/// Number of addresses.
pub const COUNT: usize = 1;
/// Length of the argument; addresses follow.
pub const HEADER_LEN: usize = 2;

/// What is asked of the list of who holds the reservation.
pub mod subcommand {
    /// Tell it.
    pub const READ: u8 = 0;
    /// Replace it, where it is empty or the source is on it.
    pub const SET: u8 = 1;
    /// Replace it, whoever asks.
    pub const FORCE_SET: u8 = 2;
}
