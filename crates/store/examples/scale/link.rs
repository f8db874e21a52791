//! A link whose frames are plain memory that is used again and again.

use aoe_common::Mac;
use engine::link::{Link, Pieces, PiecesMut};

/// Bytes before the data of a request or reply.
const HEAD_BYTES: usize = 36;
const FRAME_BYTES: usize = HEAD_BYTES + 17 * 512;

pub(crate) const TARGET: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Ask {
    pub writes: bool,
    pub lba: u64,
    pub sectors: u8,
}

/// One frame.
pub(crate) struct Frame {
    bytes: Box<[u8; FRAME_BYTES]>,
    len: usize,
}

/// A pool of frames; what is sent comes back at once.
#[derive(Default)]
pub(crate) struct Memory {
    pool: Vec<Frame>,
    pub answers: u64,
    pub errors: u64,
}

impl Memory {
    /// A request as received. Its data is what the frame held before: to write it anew would cost more than to serve it.
    pub(crate) fn receive(&mut self, source: Mac, tag: u32, ask: Ask) -> Frame {
        let mut frame = self.allocate(HEAD_BYTES).unwrap();
        let (aflags, opcode) = if ask.writes { (0x41, 0x34) } else { (0x40, 0x24) };
        if ask.writes {
            frame.len += usize::from(ask.sectors) * 512;
        }
        let head = &mut frame.bytes[..HEAD_BYTES];
        head[..6].copy_from_slice(&TARGET.0);
        head[6..12].copy_from_slice(&source.0);
        head[12..20].copy_from_slice(&[0x88, 0xa2, 0x10, 0, 0, 7, 3, 0]);
        head[20..24].copy_from_slice(&tag.to_be_bytes());
        head[24..28].copy_from_slice(&[aflags, 0, ask.sectors, opcode]);
        head[28..34].copy_from_slice(&ask.lba.to_le_bytes()[..6]);
        head[34..].fill(0);
        // No two writes alike.
        frame.bytes[HEAD_BYTES..HEAD_BYTES + 4].copy_from_slice(&tag.to_be_bytes());
        frame
    }
}

impl Link for Memory {
    type Frame = Frame;

    fn pieces<'a>(&'a self, frame: &'a Frame) -> Pieces<'a> {
        [&frame.bytes[..frame.len]].into_iter().collect()
    }

    fn pieces_mut<'a>(&'a self, frame: &'a mut Frame) -> PiecesMut<'a> {
        [&mut frame.bytes[..frame.len]].into_iter().collect()
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        frame.len = len;
        len <= FRAME_BYTES
    }

    fn renew(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.resize(frame, len)
    }

    fn allocate(&mut self, len: usize) -> Option<Frame> {
        let fresh = || Frame {
            bytes: Box::new([0x5a; FRAME_BYTES]),
            len,
        };
        let mut frame = self.pool.pop().unwrap_or_else(fresh);
        frame.len = len;
        Some(frame)
    }

    fn send(&mut self, frame: Frame) {
        self.answers += 1;
        // An AoE error, or an error in the ATA status.
        if frame.bytes[14] & 0x04 != 0 || frame.bytes[27] & 0x01 != 0 || frame.bytes[25] & 0x01 != 0 {
            self.errors += 1;
        }
        self.pool.push(frame);
    }

    fn free(&mut self, frame: Frame) {
        self.pool.push(frame);
    }

    fn age_us(&self, _: &Frame) -> u64 {
        0
    }
}
