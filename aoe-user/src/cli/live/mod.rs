//! Commands that talk to a running target through its control socket.

pub(super) mod args;
pub(super) mod change;
pub(super) mod client;
mod columns;
mod discover;
mod dump;
mod failover;
mod metrics;
mod overlay;
pub(super) mod rates;
mod save;
pub(super) mod show;
pub(super) mod stat;

pub(super) use change::{export, log, reload};
pub(super) use client::NoTarget;
pub(super) use discover::discover;
pub(super) use dump::dump;
pub(super) use failover::failover;
pub(super) use metrics::metrics;
pub(super) use overlay::overlay;
pub(super) use show::{denied, initiators, ls, status};
pub(super) use stat::stat;

/// Exit code where not everything that is configured is served.
pub(super) const DEGRADED: u8 = 3;
/// Exit code where no target listens.
pub(super) const NO_TARGET: u8 = 4;
