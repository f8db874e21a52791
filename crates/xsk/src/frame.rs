//! A frame's pieces: how frames are put together, grow and shrink.

use arrayvec::{ArrayVec, CapacityError};

use super::chunk::{Chunk, Chunks};
use super::config::XDP_HEADROOM;

/// Pieces that one frame can lie in. The kernel sends at most 17 (`MAX_SKB_FRAGS`).
pub const MAX_PIECES: usize = 16;

/// The longest frame, with its Ethernet header and tags, that can be received and sent at any MTU: full pieces of 4 KiB chunks.
pub const MAX_FRAME_BYTES: u32 = MAX_PIECES as u32 * (4096 - XDP_HEADROOM);

/// The bytes of a frame, in order.
pub type Pieces<'a> = ArrayVec<&'a [u8], MAX_PIECES>;

/// The same, writable.
pub type PiecesMut<'a> = ArrayVec<&'a mut [u8], MAX_PIECES>;

/// Bytes `offset..offset + len` of a chunk.
#[derive(Debug)]
pub(super) struct Piece {
    pub chunk: Chunk,
    pub offset: u16,
    pub len: u16,
}

/// A frame in the memory of the [`super::Socket`] it comes from, in 1 to [`MAX_PIECES`] pieces.
///
/// A token: it must be moved into [`super::Socket::transmit`] or [`super::Socket::free`] of that socket. Dropping it
/// while the socket is open loses its chunks until the socket closes; a debug build panics. After the socket has been
/// dropped, frames that are left over may be dropped too.
#[derive(Debug)]
#[must_use = "a frame must be given back with transmit or free"]
pub struct Frame {
    umem: u32,
    pieces: ArrayVec<Piece, MAX_PIECES>,
}

impl Frame {
    /// A frame without bytes, to be filled.
    pub(super) fn empty(umem: u32) -> Frame {
        Frame {
            umem,
            pieces: ArrayVec::new(),
        }
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| usize::from(piece.len)).sum()
    }

    /// Chunks that it lies in; as many descriptors brought it.
    pub fn chunks(&self) -> u32 {
        self.pieces.len() as u32
    }

    pub(super) fn umem(&self) -> u32 {
        self.umem
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn pieces_mut(&mut self) -> &mut [Piece] {
        &mut self.pieces
    }

    /// Adds a piece at the end; gives it back when there are [`MAX_PIECES`] already.
    pub(super) fn push(&mut self, piece: Piece) -> Result<(), Piece> {
        self.pieces.try_push(piece).map_err(CapacityError::element)
    }

    /// Takes out all pieces, in order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Piece> + '_ {
        self.pieces.drain(..)
    }
}

#[cfg(debug_assertions)]
impl Drop for Frame {
    fn drop(&mut self) {
        let leaked = !self.pieces.is_empty() && super::live::contains(self.umem);
        assert!(
            !leaked || std::thread::panicking(),
            "a frame of {} pieces was dropped, neither sent nor freed",
            self.pieces.len()
        );
    }
}

/// How frames lie in chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Size of a chunk: at most 4096, so that offsets and lengths fit 16 bits.
    pub chunk_bytes: u16,
    /// Where a frame begins in its first chunk.
    pub data_offset: u16,
    /// Pieces that the socket can send: 1 without multi-buffer mode.
    pub max_pieces: usize,
}

impl Layout {
    /// Makes the frame `len` bytes long: surplus pieces go back to the pool; what is missing comes from the tail of
    /// the last chunk, then from whole chunks of the pool. Bytes that stay, stay where they are.
    ///
    /// False, and nothing changed, when the pool has too few chunks, the frame would need too many, or `len` is 0.
    pub(crate) fn resize(&self, frame: &mut Frame, len: usize, chunks: &mut Chunks) -> bool {
        let now = frame.bytes();
        if len == 0 {
            return false;
        }
        if len <= now {
            self.shrink(frame, now.saturating_sub(len), chunks);
            return true;
        }
        self.grow(frame, len.saturating_sub(now), chunks)
    }

    fn shrink(&self, frame: &mut Frame, mut surplus: usize, chunks: &mut Chunks) {
        while let Some(last) = frame.pieces.last_mut() {
            let len = usize::from(last.len);
            if surplus < len {
                // The difference is at most `len`, which came from a u16.
                last.len = len.saturating_sub(surplus) as u16;
                return;
            }
            surplus = surplus.saturating_sub(len);
            if let Some(piece) = frame.pieces.pop() {
                chunks.put(piece.chunk);
            }
        }
    }

    fn grow(&self, frame: &mut Frame, missing: usize, chunks: &mut Chunks) -> bool {
        let first = frame.pieces.is_empty();
        let tail = match frame.pieces.last() {
            Some(last) => self.room(last.offset).saturating_sub(last.len),
            None => self.room(self.data_offset),
        };
        let from_tail = missing.min(usize::from(tail));
        let from_pool = missing.saturating_sub(from_tail);
        let new_chunks = from_pool
            .div_ceil(usize::from(self.chunk_bytes))
            .saturating_add(usize::from(first));
        let pieces = frame.pieces.len().saturating_add(new_chunks);
        if pieces > self.max_pieces.min(MAX_PIECES) || new_chunks > chunks.free() as usize {
            return false;
        }
        // All values below are at most `chunk_bytes`, a u16.
        let mut left = from_pool;
        match frame.pieces.last_mut() {
            Some(last) => last.len = last.len.saturating_add(from_tail as u16),
            None => self.add_chunk(frame, self.data_offset, from_tail, chunks),
        }
        while left > 0 {
            let len = left.min(usize::from(self.chunk_bytes));
            self.add_chunk(frame, 0, len, chunks);
            left = left.saturating_sub(len);
        }
        true
    }

    /// `grow` has made sure that pool and frame have room.
    fn add_chunk(&self, frame: &mut Frame, offset: u16, len: usize, chunks: &mut Chunks) {
        if let Some(chunk) = chunks.take() {
            frame.pieces.push(Piece {
                chunk,
                offset,
                len: len as u16,
            });
        }
    }

    fn room(&self, offset: u16) -> u16 {
        self.chunk_bytes.saturating_sub(offset)
    }
}

#[cfg(test)]
mod tests;
