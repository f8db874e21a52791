//! What Ceph answers.

use engine::Persistent;

/// An instance of a client: never used again.
pub(super) type ClientId = u32;

/// What comes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// What was read.
    Bytes(Vec<u8>),
    /// Who has the lock.
    Owner(Option<ClientId>),
    /// The protocol state.
    State(Persistent),
    /// Somebody else has the lock.
    Busy,
    /// The client is shut out.
    ShutOut,
}
