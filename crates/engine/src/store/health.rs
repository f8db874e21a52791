//! What a store knows about itself: whether everything that it acknowledged is still there, and whether it can be reached.

use std::fmt;

use crate::store::fault::Extent;

/// Whether a store holds all that it acknowledged, and serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// As far as anybody knows.
    #[default]
    Healthy,
    /// Acknowledged writes did not reach the medium and never will. The operator has to decide.
    LostWrites(LostWrites),
    /// What the store is made of cannot be reached, for this reason; nobody is answered until it is back.
    Silent(String),
    /// It serves, but not everything, or not what the operator believes, for this reason.
    Degraded(String),
}

/// Acknowledged writes that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostWrites {
    /// Where they lie, as exactly as known: the lost sectors are among these.
    pub extent: Extent,
    /// What the system said.
    pub cause: String,
    /// Writes, TRIMs and flushes are refused until the operator accepts the loss; otherwise only flushes are.
    pub stopped: bool,
}

impl fmt::Display for LostWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Extent { lba, count } = self.extent;
        write!(
            f,
            "acknowledged writes are lost, among sectors {lba} to {}: {}",
            lba.saturating_add(count).saturating_sub(1),
            self.cause
        )
    }
}
