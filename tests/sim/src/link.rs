//! A worker's link: frames of plain memory from a bounded pool.

use arrayvec::ArrayVec;
use engine::link::{Link, Pieces, PiecesMut};

use crate::bus::{Bus, Note, WorkerId};

/// What fresh memory holds: no such byte may be sent where nobody wrote it.
const FILL: u8 = 0xa7;

/// A frame's memory.
#[derive(Debug)]
pub struct Chunked {
    bytes: Vec<u8>,
    arrived_us: u64,
}

/// The link of one worker.
#[derive(Debug)]
pub struct SimLink {
    worker: WorkerId,
    bus: Bus,
    piece: usize,
    /// Frames the pool has in all.
    pub pool: usize,
    /// Frames in the engine's hands.
    pub out: usize,
}

impl SimLink {
    /// A link whose frames are cut into pieces of `piece` bytes.
    pub fn new(worker: WorkerId, bus: &Bus, pool: usize, piece: usize) -> SimLink {
        SimLink {
            worker,
            bus: bus.clone(),
            piece,
            pool,
            out: 0,
        }
    }

    /// A received frame.
    pub fn receive(&mut self, bytes: Vec<u8>, arrived_us: u64) -> Chunked {
        self.out += 1;
        Chunked { bytes, arrived_us }
    }
}

impl Link for SimLink {
    type Frame = Chunked;

    fn pieces<'a>(&'a self, frame: &'a Chunked) -> Pieces<'a> {
        if frame.bytes.is_empty() {
            return ArrayVec::from_iter([frame.bytes.as_slice()]);
        }
        frame.bytes.chunks(self.piece).collect()
    }

    fn pieces_mut<'a>(&'a self, frame: &'a mut Chunked) -> PiecesMut<'a> {
        frame.bytes.chunks_mut(self.piece).collect()
    }

    fn resize(&mut self, frame: &mut Chunked, len: usize) -> bool {
        frame.bytes.resize(len, FILL);
        true
    }

    fn renew(&mut self, frame: &mut Chunked, len: usize) -> bool {
        frame.bytes.clear();
        frame.bytes.resize(len, FILL);
        true
    }

    fn allocate(&mut self, len: usize) -> Option<Chunked> {
        if self.out >= self.pool {
            return None;
        }
        self.out += 1;
        Some(Chunked {
            bytes: vec![FILL; len],
            arrived_us: self.bus.now_us(),
        })
    }

    fn age_us(&self, frame: &Chunked) -> u64 {
        self.bus.now_us().saturating_sub(frame.arrived_us)
    }

    fn send(&mut self, frame: Chunked) {
        self.out -= 1;
        self.bus.note(Note::Sent(self.worker, frame.bytes));
    }

    fn free(&mut self, _: Chunked) {
        self.out -= 1;
    }
}
