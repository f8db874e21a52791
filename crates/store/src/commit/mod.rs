//! Group commit and bounded write-back: the thread that calls fdatasync so that workers need not.
//!
//! Who waits while a commit runs is in the next one, together with all others that came meanwhile. [`machine`] decides, [`Committer`]
//! carries it out on a thread of its own, [`dirty`] knows where acknowledged writes lie that are not committed yet.

mod committer;
mod counters;
mod dirty;
pub mod machine;
pub(crate) mod policy;
mod task;

pub(crate) use self::committer::Committer;
pub use self::policy::{Losses, OnLoss};
pub(crate) use self::task::{Medium, Task, UnmadeTransfer, UnmadeWrite, Waiter};
