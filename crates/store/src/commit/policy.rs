//! How a store commits, and who hears of lost writes.

use std::sync::Arc;
use std::time::Duration;

use engine::LostWrites;

use super::machine::OnLostWrite;

/// Is told of each loss, by the thread that commits, before anybody is answered. May block: it costs this store only.
pub type OnLoss = Arc<dyn Fn(&LostWrites) + Send + Sync>;

/// What a store does about lost writes.
#[derive(Clone, Default)]
pub struct Losses {
    /// Lost by an earlier process, and not accepted by the operator.
    pub known: Option<LostWrites>,
    /// Whoever keeps the loss in mind beyond the end of the process.
    pub told: Option<OnLoss>,
}

impl std::fmt::Debug for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Losses")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

/// How a store commits.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) flush_interval: Duration,
    pub(crate) on_lost_write: OnLostWrite,
    pub(crate) losses: Losses,
    /// An earlier process may have left unsynced writes: never on what is only read.
    pub(crate) leftovers: bool,
}

/// Whoever is told of a loss, if anybody is.
pub(super) struct LossListener(pub(super) Option<OnLoss>);

impl std::fmt::Debug for LossListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LossListener")
    }
}
