//! Blocks of pcapng (draft-ietf-opsawg-pcapng), as far as a stream of frames needs them.
//!
//! Written by hand: the crates for it are release candidates or cannot write nanoseconds, and this is four blocks of plain fields.

use super::record::{FrameDirection, FrameHead};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const FRAME: u32 = 6;

/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;
/// Time stamps are in 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Appends one block.
struct Block<'b> {
    to: &'b mut Vec<u8>,
    start: usize,
}

impl Block<'_> {
    fn new(to: &mut Vec<u8>, kind: u32) -> Block<'_> {
        let start = to.len();
        let block = Block { to, start };
        // The length comes at the end.
        block.u32(kind).u32(0)
    }

    fn u32(self, value: u32) -> Self {
        self.to.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u16s(self, one: u16, two: u16) -> Self {
        self.u32(u32::from(one) | u32::from(two) << 16)
    }

    /// The two halves of a time, the higher one first.
    fn time(self, ns: u64) -> Self {
        self.u32((ns >> 32) as u32).u32(ns as u32)
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        self.to.extend_from_slice(bytes);
        let padded = self.to.len().next_multiple_of(4);
        self.to.resize(padded, 0);
        self
    }

    fn option(self, code: u16, value: &[u8]) -> Self {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.u16s(code, len).bytes(&value[..usize::from(len)])
    }

    /// After the options.
    fn end(self) {
        let block = self.u32(0);
        // All blocks begin at multiples of four in what is written.
        let len = (block.to.len() - block.start + 4) as u32;
        let block = block.u32(len);
        block.to[block.start + 4..][..4].copy_from_slice(&len.to_le_bytes());
    }
}

/// The beginning of it all.
pub(super) fn section(to: &mut Vec<u8>) {
    let program = concat!("xblade ", env!("CARGO_PKG_VERSION"));
    Block::new(to, SECTION)
        .u32(0x1a2b_3c4d)
        .u16s(1, 0)
        // Of unknown length.
        .u32(u32::MAX)
        .u32(u32::MAX)
        .option(3, std::env::consts::OS.as_bytes())
        .option(4, program.as_bytes())
        .end();
}

/// An interface; the first one described has the number 0.
pub(super) fn interface(to: &mut Vec<u8>, name: &str, frame_bytes: u32) {
    Block::new(to, INTERFACE)
        .u16s(ETHERNET, 0)
        .u32(frame_bytes)
        .option(2, name.as_bytes())
        .option(3, b"what xblade takes from AF_XDP and sends by it")
        .option(9, &[NANOSECONDS])
        .end();
}

/// A frame, at this time since 1970.
pub(super) fn frame(
    to: &mut Vec<u8>,
    (interface, queue): (u32, u32),
    ns: u64,
    head: &FrameHead,
    bytes: &[u8],
) {
    let direction: u32 = match head.direction {
        FrameDirection::Received => 1,
        FrameDirection::Sent => 2,
    };
    let block = Block::new(to, FRAME)
        .u32(interface)
        .time(ns)
        .u32(head.kept_bytes)
        .u32(head.frame_bytes)
        .bytes(bytes)
        .option(2, &direction.to_le_bytes());
    let block = match head.lost {
        0 => block,
        lost => block.option(4, &u64::from(lost).to_le_bytes()),
    };
    block.option(6, &queue.to_le_bytes()).end();
}

/// What became of an interface's frames so far.
pub(super) fn statistics(to: &mut Vec<u8>, interface: u32, ns: u64, shown: u64, lost: u64) {
    Block::new(to, STATISTICS)
        .u32(interface)
        .time(ns)
        .option(4, &(shown + lost).to_le_bytes())
        .option(5, &lost.to_le_bytes())
        .option(8, &shown.to_le_bytes())
        .end();
}
