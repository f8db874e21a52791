//! A frame in a ring: a head of fixed length, then its first bytes.

use rtrb::{Consumer, Producer};

/// Bytes of a head.
const HEAD: usize = 24;

/// Which way a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameDirection {
    Received,
    Sent,
}

/// What is known of a frame besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// When it arrived or was sent, on `CLOCK_MONOTONIC`.
    pub(crate) ns: u64,
    /// Its length.
    pub(crate) frame_bytes: u32,
    /// So many of these were kept.
    pub(crate) kept_bytes: u32,
    /// Frames before it that found no room.
    pub(crate) lost: u32,
    pub(crate) direction: FrameDirection,
}

impl FrameHead {
    fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(&self.ns.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.frame_bytes.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.kept_bytes.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.lost.to_ne_bytes());
        bytes[20] = u8::from(self.direction == FrameDirection::Sent);
        bytes
    }

    fn decode(bytes: &[u8; HEAD]) -> FrameHead {
        let u32_at = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        FrameHead {
            ns: u64::from_ne_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| bytes[n])),
            frame_bytes: u32_at(8),
            kept_bytes: u32_at(12),
            lost: u32_at(16),
            direction: match bytes[20] {
                0 => FrameDirection::Received,
                _ => FrameDirection::Sent,
            },
        }
    }
}

/// Copies the beginning of a frame; false, and nothing done, when there is no room.
pub(super) fn put(ring: &mut Producer<u8>, head: &FrameHead, pieces: &[&[u8]]) -> bool {
    let mut left = head.kept_bytes as usize;
    if ring.slots() < HEAD + left {
        return false;
    }
    // There is room for all of it.
    let mut push = |bytes: &[u8]| ring.push_entire_slice(bytes).is_ok();
    push(&head.encode());
    for piece in pieces {
        let kept = &piece[..piece.len().min(left)];
        push(kept);
        left -= kept.len();
    }
    true
}

/// Takes the next frame out, once all of it is there.
pub(super) fn take(ring: &mut Consumer<u8>) -> Option<(FrameHead, Vec<u8>)> {
    let mut bytes = [0; HEAD];
    // Looked at, and left in the ring until the rest has come.
    let chunk = ring.read_chunk(HEAD).ok()?;
    let (one, two) = chunk.as_slices();
    bytes[..one.len()].copy_from_slice(one);
    bytes[one.len()..].copy_from_slice(two);
    let head = FrameHead::decode(&bytes);
    let chunk = ring.read_chunk(HEAD + head.kept_bytes as usize).ok()?;
    let (one, two) = chunk.as_slices();
    let mut frame = Vec::with_capacity(one.len() + two.len());
    frame.extend_from_slice(one);
    frame.extend_from_slice(two);
    frame.drain(..HEAD);
    chunk.commit_all();
    Some((head, frame))
}
