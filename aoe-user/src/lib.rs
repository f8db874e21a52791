//! The user half of xblade: an ATA-over-Ethernet target on AF_XDP.
//!
//! Uses run one way: `main → cli → control → port → {config, dump, metrics → filter} → {host, target}`, and from all of these to
//! the crates `store → engine`, `xsk`, `failover`, `initiator` and `aoe-common`. The suite `house` holds them to that.
//!
//! What is `pub` here is used from another crate: the binary, the lab's tests, the fuzz targets and the example.

pub mod cli;
pub mod config;
pub mod control;
pub(crate) mod dump;
pub mod filter;
pub(crate) mod host;
pub(crate) mod metrics;
pub mod port;
pub mod target;

pub use {initiator, store, xsk};

/// Says that the running test is skipped and why, on the real standard error: `cargo xtask test` counts these lines.
#[cfg(test)]
fn skip(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    // In one piece: other tests write there, too.
    let line = format!("skipped {}: {why}\n", thread.name().unwrap_or("?"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
