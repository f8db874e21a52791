//! The engine's view of a port: frames come in, frames go out. No sockets here, so that tests and the fuzzer bring
//! links of plain memory.

use arrayvec::ArrayVec;

/// Pieces that one frame can lie in: a 9216-byte frame in chunks of 2 KiB, with room to spare.
pub const MAX_PIECES: usize = 16;

/// The bytes of a frame, in order, cut at any place; the first piece holds all headers.
pub type Pieces<'a> = ArrayVec<&'a [u8], MAX_PIECES>;

/// The same, writable.
pub type PiecesMut<'a> = ArrayVec<&'a mut [u8], MAX_PIECES>;

/// A port's queue as the engine sees it: a pool of frames and a way out.
///
/// A `Frame` is a token: it is moved into exactly one of [`Link::send`] and [`Link::free`].
pub trait Link {
    /// A frame's memory.
    type Frame;

    /// The frame's bytes as received (or as last resized).
    fn pieces<'a>(&'a self, frame: &'a Self::Frame) -> Pieces<'a>;

    /// The frame's bytes for writing a reply over them.
    fn pieces_mut<'a>(&'a self, frame: &'a mut Self::Frame) -> PiecesMut<'a>;

    /// Makes the frame `len` bytes long, with more memory from the pool if need be, keeping its first piece where it is.
    /// New bytes hold anything. False when the pool is empty; the frame is then unchanged.
    fn resize(&mut self, frame: &mut Self::Frame, len: usize) -> bool;

    /// As [`Link::resize`], for a reply that is all new: no byte is kept, so that the link may choose other memory.
    fn renew(&mut self, frame: &mut Self::Frame, len: usize) -> bool;

    /// A new frame of `len` bytes that hold anything; `None` when the pool is empty.
    fn allocate(&mut self, len: usize) -> Option<Self::Frame>;

    /// Queues the frame for transmission as it is.
    fn send(&mut self, frame: Self::Frame);

    /// Gives the frame's memory back to the pool.
    fn free(&mut self, frame: Self::Frame);

    /// How long ago a received frame arrived, in microseconds: now, not when it was taken from the ring. Never too short; where it is
    /// not known exactly, as long as it may be at most.
    fn age_us(&self, frame: &Self::Frame) -> u64;

    /// A request for every shelf or slot, before it is answered: other targets on this host may want to hear it, too.
    fn share(&self, _frame: &Self::Frame) {}
}
