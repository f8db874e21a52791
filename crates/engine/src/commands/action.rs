//! What a judged request asks for, or why it is turned down.

use crate::ata::Results;
use crate::counters::Silence;
use crate::export::observer::Change;
use crate::export::state::Persistent;
use crate::store::{Durability, Extent};

/// What an accepted request asks for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send the identify block.
    Identify,
    /// Read sectors into the reply.
    Read { extent: Extent, extended: bool },
    /// Write the payload.
    Write {
        extent: Extent,
        extended: bool,
        durability: Durability,
    },
    /// Read and discard.
    Verify { extent: Extent, extended: bool },
    /// Put every finished write on the medium.
    Flush,
    /// Trim what the payload lists; never empty.
    Trim(Vec<Extent>),
    /// Answer with these registers; nothing else happens.
    Answer(Results),
    /// Remember the multiple mode and answer success.
    SetMultiple(u8),
    /// Switch SMART on or off and answer success.
    SetSmart(bool),
    /// Send SMART data.
    SmartData,
    /// Change config string, mask or reservation.
    Change(Box<StateChange>),
}

/// A change of what initiators may change, and the reply once it is in force.
#[derive(Debug)]
pub(crate) struct StateChange {
    pub new: Persistent,
    pub change: Change,
    pub codes: ReplyCodes,
}

/// What a reply to Query Config, MAC Mask or Reserve says besides the state in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplyCodes {
    /// AoE error code; 0: none.
    pub error: u8,
    /// MAC Mask: the list's own error; 0: none.
    pub list_error: u8,
    /// MAC Mask: directives applied before that error.
    pub applied: u8,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No answer at all.
    Silent(Silence),
    /// An answer with the AoE error flag and this code.
    Aoe(u8),
    /// An answer with ATA error registers.
    Ata(Results),
}

/// What to do with a Query Config, MAC Mask or Reserve request.
#[derive(Debug)]
pub(crate) enum Decision {
    Silent(Silence),
    Answer(ReplyCodes),
    Change(Box<StateChange>),
}

impl Decision {
    /// An answer with this AoE error code; 0: success.
    pub(crate) fn answer(error: u8) -> Decision {
        Decision::Answer(ReplyCodes {
            error,
            ..ReplyCodes::default()
        })
    }
}
