//! The model.

use std::collections::BTreeMap;

use super::op::{Answer, HOSTS, Op, SECTORS};
use crate::Persistent;

#[derive(Clone, Debug)]
pub(super) struct Unfinished {
    pub host: usize,
    pub op: Op,
    pub tag: u32,
    /// The answer to come, once it has started.
    pub started: Option<Answer>,
}

pub(super) struct Model {
    pub image: Vec<u8>,
    pub state: Persistent,
    pub unfinished: Vec<Unfinished>,
    pub answers: BTreeMap<u32, Answer>,
    pub defer: bool,
}

impl Model {
    /// What the rules say now; `None`: silence. The new state, where there is one, is to be put in force.
    pub(super) fn judge(&self, host: usize, op: &Op) -> (Option<Answer>, Option<Persistent>) {
        let (source, state) = (HOSTS[host], &self.state);
        if !state.mask.is_empty() && !state.mask.contains(&source) {
            return (None, None);
        }
        let reserved = !state.reserve.is_empty() && !state.reserve.contains(&source);
        let string = |error, state: &Persistent| Some(Answer::String(error, state.string.clone()));
        let mask = |list_error, state: &Persistent| {
            let shown = if list_error == 0 {
                state.mask.clone()
            } else {
                Vec::new()
            };
            Some(Answer::Mask(0, list_error, shown))
        };
        let reserve = |error, state: &Persistent| Some(Answer::Reserve(error, state.reserve.clone()));
        let changed = |new: Persistent| if new == *state { None } else { Some(new) };
        match op {
            Op::Flush => (Some(Answer::Ata(0x40, 0)), None),
            Op::Read(..) | Op::Write(..) | Op::Trim(..) | Op::Verify(..) if reserved => {
                (Some(Answer::AoeError(6)), None)
            }
            Op::Read(_, count) | Op::Write(_, count, _) if *count == 0 || *count > 2 => {
                (Some(Answer::Ata(0x41, 0x04)), None)
            }
            Op::Read(..) | Op::Write(..) | Op::Trim(..) | Op::Verify(..) => {
                let (sectors, _) = op.sectors().unwrap();
                let answer = if sectors.end > SECTORS {
                    Answer::Ata(0x41, 0x10)
                } else {
                    Answer::Ata(0x40, 0)
                };
                (Some(answer), None)
            }
            Op::Query(0, _) => (string(0, state), None),
            Op::Query(1, wanted) => ((*wanted == state.string).then(|| string(0, state).unwrap()), None),
            Op::Query(2, wanted) => (
                state
                    .string
                    .starts_with(wanted)
                    .then(|| string(0, state).unwrap()),
                None,
            ),
            Op::Query(ccmd @ (3 | 4), wanted) => {
                if *ccmd == 3 && !state.string.is_empty() && *wanted != state.string {
                    return (string(4, state), None);
                }
                let new = Persistent {
                    string: wanted.clone(),
                    ..state.clone()
                };
                (string(0, &new), changed(new))
            }
            Op::Query(..) => (string(2, state), None),
            Op::Mask(3, _) => (mask(2, state), None),
            Op::Mask(command, host) => {
                let mut new = state.clone();
                let member = HOSTS[*host];
                match command {
                    1 if !new.mask.contains(&member) => new.mask.push(member),
                    2 => new.mask.retain(|mac| *mac != member),
                    _ => {}
                }
                (mask(0, &new), changed(new))
            }
            Op::Reserve(0, _) => (reserve(0, state), None),
            Op::Reserve(1, _) if reserved => (reserve(6, state), None),
            Op::Reserve(1 | 2, hosts) => {
                let list = hosts.iter().map(|host| HOSTS[*host]).collect();
                let new = Persistent {
                    reserve: list,
                    ..state.clone()
                };
                (reserve(0, &new), changed(new))
            }
            Op::Reserve(..) => (reserve(2, state), None),
        }
    }

    pub(super) fn ask(&mut self, host: usize, op: &Op, tag: u32) {
        let (answer, change) = self.judge(host, op);
        let stored = op.sectors().is_some() || *op == Op::Flush;
        let at_once = if stored {
            !matches!(answer, Some(Answer::Ata(0x40, 0)))
        } else {
            change.is_none()
        };
        if at_once {
            self.answers.extend(answer.map(|answer| (tag, answer)));
            return;
        }
        let like = |other: &&mut Unfinished| {
            let same_host = other.host == host || matches!(op, Op::Write(..) | Op::Trim(..));
            stored && *op != Op::Flush && other.op == *op && same_host
        };
        if let Some(other) = self.unfinished.iter_mut().rev().find(like) {
            // The newest requester gets the answer; a request that has not started is judged as its own.
            if other.started.is_none() {
                other.host = host;
            }
            other.tag = tag;
            return;
        }
        self.unfinished.push(Unfinished {
            host,
            op: op.clone(),
            tag,
            started: None,
        });
        self.start();
    }

    /// Starts whatever may, until nothing changes.
    pub(super) fn start(&mut self) {
        let mut at = 0;
        while let Some(next) = self.unfinished.get(at).cloned() {
            let blocked = self.unfinished[..at]
                .iter()
                .any(|before| before.op.conflicts(&next.op));
            if blocked || next.started.is_some() {
                at += 1;
                continue;
            }
            let (answer, change) = self.judge(next.host, &next.op);
            let goes = answer == Some(Answer::Ata(0x40, 0));
            if let Some(new) = change {
                self.state = new;
            }
            let answer = if goes {
                Some(self.carry_out(&next.op))
            } else {
                answer
            };
            if goes && self.defer {
                self.unfinished[at].started = answer;
                at += 1;
            } else {
                self.unfinished.remove(at);
                self.answers.extend(answer.map(|answer| (next.tag, answer)));
                at = 0;
            }
        }
    }

    pub(super) fn carry_out(&mut self, op: &Op) -> Answer {
        let bytes = |range: std::ops::Range<u64>| range.start as usize * 512..range.end as usize * 512;
        match (op, op.sectors()) {
            (Op::Read(..), Some((sectors, _))) => Answer::Data(self.image[bytes(sectors)].to_vec()),
            (Op::Write(_, _, byte), Some((sectors, _))) => {
                self.image[bytes(sectors)].fill(*byte);
                Answer::Ata(0x40, 0)
            }
            (Op::Trim(..), Some((sectors, _))) => {
                self.image[bytes(sectors)].fill(0);
                Answer::Ata(0x40, 0)
            }
            _ => Answer::Ata(0x40, 0),
        }
    }

    /// The store has finished the operation of the request that was answered by one of `tags`, if any.
    pub(super) fn finish(&mut self, tag: u32) {
        let at = self
            .unfinished
            .iter()
            .position(|request| request.tag == tag && request.started.is_some());
        let request = self
            .unfinished
            .remove(at.expect("only started requests are answered"));
        self.answers.insert(request.tag, request.started.unwrap());
        self.start();
    }
}
