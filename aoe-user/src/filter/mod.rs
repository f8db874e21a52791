//! The kernel half seen from here: load, attach, rules, counters.

use aoe_common::Mac;

use crate::config::Vlan;

/// What the kernel half decides by on one port. Replaced as a whole, atomically.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// The exports visible on the port.
    pub exports: Vec<ExportRule>,
}

/// One export as the filter sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportRule {
    /// Major address.
    pub shelf: u16,
    /// Minor address.
    pub slot: u8,
    /// Frames it answers to.
    pub vlan: Vlan,
    /// Sources that may see it, with their rate limit in frames a second; `None`: everyone.
    pub allow: Option<Vec<(Mac, Option<u32>)>>,
    /// Rate limit for sources without one of their own.
    pub rate_limit: Option<u32>,
}
