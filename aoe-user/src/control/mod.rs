//! What is not data path: signals, readiness, persistent protocol state, admin socket, metrics.

pub mod preflight;

use crate::config::Config;

/// Serves a validated config until a signal ends it.
///
/// # Errors
/// Whatever keeps it from being served.
pub fn run(config: Config) -> anyhow::Result<()> {
    let _ = config;
    anyhow::bail!("not built yet")
}
