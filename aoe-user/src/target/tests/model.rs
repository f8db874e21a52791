//! Random commands of three hosts through three workers, against a simple model of what must come out.
//!
//! The model keeps the image, the protocol state and the requests in arrival order. A request starts when nothing
//! before it that conflicts is unfinished; it is judged and takes effect then; it is answered when the store, which
//! puts off and reorders at will, has finished it. A copy of an unfinished request takes its place.

use std::collections::BTreeMap;

use aoe_common::Mac;
use proptest::prelude::*;

use super::bench::{TARGET, Worker, ata, export, frame_from, options};
use super::store::{MemStore, Mood};
use crate::target::Persistent;

const SECTORS: u64 = 24;
const HOSTS: [Mac; 3] = [
    Mac([2, 0, 0, 0, 1, 1]),
    Mac([2, 0, 0, 0, 1, 2]),
    Mac([2, 0, 0, 0, 1, 3]),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Read(u64, u8),
    Write(u64, u8, u8),
    Trim(u64, u64),
    Verify(u64, u8),
    Flush,
    Query(u8, Vec<u8>),
    Mask(u8, usize),
    Reserve(u8, Vec<usize>),
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        worker: usize,
        host: usize,
        op: Op,
    },
    /// The `n`th unfinished request again.
    Again {
        worker: usize,
        n: usize,
    },
    /// Ends the `n`th operation that the store has put off.
    Finish(usize),
    /// The store puts operations off, or not.
    Defer(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let lba = 0..SECTORS + 1;
    let string = proptest::collection::vec(b'a'..b'c', 0..3);
    let hosts = proptest::collection::vec(0..3usize, 0..3);
    prop_oneof![
        8 => (lba.clone(), 0..4u8).prop_map(|(lba, count)| Op::Read(lba, count)),
        8 => (lba.clone(), 0..4u8, 1..=255u8).prop_map(|(lba, count, byte)| Op::Write(lba, count, byte)),
        2 => (lba.clone(), 1..5u64).prop_map(|(lba, count)| Op::Trim(lba, count)),
        1 => (lba, 1..5u8).prop_map(|(lba, count)| Op::Verify(lba, count)),
        1 => Just(Op::Flush),
        3 => (0..6u8, string).prop_map(|(ccmd, string)| Op::Query(ccmd, string)),
        1 => (0..4u8, 0..3usize).prop_map(|(command, host)| Op::Mask(command, host)),
        2 => (0..4u8, hosts).prop_map(|(rcmd, hosts)| Op::Reserve(rcmd, hosts)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize, 0..3usize, op()).prop_map(|(worker, host, op)| Step::Ask { worker, host, op }),
        2 => (0..3usize, any::<usize>()).prop_map(|(worker, n)| Step::Again { worker, n }),
        4 => any::<usize>().prop_map(Step::Finish),
        1 => any::<bool>().prop_map(Step::Defer),
    ]
}

impl Op {
    fn frame(&self, host: Mac, tag: u32) -> Vec<u8> {
        let (command, argument) = match self {
            Op::Read(lba, count) => (0, ata(0x40, 0, *count, 0x24, *lba, &[])),
            Op::Write(lba, count, byte) => (
                0,
                ata(
                    0x41,
                    0,
                    *count,
                    0x34,
                    *lba,
                    &vec![*byte; usize::from(*count) * 512],
                ),
            ),
            Op::Trim(lba, count) => {
                let mut block = [0; 512];
                block[..8].copy_from_slice(&(lba | count << 48).to_le_bytes());
                (0, ata(0x41, 1, 1, 0x06, 0, &block))
            }
            Op::Verify(lba, count) => (0, ata(0x40, 0, *count, 0x42, *lba, &[])),
            Op::Flush => (0, ata(0, 0, 0, 0xea, 0, &[])),
            Op::Query(ccmd, string) => (
                1,
                [
                    &[0, 0, 0, 0, 0, *ccmd, 0, u8::try_from(string.len()).unwrap()],
                    &string[..],
                ]
                .concat(),
            ),
            Op::Mask(0, _) => (2, vec![0; 4]),
            Op::Mask(command, host) => (2, [&[0, 1, 0, 1, 0, *command], &HOSTS[*host].0[..]].concat()),
            Op::Reserve(rcmd, hosts) => {
                let macs = hosts.iter().flat_map(|host| HOSTS[*host].0);
                (
                    3,
                    [*rcmd, u8::try_from(hosts.len()).unwrap()]
                        .into_iter()
                        .chain(macs)
                        .collect(),
                )
            }
        };
        frame_from(host, TARGET, 7, 3, command, tag, &argument)
    }

