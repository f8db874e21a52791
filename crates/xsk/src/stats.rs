//! What a socket counts.

/// Counters of one socket since it was opened: the kernel's (`XDP_STATISTICS`) and its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Kernel: frames dropped for want of a chunk, or longer than the socket takes.
    pub rx_dropped: u64,
    /// Kernel: bad entries in the fill ring. Anything but 0 is a fault of this program.
    pub rx_invalid: u64,
    /// Kernel: frames dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Kernel: times that a frame came and the fill ring was empty.
    pub fill_ring_empty: u64,
    /// Kernel: bad entries in the TX ring. Anything but 0 is a fault of this program.
    pub tx_invalid: u64,
    /// Kernel: times that it looked for frames to send and found none (usual).
    pub tx_ring_empty: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Frames received in more pieces than a frame may have, dropped whole.
    pub rx_overlong: u64,
    /// Frames put on the TX ring.
    pub tx_frames: u64,
    /// Frames that had to wait because the TX ring was full.
    pub tx_waited: u64,
    /// System calls made to have frames sent.
    pub kicks: u64,
    /// Kicks that the kernel or the driver answered with "busy" or "no memory".
    pub kicks_refused: u64,
}
