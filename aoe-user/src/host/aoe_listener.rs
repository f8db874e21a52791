//! Counts the AoE frames that the network stack gets on an interface. Where an XDP program runs, it has passed them.

use tracing::debug;

use initiator::{BATCH, PacketSocket, Transport as _};

/// Batches taken at a time: a flood is enough to know.
const BATCHES_MAX: usize = 64;
/// The length of a frame says nothing, its contents neither.
const HEAD_BYTES: usize = 64;

/// Who counts.
pub(crate) struct AoeListener {
    socket: PacketSocket,
    heard: u64,
}

impl AoeListener {
    /// Begins to listen on an interface; `None` where the system does not let it, or the interface is down.
    pub(crate) fn open(interface: &str) -> Option<AoeListener> {
        // Bound to AoE's EtherType, it does not hear what this host sends.
        let opened = PacketSocket::open(interface);
        let mut socket = opened
            .inspect_err(|error| debug!("{interface}: cannot listen for AoE: {error}"))
            .ok()?;
        socket.receive_heads(HEAD_BYTES);
        Some(AoeListener { socket, heard: 0 })
    }

    /// How many AoE frames were heard so far.
    pub(crate) fn heard(&mut self) -> u64 {
        for _ in 0..BATCHES_MAX {
            match self.socket.receive(BATCH, |_, _| {}) {
                Ok(frames) if frames > 0 => self.heard = self.heard.saturating_add(frames as u64),
                _ => break,
            }
        }
        self.heard
    }
}

impl std::fmt::Debug for AoeListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AoeListener")
            .field("heard", &self.heard)
            .finish_non_exhaustive()
    }
}
