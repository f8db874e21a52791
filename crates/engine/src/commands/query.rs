//! Query Config Information (AoEr11 §3.2).

use aoe_common::wire::query::{self, subcommand};
use aoe_common::wire::{MAX_CONFIG_STRING_BYTES, aoe, error};

use crate::commands::action::Decision;
use crate::commands::action::{ReplyCodes, StateChange};
use crate::counters::Silence;
use crate::{Change, Persistent};

/// Decides on a request; `string` is `None` when it is longer than allowed or than the frame.
pub(crate) fn decide(ccmd: u8, string: Option<&[u8]>, now: &Persistent, may_change: bool) -> Decision {
    let current = now.string.as_slice();
    match (ccmd, string) {
        (subcommand::READ, _) => Decision::answer(0),
        (subcommand::TEST, Some(string)) if string == current => Decision::answer(0),
        (subcommand::PREFIX, Some(string)) if current.starts_with(string) => Decision::answer(0),
        (subcommand::TEST | subcommand::PREFIX, _) => Decision::Silent(Silence::NoMatch),
        (subcommand::SET | subcommand::FORCE_SET, Some(string)) if may_change => {
            if string == current {
                Decision::answer(0)
            } else if ccmd == subcommand::SET && !current.is_empty() {
                Decision::answer(error::STRING_PRESENT)
            } else {
                let new = Persistent {
                    string: string.to_vec(),
                    ..now.clone()
                };
                Decision::Change(Box::new(StateChange {
                    new,
                    change: Change::String,
                    codes: ReplyCodes::default(),
                }))
            }
        }
        _ => Decision::answer(error::ARGUMENT),
    }
}

/// The fixed part of a reply's argument; the string follows.
pub(crate) fn argument(
    buffers: u16,
    firmware: u16,
    sectors: u8,
    ccmd: u8,
    string: &[u8],
) -> [u8; query::HEADER_LEN] {
    let [b0, b1] = buffers.to_be_bytes();
    let [f0, f1] = firmware.to_be_bytes();
    debug_assert!(string.len() <= MAX_CONFIG_STRING_BYTES);
    let [l0, l1] = u16::try_from(string.len()).unwrap_or(0).to_be_bytes();
    [b0, b1, f0, f1, sectors, aoe::VERSION << 4 | ccmd, l0, l1]
}
