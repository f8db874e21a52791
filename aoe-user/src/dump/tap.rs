//! The worker's end: copies frames for those who want to see them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aoe_common::wire::{aoe, eth};
use rtrb::{Producer, RingBuffer};

use super::record::{FrameDirection, FrameHead, put};
use super::{Hub, Reader, Source};

/// Bytes that one worker keeps for one reader: what a 100 Gbit/s port receives in a third of a millisecond, and all headers of 50 000 frames.
const RING_BYTES: usize = 4 << 20;
/// Bytes of a frame that are looked at: two VLAN tags and the address.
const LOOKED_AT: usize = eth::HEADER_LEN + 2 * eth::TAG_LEN + aoe::COMMAND;

/// A worker's ring for one reader, seen from the worker.
#[derive(Debug)]
struct Sink {
    reader: Arc<Reader>,
    ring: Producer<u8>,
    /// Exports of which frames were seen, and whether they are wanted.
    known: HashMap<(u16, u8), bool>,
    /// Frames without room since the last that had some, and all of them.
    lost: u32,
    all_lost: Arc<AtomicU64>,
}

/// What a worker keeps frames with.
#[derive(Debug)]
pub(crate) struct Tap {
    hub: Arc<Hub>,
    interface: Arc<str>,
    queue: u32,
    /// [`Hub::changes`] as they were when `sinks` were made.
    seen: u64,
    sinks: Vec<Sink>,
}

impl Tap {
    /// For the worker of a receive queue.
    pub(crate) fn new(hub: &Arc<Hub>, interface: &str, queue: usize) -> Tap {
        Tap {
            hub: Arc::clone(hub),
            interface: interface.into(),
            queue: u32::try_from(queue).unwrap_or(u32::MAX),
            seen: 0,
            sinks: Vec::new(),
        }
    }

    /// Whether somebody wants to see frames, as of now. To be asked once a round.
    #[inline]
    pub(crate) fn look(&mut self) -> bool {
        if self.hub.changes.load(Ordering::Relaxed) != self.seen {
            self.renew();
        }
        self.is_on()
    }

    /// Whether somebody wanted to, at the last [`Tap::look`].
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        !self.sinks.is_empty()
    }

    #[cold]
    fn renew(&mut self) {
        // Somebody is changing it, and a worker waits for nobody: it looks again in its next round.
        let Some(readers) = self.hub.readers.try_lock() else {
            return;
        };
        self.seen = self.hub.changes.load(Ordering::Relaxed);
        let is_there = |sink: &Sink| readers.iter().any(|reader| Arc::ptr_eq(reader, &sink.reader));
        self.sinks.retain(is_there);
        for reader in readers.iter() {
            let names = &reader.wanted.interfaces;
            let is_wanted = names.is_empty() || names.iter().any(|name| **name == *self.interface);
            let is_new = !self.sinks.iter().any(|sink| Arc::ptr_eq(reader, &sink.reader));
            if !is_wanted || !is_new {
                continue;
            }
            let (ring, taken) = RingBuffer::new(RING_BYTES);
            let all_lost = Arc::<AtomicU64>::default();
            reader.new_sources.lock().push(Source {
                interface: Arc::clone(&self.interface),
                queue: self.queue,
                ring: taken,
                lost: Arc::clone(&all_lost),
            });
            self.sinks.push(Sink {
                reader: Arc::clone(reader),
                ring,
                known: HashMap::new(),
                lost: 0,
                all_lost,
            });
        }
    }

    /// A frame was received at this time of `CLOCK_MONOTONIC`.
    pub(crate) fn received(&mut self, ns: u64, pieces: &[&[u8]]) {
        self.keep(FrameDirection::Received, ns, pieces);
    }

    /// A frame is about to be sent.
    pub(crate) fn sent(&mut self, ns: u64, pieces: &[&[u8]]) {
        self.keep(FrameDirection::Sent, ns, pieces);
    }

    fn keep(&mut self, direction: FrameDirection, ns: u64, pieces: &[&[u8]]) {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let frame_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let address = address(pieces);
        for sink in &mut self.sinks {
            sink.keep(
                address,
                FrameHead {
                    ns,
                    frame_bytes,
                    kept_bytes: frame_bytes.min(sink.reader.wanted.frame_bytes),
                    lost: sink.lost,
                    direction,
                },
                pieces,
            );
        }
    }
}

impl Sink {
    fn keep(&mut self, address: Option<(u16, u8)>, head: FrameHead, pieces: &[&[u8]]) {
        if !self.wants(address) {
            return;
        }
        if put(&mut self.ring, &head, pieces) {
            self.lost = 0;
        } else {
            self.lost = self.lost.saturating_add(1);
            // Not fetch_add: only this worker writes.
            let lost = self.all_lost.load(Ordering::Relaxed);
            self.all_lost.store(lost + 1, Ordering::Relaxed);
        }
    }

    fn wants(&mut self, address: Option<(u16, u8)>) -> bool {
        let (Some(choice), Some((shelf, slot))) = (&self.reader.wanted.exports, address) else {
            return true;
        };
        // What is for everybody is for them, too.
        shelf == aoe::SHELF_ANY
            || slot == aoe::SLOT_ANY
            || *self
                .known
                .entry((shelf, slot))
                .or_insert_with(|| choice(shelf, slot))
    }
}

/// Shelf and slot of a frame; `None`: it ends before.
fn address(pieces: &[&[u8]]) -> Option<(u16, u8)> {
    let mut head = [0; LOOKED_AT];
    let mut len = 0;
    for (to, from) in head.iter_mut().zip(pieces.iter().copied().flatten()) {
        *to = *from;
        len += 1;
    }
    let u16_at = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let mut at = eth::TYPE;
    while at < eth::TYPE + 2 * eth::TAG_LEN && [eth::TYPE_VLAN, eth::TYPE_QINQ].contains(&u16_at(at)) {
        at += eth::TAG_LEN;
    }
    at += 2;
    (at + aoe::SLOT < len).then(|| (u16_at(at + aoe::SHELF), head[at + aoe::SLOT]))
}
