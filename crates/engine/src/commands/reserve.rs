//! Reserve/Release (AoE command 3).

use aoe_common::Mac;
use aoe_common::wire::error;
use aoe_common::wire::reserve::subcommand::{FORCE_SET, READ, SET};

use crate::commands::action::Decision;
use crate::commands::action::{ReplyCodes, StateChange};
use crate::{Change, MAX_RESERVE, Persistent};

/// Decides on a request; `addresses` is `None` when the frame has fewer bytes than it claims.
pub(crate) fn decide(
    rcmd: u8,
    addresses: Option<&[u8]>,
    source: Mac,
    now: &Persistent,
    may_change: bool,
) -> Decision {
    let holders = &now.reserve;
    match (rcmd, addresses) {
        (READ, Some(_)) => Decision::answer(0),
        (SET | FORCE_SET, Some(addresses)) if may_change => {
            let list: Vec<Mac> = addresses.as_chunks::<6>().0.iter().map(|mac| Mac(*mac)).collect();
            if list.len() > MAX_RESERVE {
                Decision::answer(error::ARGUMENT)
            } else if rcmd == SET && !holders.is_empty() && !holders.contains(&source) {
                Decision::answer(error::RESERVED)
            } else if list == *holders {
                Decision::answer(0)
            } else {
                let new = Persistent {
                    reserve: list,
                    ..now.clone()
                };
                Decision::Change(Box::new(StateChange {
                    new,
                    change: Change::Reserve,
                    codes: ReplyCodes::default(),
                }))
            }
        }
        _ => Decision::answer(error::ARGUMENT),
    }
}

/// A reply's argument: the list in force.
pub(crate) fn argument(rcmd: u8, list: &[Mac]) -> Vec<u8> {
    let mut bytes = vec![rcmd, u8::try_from(list.len()).unwrap_or(0)];
    for mac in list {
        bytes.extend(mac.0);
    }
    bytes
}
