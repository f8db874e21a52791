//! Workers on threads of their own, sharing one export: nothing that writes ever overlaps anything.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use crossbeam_queue::SegQueue;

use crate::testing::bench::{TARGET, Witness, Worker, ata, frame_from, options, status};
use crate::testing::completions::{MemCompletions, MemHandle};
use crate::{
    Completion, CompletionHandle as _, Completions as _, Durability, Event, Extent, Fault, Step, Store,
    Token, Traits,
};
use crate::{Export, Persistent};

const SECTORS: usize = 512;
const WORKERS: u64 = 4;
const ROUNDS: u64 = 3000;

/// One number a sector, and who is at it: -1 a writer, else so many readers.
#[derive(Debug)]
struct RaceStore {
    numbers: Vec<AtomicU64>,
    busy: Vec<AtomicI32>,
    races: AtomicU64,
    calls: AtomicU64,
    put_off: SegQueue<(MemHandle, Token, Extent, Option<u64>)>,
}

impl RaceStore {
    fn range(extent: Extent) -> std::ops::Range<usize> {
        let first = usize::try_from(extent.lba).unwrap();
        first..first + usize::try_from(extent.count).unwrap()
    }

    fn enter(&self, extent: Extent, writes: bool) {
        for busy in &self.busy[RaceStore::range(extent)] {
            let before = busy.fetch_add(if writes { -1000 } else { 1 }, Ordering::SeqCst);
            if before < 0 || (writes && before != 0) {
                self.races.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn leave(&self, extent: Extent, writes: bool) {
        for busy in &self.busy[RaceStore::range(extent)] {
            busy.fetch_sub(if writes { -1000 } else { 1 }, Ordering::SeqCst);
        }
    }

    fn transfer(&self, extent: Extent, write: Option<u64>) -> Box<[u8]> {
        let mut bytes = Vec::new();
        for number in &self.numbers[RaceStore::range(extent)] {
            if let Some(new) = write {
                number.store(new, Ordering::Relaxed);
            }
            std::thread::yield_now();
            bytes.extend(number.load(Ordering::Relaxed).to_le_bytes().repeat(64));
        }
        bytes.into_boxed_slice()
    }

    fn start(
        &self,
        completions: &MemCompletions,
        token: Token,
        extent: Extent,
        write: Option<u64>,
    ) -> Option<Box<[u8]>> {
        self.enter(extent, write.is_some());
        if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            self.put_off.push((completions.handle(), token, extent, write));
            return None;
        }
        let bytes = self.transfer(extent, write);
        self.leave(extent, write.is_some());
        Some(bytes)
    }

    /// Ends what was put off, on a thread of its own.
    fn work(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) || !self.put_off.is_empty() {
            let Some((handle, token, extent, write)) = self.put_off.pop() else {
                std::thread::yield_now();
                continue;
            };
            let bytes = self.transfer(extent, write);
            self.leave(extent, write.is_some());
            handle.post(Completion {
                token,
                event: Event::Finished(Ok(write.is_none().then_some(bytes))),
            });
        }
    }
}

impl Store<MemCompletions> for RaceStore {
    fn sectors(&self) -> u64 {
        SECTORS as u64
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(self.sectors())
    }

    fn traits(&self) -> Traits {
        Traits {
            trim: false,
            zeroes_after_trim: false,
            physical_exponent: 0,
        }
    }

    fn read(
        &self,
        completions: &mut MemCompletions,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        let Some(bytes) = self.start(completions, token, extent, None) else {
            return Ok(Step::Later);
        };
        let mut bytes = bytes.iter();
        into.iter_mut()
            .flat_map(|piece| piece.iter_mut())
            .for_each(|byte| *byte = *bytes.next().unwrap());
        Ok(Step::Done)
    }

    fn write(
        &self,
        completions: &mut MemCompletions,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        _: Durability,
    ) -> Result<Step, Fault> {
        let number = u64::from_le_bytes(from.concat()[..8].try_into().unwrap());
        Ok(
            if self.start(completions, token, extent, Some(number)).is_some() {
                Step::Done
            } else {
                Step::Later
            },
        )
    }

