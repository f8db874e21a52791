//! MAC Mask List (AoE command 2).

use aoe_common::Mac;
use aoe_common::wire::mask;

use super::admin::{Decision, Verdict};
use super::reply::error;
use super::{Change, MAX_MASK, Persistent};

/// Edit the list.
pub(super) const EDIT: u8 = 1;

/// Values of the reply's list error.
mod list_error {
    pub const BAD_DIRECTIVE: u8 = 2;
    pub const FULL: u8 = 3;
}

/// The length in bytes that a request's argument claims for its list.
pub(super) fn list_len(argument: &[u8]) -> usize {
    usize::from(argument[mask::COUNT]).saturating_mul(mask::DIRECTIVE_LEN)
}

/// Decides on a request; `directives` is `None` when the frame has fewer bytes than it claims.
pub(super) fn decide(mcmd: u8, directives: Option<&[u8]>, now: &Persistent, wire_admin: bool) -> Decision {
    let Some(directives) = directives else {
        return Decision::answer(error::ARGUMENT);
    };
    match mcmd {
        0 => Decision::answer(0),
        EDIT if wire_admin => {
            let mut list = now.mask.clone();
            let verdict = edit(&mut list, directives);
            if list == now.mask {
                Decision::Answer(verdict)
            } else {
                let new = Persistent {
                    mask: list,
                    ..now.clone()
                };
                Decision::Change(Box::new(new), Change::Mask, verdict)
            }
        }
        _ => Decision::answer(error::ARGUMENT),
    }
}

/// Applies directives in order up to the first bad one.
fn edit(list: &mut Vec<Mac>, directives: &[u8]) -> Verdict {
    let mut applied = 0u8;
    for directive in directives.as_chunks::<{ mask::DIRECTIVE_LEN }>().0 {
        let [_, command, a, b, c, d, e, f] = *directive;
        let mac = Mac([a, b, c, d, e, f]);
        let at = list.iter().position(|member| *member == mac);
        let list_error = match (command, at) {
            (0, _) | (1, Some(_)) | (2, None) => 0,
            (1, None) if list.len() >= MAX_MASK => list_error::FULL,
            (1, None) => {
                list.push(mac);
                0
            }
            (2, Some(at)) => {
                list.remove(at);
                0
            }
            _ => list_error::BAD_DIRECTIVE,
        };
        if list_error != 0 {
            return Verdict {
                list_error,
                applied,
                ..Verdict::default()
            };
        }
        applied = applied.saturating_add(1);
    }
    Verdict::default()
}

/// A reply's argument: the list, unless an error says otherwise.
pub(super) fn argument(mcmd: u8, list: &[Mac], verdict: Verdict) -> Vec<u8> {
    let shown = if verdict.error == 0 && verdict.list_error == 0 {
        list
    } else {
        &[]
    };
    let count = match verdict.list_error {
        0 => u8::try_from(shown.len()).unwrap_or(0),
        _ => verdict.applied,
    };
    let mut bytes = vec![0, mcmd, verdict.list_error, count];
    for mac in shown {
        bytes.extend([0, 0]);
        bytes.extend(mac.0);
    }
    bytes
}
