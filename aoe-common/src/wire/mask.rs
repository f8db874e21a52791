//! The argument of MAC Mask List (AoE command 2); offsets from its first byte.
//!
//! ```
//! use aoe_common::Mac;
//! use aoe_common::wire::mask;
//!
//! /// The argument that puts one address on the list.
//! fn add(mac: Mac) -> [u8; mask::HEADER_LEN + mask::DIRECTIVE_LEN] {
//!     let mut argument = [0; mask::HEADER_LEN + mask::DIRECTIVE_LEN];
//!     argument[mask::SUBCOMMAND] = mask::subcommand::EDIT;
//!     argument[mask::COUNT] = 1;
//!     let directive = &mut argument[mask::HEADER_LEN..];
//!     directive[1] = mask::directive::ADD;
//!     directive[2..].copy_from_slice(&mac.0);
//!     argument
//! }
//!
//! assert_eq!(add(Mac([2, 0, 0, 0, 0, 10])), [0, 1, 0, 1, 0, 1, 2, 0, 0, 0, 0, 10]);
//! ```

/// A [`subcommand`].
pub const SUBCOMMAND: usize = 1;
/// A [`list_error`] (response).
pub const ERROR: usize = 2;
/// Number of directives.
pub const COUNT: usize = 3;
/// Length of the argument; directives follow.
pub const HEADER_LEN: usize = 4;
/// Length of one directive: reserved, a [`directive`], MAC.
pub const DIRECTIVE_LEN: usize = 8;

/// What is asked of the list.
pub mod subcommand {
    /// Tell it.
    pub const READ: u8 = 0;
    /// Apply the directives to it, in order.
    pub const EDIT: u8 = 1;
}

/// What a directive does with its MAC.
pub mod directive {
    /// Nothing.
    pub const NONE: u8 = 0;
    /// Puts it on the list.
    pub const ADD: u8 = 1;
    /// Takes it off the list.
    pub const DELETE: u8 = 2;
}

/// Why a directive was not applied; the response's count says how many before it were.
pub mod list_error {
    /// The directive is unknown.
    pub const BAD_DIRECTIVE: u8 = 2;
    /// The list has no room.
    pub const FULL: u8 = 3;
}
