//! Where sectors live: the engine's [`Store`] over files, block devices and memory.
//!
//! What would block (a cold page, an fdatasync, direct I/O, a hole punch) a store starts and puts off; the end arrives on
//! the worker's [`CompletionQueue`]. The worker's loop: serve what came in, [`CompletionQueue::submit`], take what [`CompletionQueue::next`] has, and before
//! sleeping [`CompletionQueue::prepare_sleep`], poll [`CompletionQueue::fd`], [`CompletionQueue::awake`]. None of them enters the kernel unless something is
//! deferred.

mod address;
mod backing;
mod borders;
pub mod commit;
mod completion_queue;
mod conflict;
mod direct;
mod disks;
mod fetch;
mod file_identity;
mod file_system;
mod format;
mod handle;
mod io;
pub mod limits;
mod lock;
mod mapped;
mod metadata;
mod nbd;
mod null;
mod open;
mod options;
mod overlay;
pub mod pace;
mod pages;
mod ram;
mod rbd;
mod registry;
pub mod saves;
#[cfg(test)]
mod tests;
mod tick;
mod trim;
mod users;

pub use address::RemotePath;
pub use backing::device_bytes;
pub use commit::Losses;
pub use commit::machine::OnLostWrite;
pub use completion_queue::CompletionQueue;
pub use conflict::{conflict, foreign};
pub use engine::{
    Completion, CompletionHandle, Completions, Durability, Event, Extent, Fault, FaultKind, Health,
    LostWrites, SECTOR_BYTES, Step, Store, Token, Traits,
};
pub use file_identity::FileIdentity;
pub use format::ImageFormat;
pub use handle::{Owed, QueueHandle};
pub use metadata::Metadata;
pub use nbd::{NbdExport, inspect as inspect_nbd};
pub use open::{Context, Opened, open, open_with};
pub use options::{StoreError, StoreKind, StoreOptions};
pub use overlay::{
    CurrentGolden, Full, Golden, MergeError, MergedImage, OverlayError, OverlayFiles, OverlayOptions,
    OverlayStore, OverlayTotals, OverlayUsage, free_bytes, is_full, lies_in_memory, look_for_memory,
    remove_unfinished_merge,
};
pub use rbd::{
    CLONE_PINNED, CephOptions, LoadError, LockOf, RbdClone, RbdClones, RbdImage, RbdPath, Takeover,
    available as rbd_available, inspect as inspect_rbd, pinned_text,
};
pub use registry::StoreRegistry;

/// Says that the running test is skipped and why, on the real standard error: `cargo xtask test` counts these lines.
#[cfg(test)]
fn skip(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    // In one piece: other tests write there, too.
    let line = format!("skipped {}: {why}\n", thread.name().unwrap_or("?"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
