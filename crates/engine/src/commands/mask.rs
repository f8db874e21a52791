//! MAC Mask List (AoE command 2).

use aoe_common::Mac;
use aoe_common::wire::error;
use aoe_common::wire::mask::{self, directive, list_error, subcommand};

use crate::commands::action::Decision;
use crate::commands::action::{ReplyCodes, StateChange};
use crate::{Change, MAX_MASK, Persistent};

/// Decides on a request; `directives` is `None` when the frame has fewer bytes than it claims.
pub(crate) fn decide(mcmd: u8, directives: Option<&[u8]>, now: &Persistent, may_change: bool) -> Decision {
    let Some(directives) = directives else {
        return Decision::answer(error::ARGUMENT);
    };
    match mcmd {
        subcommand::READ => Decision::answer(0),
        subcommand::EDIT if may_change => {
            let mut list = now.mask.clone();
            let codes = edit(&mut list, directives);
            if list == now.mask {
                Decision::Answer(codes)
            } else {
                let new = Persistent {
                    mask: list,
                    ..now.clone()
                };
                Decision::Change(Box::new(StateChange {
                    new,
                    change: Change::Mask,
                    codes,
                }))
            }
        }
        _ => Decision::answer(error::ARGUMENT),
    }
}

/// Applies directives in order up to the first bad one.
fn edit(list: &mut Vec<Mac>, directives: &[u8]) -> ReplyCodes {
    let mut applied = 0u8;
    for bytes in directives.as_chunks::<{ mask::DIRECTIVE_LEN }>().0 {
        let [_, command, a, b, c, d, e, f] = *bytes;
        let mac = Mac([a, b, c, d, e, f]);
        let at = list.iter().position(|member| *member == mac);
        let list_error = match (command, at) {
            (directive::NONE, _) | (directive::ADD, Some(_)) | (directive::DELETE, None) => 0,
            (directive::ADD, None) if list.len() >= MAX_MASK => list_error::FULL,
            (directive::ADD, None) => {
                list.push(mac);
                0
            }
            (directive::DELETE, Some(at)) => {
                list.remove(at);
                0
            }
            _ => list_error::BAD_DIRECTIVE,
        };
        if list_error != 0 {
            return ReplyCodes {
                list_error,
                applied,
                ..ReplyCodes::default()
            };
        }
        applied = applied.saturating_add(1);
    }
    ReplyCodes::default()
}

/// A reply's argument: the list, unless an error says otherwise.
pub(crate) fn argument(mcmd: u8, list: &[Mac], codes: ReplyCodes) -> Vec<u8> {
    let shown = if codes.error == 0 && codes.list_error == 0 {
        list
    } else {
        &[]
    };
    let count = match codes.list_error {
        0 => u8::try_from(shown.len()).unwrap_or(0),
        _ => codes.applied,
    };
    let mut bytes = vec![0, mcmd, codes.list_error, count];
    for mac in shown {
        bytes.extend([0, 0]);
        bytes.extend(mac.0);
    }
    bytes
}
