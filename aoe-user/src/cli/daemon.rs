//! `xblade daemon`: every export of a config file.

use anyhow::bail;

use crate::config::Config;
use crate::config::file::{self, ConfigFile};

use super::args::DaemonArgs;

pub(super) fn run(args: DaemonArgs) -> anyhow::Result<()> {
    let file = read(&args)?;
    let reload = Box::new(move || reread(&args));
    super::serve_config(file.config, Some(&file.origin), Some(reload))
}

fn read(args: &DaemonArgs) -> anyhow::Result<ConfigFile> {
    let mut file = file::load(&args.config)?;
    file.config.state_dir = Some(args.state_dir.clone());
    file.config.force = args.force;
    Ok(file)
}

/// The file as it is now, if it can be served.
fn reread(args: &DaemonArgs) -> anyhow::Result<Config> {
    let file = read(args)?;
    let report = super::validate_here(&file.config)?;
    let problems = report.problems(Some(&file.origin));
    report.log_warnings();
    if problems.0.is_empty() {
        Ok(file.config)
    } else {
        bail!(problems)
    }
}
