//! What is not data path: signals, readiness, persistent protocol state, admin socket, metrics.

pub mod preflight;
pub mod state;

use crate::config::Config;

/// Reads the configuration again, for SIGHUP.
pub type Reload = Box<dyn Fn() -> anyhow::Result<Config>>;

/// Serves a validated config until a signal ends it.
///
/// # Errors
/// Whatever keeps it from being served.
pub fn run(config: Config, reload: Option<Reload>) -> anyhow::Result<()> {
    drop((config, reload));
    anyhow::bail!("not built yet")
}
