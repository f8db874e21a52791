//! The argument of MAC Mask List (AoE command 2); offsets from its first byte.

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