    /// The sectors it touches and whether it writes.
    fn sectors(&self) -> Option<(std::ops::Range<u64>, bool)> {
        match *self {
            Op::Read(lba, count) | Op::Verify(lba, count) => Some((lba..lba + u64::from(count), false)),
            Op::Write(lba, count, _) => Some((lba..lba + u64::from(count), true)),
            Op::Trim(lba, count) => Some((lba..lba + count, true)),
            _ => None,
        }
    }

    fn is_fence(&self) -> bool {
        matches!(self, Op::Mask(..) | Op::Reserve(..))
    }

    fn conflicts(&self, other: &Op) -> bool {
        if self.is_fence() || other.is_fence() {
            return true;
        }
        match (self, other, self.sectors(), other.sectors()) {
            (Op::Query(..), Op::Query(..), ..) => true,
            (_, _, Some((a, a_writes)), Some((b, b_writes))) => {
                (a_writes || b_writes) && a.start < b.end && b.start < a.end
            }
            _ => false,
        }
    }
}

/// What an answer must say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    AoeError(u8),
    Ata(u8, u8),
    Data(Vec<u8>),
    String(u8, Vec<u8>),
    /// List error and list.
    Mask(u8, u8, Vec<Mac>),
    Reserve(u8, Vec<Mac>),
}

fn read_answer(reply: &[u8]) -> Answer {
    let error = reply[15];
    let macs = |at: usize, count: usize, stride: usize| -> Vec<Mac> {
        (0..count)
            .map(|i| Mac(reply[at + i * stride..][..6].try_into().unwrap()))
            .collect()
    };
    match reply[19] {
        0 if error != 0 => Answer::AoeError(error),
        0 if reply.len() > 60 => Answer::Data(reply[36..].to_vec()),
        0 => Answer::Ata(reply[27], reply[25]),
        1 => Answer::String(error, reply[32..][..usize::from(reply[31])].to_vec()),
        2 => {
            let listed = if reply[26] == 0 { usize::from(reply[27]) } else { 0 };
            Answer::Mask(error, reply[26], macs(30, listed, 8))
        }
        _ => Answer::Reserve(error, macs(26, usize::from(reply[25]), 6)),
    }
}

#[derive(Clone, Debug)]
struct Unfinished {
    host: usize,
    op: Op,
    tag: u32,
    /// The answer to come, once it has started.
    started: Option<Answer>,
}

struct Model {
    image: Vec<u8>,
    state: Persistent,
    unfinished: Vec<Unfinished>,
    answers: BTreeMap<u32, Answer>,
    defer: bool,
}

