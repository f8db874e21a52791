//! A link whose frames are plain memory.

use std::collections::VecDeque;

use crate::frames::link::{Link, Pieces, PiecesMut};

/// What fresh memory holds: no such byte may ever be sent where it was not written on purpose.
pub const FILL: u8 = 0xa7;

/// A frame in pieces, as chunks would hold it.
#[derive(Debug)]
pub struct Frame {
    pieces: Vec<Vec<u8>>,
}

impl Frame {
    pub fn bytes(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

/// A link whose frames live on the heap, counted.
#[derive(Debug)]
pub struct MemLink {
    /// Longest piece.
    pub piece_bytes: usize,
    /// Frames in the hands of the engine.
    pub out: usize,
    /// Frames the pool can still give.
    pub pool: usize,
    /// How old every frame is, in microseconds.
    pub age_us: u64,
    pub sent: VecDeque<Vec<u8>>,
}

impl MemLink {
    pub fn new(piece_bytes: usize) -> MemLink {
        MemLink {
            piece_bytes,
            out: 0,
            pool: usize::MAX,
            age_us: 0,
            sent: VecDeque::new(),
        }
    }

    /// A received frame, its spare bytes filled with a pattern.
    pub fn receive(&mut self, bytes: &[u8]) -> Frame {
        self.out += 1;
        let pieces = match bytes {
            [] => vec![Vec::new()],
            _ => bytes.chunks(self.piece_bytes).map(<[u8]>::to_vec).collect(),
        };
        Frame { pieces }
    }
}

impl Link for MemLink {
    type Frame = Frame;

    fn pieces<'a>(&'a self, frame: &'a Frame) -> Pieces<'a> {
        frame.pieces.iter().map(Vec::as_slice).collect()
    }

    fn pieces_mut<'a>(&'a self, frame: &'a mut Frame) -> PiecesMut<'a> {
        frame.pieces.iter_mut().map(Vec::as_mut_slice).collect()
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        let mut have = frame.bytes();
        if len > have.len() && self.pool == 0 {
            return false;
        }
        have.resize(len, FILL);
        frame.pieces = have.chunks(self.piece_bytes).map(<[u8]>::to_vec).collect();
        true
    }

    fn renew(&mut self, frame: &mut Frame, len: usize) -> bool {
        // Also where the old memory would do: what is in the frame afterwards is nobody's data.
        self.resize(frame, len) && {
            frame.pieces.iter_mut().for_each(|piece| piece.fill(FILL));
            true
        }
    }

    fn allocate(&mut self, len: usize) -> Option<Frame> {
        self.pool = self.pool.checked_sub(1)?;
        self.out += 1;
        Some(Frame {
            pieces: vec![FILL; len]
                .chunks(self.piece_bytes)
                .map(<[u8]>::to_vec)
                .collect(),
        })
    }

    fn age_us(&self, _: &Frame) -> u64 {
        self.age_us
    }

    fn send(&mut self, frame: Frame) {
        self.out -= 1;
        self.sent.push_back(frame.bytes());
    }

    fn free(&mut self, _: Frame) {
        self.out -= 1;
    }
}
