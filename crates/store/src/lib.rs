//! Where sectors live: the engine's [`Store`] over files, block devices and memory.
//!
//! What would block (a cold page, an fdatasync, direct I/O, a hole punch) a store starts and puts off; the end arrives on
//! the worker's [`Lane`]. The worker's loop: serve what came in, [`Lane::submit`], take what [`Lane::next`] has, and before
//! sleeping [`Lane::prepare_sleep`], poll [`Lane::fd`], [`Lane::awake`]. None of them enters the kernel unless something is
//! deferred.

mod backing;
mod blocks;
mod bounce;
mod committer;
mod direct;
mod fetch;
mod folios;
mod format;
pub mod lane;
mod lock;
mod mapped;
mod mmap;
mod null;
mod open;
mod partial;
mod ram;
mod residency;
mod sigbus;
#[cfg(test)]
mod tests;
mod transfer;
mod uring;
mod users;

pub use engine::{
    Completion, CompletionHandle, Completions, Durability, Event, Extent, Fault, FaultKind, SECTOR_BYTES,
    Step, Store, Token, Traits,
};
pub use format::ImageFormat;
pub use lane::{Lane, Mailbox};
pub use open::{StoreError, StoreKind, StoreOptions, open};

/// Says that the running test is skipped and why, on the real standard error: `cargo xtask test` counts these lines.
#[cfg(test)]
fn skip(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    // In one piece: other tests write there, too.
    let line = format!("skipped {}: {why}\n", thread.name().unwrap_or("?"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
