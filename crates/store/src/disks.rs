//! The disks under the stores of one target.

use crate::io::gate::Gates;
use crate::lock::Claims;

/// What is known of them, and the exclusive opens of those that are exported as they are.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    /// How much each may be given at a time.
    pub(crate) gates: Gates,
    pub(crate) claims: Claims,
}
