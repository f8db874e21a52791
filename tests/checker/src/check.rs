//! Judges a history: is there an order of its operations, each at some moment between call and return, in which
//! every read sees the latest write?
//!
//! Each sector's history is cut where nothing was under way, and the pieces are judged one after the other, with every
//! value that the sector may have had at the cut. There are two judges. For a register whose writes are all different
//! the question has a quick exact answer (Gibbons and Korach, "Testing shared memories", 1997): [`zones`]. Stateright's
//! tester tries orders by brute force, which takes for ever on long pieces, but needs no theorem: it judges every short
//! piece as well, and the two must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

use super::record::{Action, History, Op};
use lab::values::Value;

/// First number of the clients made up for operations that never returned.
const ABANDONED: usize = usize::MAX / 2;

/// Number of the client who saw the sector before and after.
const OBSERVER: usize = usize::MAX;

/// Longest piece that both judges see.
const SHORT: usize = 10;

/// No order explains what the clients of this sector saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The sector.
    pub lba: u64,
    /// What it may have held before `ops`.
    pub before: BTreeSet<Value>,
    /// The operations between two quiet moments, by the time they were sent, that cannot be explained.
    pub ops: Vec<Op>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = format!(
            "sector {} held one of {:?}; then no order explains:\n",
            self.lba, self.before
        );
        for op in &self.ops {
            let Op {
                client,
                action,
                invoked,
                returned,
            } = op;
            let returned = returned.map_or("never".to_owned(), |at| at.to_string());
            writeln!(text, "  client {client} {action:?} from {invoked} to {returned}")?;
        }
        f.write_str(&text)
    }
}

impl std::error::Error for Violation {}

/// Judges every sector; all held 0 at first.
///
/// # Errors
/// The first violation.
pub fn check(history: &History) -> Result<(), Violation> {
    for (lba, ops) in &history.sectors {
        let mut before = BTreeSet::from([0]);
        for piece in pieces(settle(ops)) {
            let after = outcomes(&before, &piece);
            if after.is_empty() {
                return Err(Violation {
                    lba: *lba,
                    before,
                    ops: piece,
                });
            }
            before = after;
        }
    }
    Ok(())
}

/// Gives every operation an end. A read that never returned says nothing. A write that never returned either was
/// seen, so it had happened when the first who saw it returned, or leaves no trace that could contradict anything.
fn settle(ops: &[Op]) -> Vec<Op> {
    let seen_by = |value| {
        let seers = ops.iter().filter(|op| op.action == Action::Read(value));
        seers.filter_map(|op| op.returned).min()
    };
    ops.iter()
        .enumerate()
        .filter_map(|(n, op)| match (op.returned, op.action) {
            (Some(_), _) => Some(*op),
            (None, Action::Read(_)) => None,
            // Seen before it was sent: it ends where it begins, and the read that saw it stays without explanation.
            // Its client went on to other things, so it becomes a client of its own.
            (None, Action::Write(value)) => seen_by(value).map(|seen| Op {
                client: ABANDONED + n,
                returned: Some(seen.max(op.invoked)),
                ..*op
            }),
        })
        .collect()
}

/// Cuts where nothing is under way.
fn pieces(mut ops: Vec<Op>) -> Vec<Vec<Op>> {
    ops.sort_by_key(|op| op.invoked);
    let mut pieces: Vec<Vec<Op>> = Vec::new();
    let mut last_return = 0;
    for op in ops {
        match pieces.last_mut() {
            Some(piece) if op.invoked < last_return => piece.push(op),
            _ => pieces.push(vec![op]),
        }
        last_return = last_return.max(op.returned.unwrap_or(u64::MAX));
    }
    pieces
}

/// The values that the sector may hold after these operations; none: they cannot be explained.
fn outcomes(before: &BTreeSet<Value>, piece: &[Op]) -> BTreeSet<Value> {
    let writes = piece.iter().filter_map(|op| match op.action {
        Action::Write(value) => Some(value),
        Action::Read(_) => None,
    });
    let writes: Vec<Value> = writes.collect();
    let mut after = BTreeSet::new();
    for first in before {
        let candidates = if writes.is_empty() {
            std::slice::from_ref(first)
        } else {
            &writes
        };
        for last in candidates {
            if !after.contains(last) && explained(*first, piece, *last) {
                after.insert(*last);
            }
        }
    }
    after
}

/// Is there an order that begins with one value and ends with the other?
fn explained(first: Value, piece: &[Op], last: Value) -> bool {
    let end = piece.iter().filter_map(|op| op.returned).max().unwrap_or(0);
    let begin = Op {
        client: OBSERVER,
        action: Action::Write(first),
        invoked: 0,
        returned: Some(1),
    };
    let finish = Op {
        client: OBSERVER,
        action: Action::Read(last),
        invoked: end + 3,
        returned: Some(end + 4),
    };
    let later = piece.iter().map(|op| Op {
        invoked: op.invoked + 2,
        returned: op.returned.map(|at| at + 2),
        ..*op
    });
    let ops: Vec<Op> = std::iter::once(begin).chain(later).chain([finish]).collect();
    let verdict = zones(&ops);
    if piece.len() <= SHORT {
        assert_eq!(
            verdict,
            brute_force(&ops),
            "the judges disagree, one of them is wrong: {ops:?}"
        );
    }
    verdict
}

