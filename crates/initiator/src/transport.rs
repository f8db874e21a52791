//! What a load travels by.

use std::time::Duration;

use super::InitiatorError;

/// Most frames that one call moves.
pub const BATCH: usize = 64;

/// A way to send requests and to hear answers on one interface.
///
/// The rhythm: [`Transport::send`] what there is to send, [`Transport::receive`] once, [`Transport::wait`] only when nothing came.
pub trait Transport {
    /// From now on only the first bytes of each frame are asked for: what is not looked at need not be copied.
    fn receive_heads(&mut self, bytes: usize);

    /// Takes up to [`BATCH`] frames to be sent and says how many it took; 0 when there is no room for more. They are on their way
    /// after the next [`Transport::receive`] at the latest.
    fn send(&mut self, frames: &[&[u8]]) -> Result<usize, InitiatorError>;

    /// Hands up to `most` frames (at most [`BATCH`]) that have arrived to `each`, without waiting; says how many.
    ///
    /// `each` gets the frame, or at least its head after [`Transport::receive_heads`], and its length.
    fn receive(&mut self, most: usize, each: impl FnMut(&[u8], usize)) -> Result<usize, InitiatorError>;

    /// Sleeps until a frame arrives, at most `limit`.
    fn wait(&self, limit: Duration) -> Result<(), InitiatorError>;
}
