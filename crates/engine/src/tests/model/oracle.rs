//! The model.

use std::collections::BTreeMap;

use aoe_common::Mac;

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
        let (answer, new) = match op {
            Op::Flush | Op::Read(..) | Op::Write(..) | Op::Trim(..) | Op::Verify(..) => {
                (Some(ata(op, reserved)), None)
            }
            Op::Query(command, wanted) => self.query(*command, wanted),
            Op::Mask(command, host) => self.mask(*command, HOSTS[*host]),
            Op::Reserve(command, hosts) => self.reserve(*command, hosts, reserved),
        };
        (answer, new.filter(|new| new != state))
    }

    fn query(&self, command: u8, wanted: &[u8]) -> (Option<Answer>, Option<Persistent>) {
        let state = &self.state;
        let string = |error| Some(Answer::String(error, state.string.clone()));
        let matches = match command {
            0 => true,
            1 => wanted == state.string,
            2 => state.string.starts_with(wanted),
            3 if !state.string.is_empty() && wanted != state.string => return (string(4), None),
            3 | 4 => {
                let new = Persistent {
                    string: wanted.to_vec(),
                    ..state.clone()
                };
                return (Some(Answer::String(0, wanted.to_vec())), Some(new));
            }
            _ => return (string(2), None),
        };
        (if matches { string(0) } else { None }, None)
    }

    fn mask(&self, command: u8, member: Mac) -> (Option<Answer>, Option<Persistent>) {
        let mut new = self.state.clone();
        match command {
            1 if !new.mask.contains(&member) => new.mask.push(member),
            2 => new.mask.retain(|mac| *mac != member),
            3 => return (Some(Answer::Mask(0, 2, Vec::new())), None),
            _ => {}
        }
        (Some(Answer::Mask(0, 0, new.mask.clone())), Some(new))
    }

    fn reserve(&self, command: u8, hosts: &[usize], reserved: bool) -> (Option<Answer>, Option<Persistent>) {
        let told = |error| Some(Answer::Reserve(error, self.state.reserve.clone()));
        match command {
            0 => (told(0), None),
            1 if reserved => (told(6), None),
            1 | 2 => {
                let list: Vec<_> = hosts.iter().map(|host| HOSTS[*host]).collect();
                let new = Persistent {
                    reserve: list.clone(),
                    ..self.state.clone()
                };
                (Some(Answer::Reserve(0, list)), Some(new))
            }
            _ => (told(2), None),
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

/// The answer to an ATA command.
fn ata(op: &Op, reserved: bool) -> Answer {
    match op {
        Op::Flush => Answer::Ata(0x40, 0),
        _ if reserved => Answer::AoeError(6),
        Op::Read(_, count) | Op::Write(_, count, _) if *count == 0 || *count > 2 => Answer::Ata(0x41, 0x04),
        _ => {
            let (sectors, _) = op.sectors().unwrap();
            match sectors.end > SECTORS {
                true => Answer::Ata(0x41, 0x10),
                false => Answer::Ata(0x40, 0),
            }
        }
    }
}