/// Gibbons and Korach: a write and the reads that saw it are a cluster, and the value lives at least from the first
/// return in its cluster to the last call (a forward zone, when they come in this order), or has room somewhere
/// between the last call and the first return (a backward zone). No two values live at once, and none has its only
/// room in the life of another.
fn zones(ops: &[Op]) -> bool {
    let mut clusters: BTreeMap<Value, (Option<u64>, u64, u64)> = BTreeMap::new();
    for op in ops {
        let (Action::Write(value) | Action::Read(value)) = op.action;
        let (written, first_return, last_call) = clusters.entry(value).or_insert((None, u64::MAX, 0));
        if matches!(op.action, Action::Write(_)) {
            *written = Some(op.invoked);
        }
        *first_return = (*first_return).min(op.returned.expect("settled"));
        *last_call = (*last_call).max(op.invoked);
    }
    let mut forward = Vec::new();
    let mut backward = Vec::new();
    for (written, first_return, last_call) in clusters.into_values() {
        match written {
            // Nobody wrote it, or somebody saw it before it was sent.
            None => return false,
            Some(written) if first_return < written => return false,
            Some(_) if first_return < last_call => forward.push((first_return, last_call)),
            Some(_) => backward.push((last_call, first_return)),
        }
    }
    forward.sort_unstable();
    let apart = forward.windows(2).all(|pair| pair[0].1 <= pair[1].0);
    let inside = |room: &(u64, u64)| forward.iter().any(|life| life.0 < room.0 && room.1 < life.1);
    apart && !backward.iter().any(inside)
}

/// Stateright's judgement.
fn brute_force(ops: &[Op]) -> bool {
    let mut events: Vec<(u64, bool, &Op)> = Vec::with_capacity(ops.len() * 2);
    for op in ops {
        events.push((op.invoked, false, op));
        events.push((op.returned.expect("settled"), true, op));
    }
    // At one moment calls come before returns: the two operations overlap.
    events.sort_by_key(|(at, is_return, _)| (*at, *is_return));
    let mut tester = LinearizabilityTester::new(Register(0));
    for (_, is_return, op) in events {
        let step = match (is_return, op.action) {
            (false, Action::Write(value)) => tester.on_invoke(op.client, RegisterOp::Write(value)),
            (false, Action::Read(_)) => tester.on_invoke(op.client, RegisterOp::Read),
            (true, Action::Write(_)) => tester.on_return(op.client, RegisterRet::WriteOk),
            (true, Action::Read(value)) => tester.on_return(op.client, RegisterRet::ReadOk(value)),
        };
        step.expect("a client does one thing at a time to a sector");
    }
    tester.is_consistent()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(client: usize, action: Action, invoked: u64, returned: impl Into<Option<u64>>) -> Op {
        Op {
            client,
            action,
            invoked,
            returned: returned.into(),
        }
    }

    fn judge(ops: &[Op]) -> Result<(), Violation> {
        check(&History {
            sectors: [(7, ops.to_vec())].into(),
        })
    }

    use Action::{Read, Write};

    #[test]
    fn concurrent_writes_may_end_either_way_but_only_one_way() {
        let writes = [op(0, Write(1), 0, 10), op(1, Write(2), 1, 9)];
        for last in [1, 2] {
            judge(&[
                writes[0],
                writes[1],
                op(2, Read(last), 20, 21),
                op(0, Read(last), 22, 23),
            ])
            .unwrap();
        }
        judge(&[
            writes[0],
            writes[1],
            op(2, Read(1), 20, 21),
            op(0, Read(2), 22, 23),
        ])
        .unwrap_err();
    }

    #[test]
    fn a_read_after_the_reply_must_see_the_write() {
        judge(&[op(0, Write(1), 0, 1), op(1, Read(0), 2, 3)]).unwrap_err();
        judge(&[op(0, Write(1), 0, 3), op(1, Read(0), 1, 2)]).unwrap();
    }

    #[test]
    fn a_value_that_came_back_is_caught_over_a_quiet_moment() {
        judge(&[
            op(0, Write(1), 0, 1),
            op(0, Write(2), 2, 3),
            op(1, Read(2), 4, 5),
            op(1, Read(1), 6, 7),
        ])
        .unwrap_err();
    }

    #[test]
    fn a_write_that_never_returned_may_happen_late_but_not_unhappen() {
        let pending = op(0, Write(1), 0, None);
        judge(&[pending, op(1, Read(0), 2, 3)]).unwrap();
        judge(&[pending, op(1, Read(0), 2, 3), op(1, Read(1), 4, 5)]).unwrap();
        judge(&[pending, op(1, Read(1), 2, 3), op(1, Read(0), 4, 5)]).unwrap_err();
        judge(&[op(0, Write(1), 10, None), op(1, Read(1), 2, 3)]).unwrap_err();
        judge(&[pending, op(0, Read(0), 2, 3), op(1, Read(1), 4, 5)]).unwrap();
    }

    #[test]
    fn a_value_nobody_wrote_is_caught() {
        judge(&[op(0, Read(9), 0, 1)]).unwrap_err();
    }

    /// Thousands of small histories, possible and impossible ones, on which both judges are heard (and must agree).
    #[test]
    fn the_judges_agree() {
        let mut random = lab::image::Random::new(1);
        let mut possible = 0;
        for _ in 0..4_000 {
            let clock = |random: &mut lab::image::Random| random.below(14);
            let ops: Vec<Op> = (0..2 + random.below(6) as usize)
                .map(|client| {
                    let (a, b) = (clock(&mut random), clock(&mut random));
                    let value = random.below(3);
                    let action = if client < 2 {
                        Write(client as u64 + 1)
                    } else {
                        Read(value)
                    };
                    // Moments are all different, as the clock's are.
                    let at = |moment: u64, is_return: u64| moment * 64 + client as u64 * 2 + is_return;
                    op(client, action, at(a.min(b), 0), at(a.max(b), 1))
                })
                .collect();
            possible += usize::from(judge(&ops).is_ok());
        }
        assert!((400..3_600).contains(&possible), "{possible} of 4000");
    }
}