impl Model {
    /// What the rules say now; `None`: silence. The new state, where there is one, is to be put in force.
    fn judge(&self, host: usize, op: &Op) -> (Option<Answer>, Option<Persistent>) {
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

    fn ask(&mut self, host: usize, op: &Op, tag: u32) {
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
            // The newest asker gets the answer; a request that has not started is judged as its own.
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
    fn start(&mut self) {
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

    fn carry_out(&mut self, op: &Op) -> Answer {
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
    fn finish(&mut self, tag: u32) {
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

/// Lets every worker go on until none has anything to do; returns all replies by tag.
fn settle(workers: &mut [Worker]) -> BTreeMap<u32, Answer> {
    let mut replies = BTreeMap::new();
    for _ in 0..20 {
        for reply in workers.iter_mut().flat_map(Worker::poll) {
            let tag = u32::from_be_bytes(reply[20..24].try_into().unwrap());
            assert!(
                replies.insert(tag, read_answer(&reply)).is_none(),
                "tag {tag} answered twice"
            );
        }
    }
    replies
}

fn play(steps: Vec<Step>, again: bool) {
    let store = MemStore::new(usize::try_from(SECTORS).unwrap());
    store.inner.lock().again = again;
    let export = export(options(7, 3), &store);
    let mut workers = [(); 3].map(|()| Worker::new(vec![export.clone()]));
    let mut model = Model {
        image: store.inner.lock().image.clone(),
        state: Persistent::default(),
        unfinished: Vec::new(),
        answers: BTreeMap::new(),
        defer: false,
    };
    let finish_all = std::iter::once(Step::Defer(false)).chain((0..200).map(Step::Finish));
    for (tag, step) in (1..).zip(steps.into_iter().chain(finish_all)) {
        let mut replies = BTreeMap::new();
        match &step {
            Step::Defer(defer) => {
                model.defer = *defer;
                store.mood(if *defer { Mood::Defer } else { Mood::Prompt });
            }
            Step::Ask { worker, host, op } => {
                model.ask(*host, op, tag);
                ask(&mut workers[*worker], &op.frame(HOSTS[*host], tag), &mut replies);
            }
            Step::Again { worker, n } => {
                let Some(request) = model.unfinished.get(n % model.unfinished.len().max(1)).cloned() else {
                    continue;
                };
                model.ask(request.host, &request.op, tag);
                ask(
                    &mut workers[*worker],
                    &request.op.frame(HOSTS[request.host], tag),
                    &mut replies,
                );
            }
            Step::Finish(n) => {
                let Some(n) = n.checked_rem(store.deferred()) else {
                    continue;
                };
                // Which request that is, the store cannot say; its answer can: the first that comes out.
                store.finish(n, None);
                let mut first = BTreeMap::new();
                for worker in &mut workers {
                    for reply in worker.poll() {
                        let tag = u32::from_be_bytes(reply[20..24].try_into().unwrap());
                        first.insert(tag, read_answer(&reply));
                    }
                }
                replies.append(&mut first);
                replies.append(&mut settle(&mut workers));
                let ended: Vec<u32> = model
                    .unfinished
                    .iter()
                    .filter(|request| request.started.is_some() && replies.contains_key(&request.tag))
                    .map(|request| request.tag)
                    .collect();
                assert_eq!(ended.len(), 1, "one operation, one answer: {replies:?}");
                model.finish(ended[0]);
            }
        }
        replies.append(&mut settle(&mut workers));
        assert_eq!(replies, std::mem::take(&mut model.answers), "after {step:?}");
        assert_eq!(export.persistent(), model.state);
        assert_eq!(export.in_flight(), model.unfinished.len());
    }
    assert!(model.unfinished.is_empty());
    assert_eq!(store.inner.lock().image, model.image);
    assert_eq!(
        workers
            .iter()
            .map(|worker| worker.session.pending())
            .sum::<usize>(),
        0
    );
}

fn ask(worker: &mut Worker, frame: &[u8], replies: &mut BTreeMap<u32, Answer>) {
    for reply in worker.ask(frame) {
        replies.insert(
            u32::from_be_bytes(reply[20..24].try_into().unwrap()),
            read_answer(&reply),
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_does_what_the_model_does(
        steps in proptest::collection::vec(step(), 1..80),
        again in any::<bool>(),
    ) {
        play(steps, again);
    }
}

/// Fixed points of the model itself, so that it is not the engine's mirror in everything.
#[test]
fn the_model_knows_order() {
    let write = |byte| Step::Ask {
        worker: 0,
        host: 0,
        op: Op::Write(1, 1, byte),
    };
    play(
        vec![
            Step::Defer(true),
            write(1),
            write(2),
            Step::Ask {
                worker: 1,
                host: 1,
                op: Op::Read(1, 1),
            },
        ],
        false,
    );
}
