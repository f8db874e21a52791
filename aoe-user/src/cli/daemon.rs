//! `xblade daemon`: every export of a config file.

use crate::config::{Config, file};
use crate::control;

use super::args::DaemonArgs;

pub(super) fn run(args: DaemonArgs) -> anyhow::Result<()> {
    let config = config(&args)?;
    control::run(config, Some(Box::new(move || self::config(&args))))
}

/// Reads the file: at start, and at each SIGHUP.
fn config(args: &DaemonArgs) -> anyhow::Result<Config> {
    let mut file = file::load(&args.config)?;
    file.config.state_dir = Some(args.state_dir.clone());
    file.config.force = args.force;
    super::fit_to_serve(file.config, Some(&file.origin))
}
