//! The control socket: what `xblade status`, `reload`, `export` and others ask a running target.
//!
//! Requests and replies are JSON, one object a line ([`types`]). A connection is a task of the control thread: it hands
//! each request to the control loop, which answers from what it knows at that moment and never waits for a reader.

pub(super) mod calls;
pub(super) mod dump_calls;
pub(crate) mod dumps;
pub(crate) mod failover;
pub(super) mod failover_calls;
pub(crate) mod kept;
pub(super) mod listening;
mod log_lines;
pub(crate) mod openmetrics;
pub(super) mod overlay_calls;
pub(crate) mod overlays;
mod pause;
pub(super) mod pause_calls;
pub(super) mod pausing;
mod places;
pub(crate) mod reloaded;
pub(super) mod reloads;
pub(crate) mod selection;
pub(super) mod socket;
pub(crate) mod times;
pub mod types;
pub(super) mod view;

/// Where a daemon listens, and where commands look for it.
pub(crate) const SOCKET: &str = "/run/xblade/control.sock";