    fn flush(&self, _: &mut MemCompletions, _: Token) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn trim(&self, _: &mut MemCompletions, _: Token, _: &[Extent]) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn verify(&self, _: &mut MemCompletions, _: Token, _: Extent) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The worker's only reply, waited for.
fn wait(worker: &mut Worker, frame: &[u8]) -> Vec<u8> {
    let mut replies = worker.ask(frame);
    while replies.is_empty() {
        std::thread::yield_now();
        replies = worker.poll();
    }
    assert_eq!(replies.len(), 1);
    replies.remove(0)
}

/// The latest write of each worker that one of them has seen in each sector: it must not see an older one afterwards.
#[derive(Default)]
struct Seen(HashMap<(u64, u64), u64>);

impl Seen {
    fn stamp(&mut self, sector: u64, stamp: u64) {
        let (writer, round) = (stamp >> 32, stamp & 0xffff_ffff);
        let before = self.0.insert((sector, writer), round).unwrap_or(0);
        assert!(
            before <= round,
            "sector {sector} went back from {before} to {round} of {writer}"
        );
    }
}

/// Writes and reads of sectors that all share, some of them at an edge between two stripes, and of one of its own, where a read must
/// see the last write.
fn host(export: &Arc<Export<MemCompletions>>, number: u64) {
    let mut worker = Worker::new(vec![export.clone()]);
    let source = aoe_common::Mac::from_u64(0x0200_0000_0100 | number);
    let own = 128 + number * 67;
    let mut seen = Seen::default();
    let mut random = number + 1;
    for round in 1..=ROUNDS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let stamp = number << 32 | round;
        let tag = u32::try_from(round).unwrap();
        let mut ask = |count: u8, opcode, lba, data: &[u8]| {
            let aflags = if opcode == 0x34 { 0x41 } else { 0x40 };
            let argument = ata(aflags, 0, count, opcode, lba, data);
            let reply = wait(&mut worker, &frame_from(source, TARGET, 7, 3, 0, tag, &argument));
            assert_eq!(status(&reply), (0x40, 0));
            assert_eq!(reply[20..24], tag.to_be_bytes(), "its own answer");
            reply
        };
        let (lba, count) = (59 + random % 10, 1 + u8::try_from(random >> 8 & 1).unwrap());
        let bytes = |count: u8| stamp.to_le_bytes().repeat(64 * usize::from(count));
        if random & 0x1000 != 0 {
            ask(count, 0x34, lba, &bytes(count));
            (lba..lba + u64::from(count)).for_each(|sector| seen.stamp(sector, stamp));
        } else {
            let reply = ask(count, 0x24, lba, &[]);
            for (sector, data) in (lba..).zip(reply[36..].chunks(512)) {
                assert_eq!(data[..8].repeat(64), data, "one write's data");
                seen.stamp(sector, u64::from_le_bytes(data[..8].try_into().unwrap()));
            }
        }
        ask(1, 0x34, own, &bytes(1));
        assert_eq!(
            ask(1, 0x24, own, &[])[36..],
            bytes(1)[..],
            "what was acknowledged is there"
        );
    }
}

#[test]
fn workers_on_threads_keep_order() {
    let store = Arc::new(RaceStore {
        numbers: (0..SECTORS).map(|_| AtomicU64::new(0)).collect(),
        busy: (0..SECTORS).map(|_| AtomicI32::new(0)).collect(),
        races: AtomicU64::new(0),
        calls: AtomicU64::new(0),
        put_off: SegQueue::new(),
    });
    let witness = Arc::new(Witness::default());
    let export =
        Arc::new(Export::new(options(7, 3), store.clone(), None, witness, Persistent::default()).unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| store.work(&stop));
        let hosts: Vec<_> = (0..WORKERS)
            .map(|number| {
                scope.spawn({
                    let export = &export;
                    move || host(export, number)
                })
            })
            .collect();
        let ends: Vec<_> = hosts
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        background.join().unwrap();
        assert!(ends.iter().all(Result::is_ok), "a worker panicked");
    });
    assert_eq!(
        store.races.load(Ordering::SeqCst),
        0,
        "a write overlapped something"
    );
    assert_eq!(export.in_flight(), 0);
}
