//! A session under arbitrary frames, watched: the property tests and the fuzzer (`fuzz/`) share it.

use aoe_common::{Access, Vlan};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::bench::{ONE, OTHER, Worker, export, options};
use super::link::FILL;
use super::parser;
use super::store::{MemStore, StoreMode};
use crate::FaultKind;

/// What is exported, each with settings of its own.
const EXPORTS: [(u16, u8); 4] = [(7, 3), (7, 4), (8, 3), (9, 9)];

/// A worker and what it was asked. Every step panics if a rule is broken: nothing but silence or well-formed replies, at
/// most one from each export, no frame lost, no byte sent that nobody wrote.
pub struct Trial {
    worker: Worker,
    store: Arc<MemStore>,
    /// Requests by tag, for the replies that come later.
    asked: HashMap<[u8; 4], Vec<Vec<u8>>>,
}

impl Trial {
    /// A fresh worker on a port of this MTU; frames are cut after every `piece_bytes`, and the link can give `pool` more
    /// of them.
    pub fn new(mtu_bytes: u32, piece_bytes: usize, pool: usize) -> Trial {
        let store = MemStore::new(128);
        let exports = EXPORTS.map(|(shelf, slot)| {
            let mut options = options(shelf, slot);
            match (shelf, slot) {
                (7, 4) => options.vlan = Vlan::Any,
                (8, 3) => options.vlan = Vlan::Id(5),
                (9, 9) => {
                    options.smart = true;
                    options.late_duplicates = true;
                    options.access = [(ONE, Access::ReadWrite), (OTHER, Access::ReadOnly)].into();
                }
                _ => {}
            }
            export(options, &store)
        });
        let mut worker = Worker::cut(exports.into(), piece_bytes);
        worker.link.pool = pool;
        worker.port.mtu_bytes = mtu_bytes;
        Trial {
            worker,
            store,
            asked: HashMap::new(),
        }
    }

    /// Gives a frame to the engine while the store is in this mode.
    pub fn ask(&mut self, mut frame: Vec<u8>, mode: StoreMode) {
        for byte in &mut frame {
            // So that memory nobody wrote is known when it shows; the second becomes the first without its DEI bit.
            if [FILL, FILL | 0x10].contains(byte) {
                *byte = 0;
            }
        }
        self.store.mode(mode);
        self.worker.now_us += 1000;
        let mut from = HashSet::new();
        for reply in self.worker.ask(&frame) {
            unleaked(&reply);
            assert!(
                from.insert(parser::check(&frame, &reply, &EXPORTS)),
                "twice from one export"
            );
        }
        if let Some(tag) = tag(&frame) {
            self.asked.entry(tag).or_default().push(frame);
        }
    }

    /// Ends the `n`th operation that the store has put off, if there are so many; the engine goes on.
    pub fn finish(&mut self, n: usize, fault: Option<FaultKind>) {
        if n < self.store.deferred() {
            self.store.finish(n, fault);
        }
        for reply in self.worker.poll() {
            unleaked(&reply);
            let requests = &self.asked[&tag(&reply).expect("an AoE reply")];
            // Where several requests had the tag, any of them may be meant.
            if let [request] = requests.as_slice() {
                parser::check(request, &reply, &EXPORTS);
            }
        }
    }

    /// Lets everything that was put off end one way or the other: then nothing is left.
    pub fn end(mut self) {
        self.store.mode(StoreMode::Prompt);
        let mut turn = 0;
        while self.store.deferred() > 0 || self.worker.session.pending() > 0 {
            self.finish(0, (turn % 3 == 0).then_some(FaultKind::Read));
            turn += 1;
            assert!(turn < 10_000, "something waits for ever");
        }
        assert_eq!(self.worker.link.out, 0, "a frame was lost");
        for export in self.worker.session.exports().iter() {
            assert_eq!(export.in_flight(), 0);
            assert_eq!(export.persistent().check(), Ok(()));
        }
    }
}

/// The tag of an AoE frame behind up to two VLAN tags.
fn tag(frame: &[u8]) -> Option<[u8; 4]> {
    let at = (12..=20)
        .step_by(4)
        .find(|at| frame.get(*at..at + 2) == Some(&[0x88, 0xa2]))?;
    frame.get(at + 8..at + 12)?.try_into().ok()
}

/// Asserts that no byte of fresh memory is in a reply.
fn unleaked(reply: &[u8]) {
    // The last byte of an IDENTIFY block is a sum, and any value is right.
    let body = match reply.len() {
        548.. => &reply[..reply.len() - 1],
        _ => reply,
    };
    assert!(!body.contains(&FILL), "memory that was not written: {reply:x?}");
}
