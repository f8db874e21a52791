//! `xblade daemon`: every export of a config file.

use crate::config::file;

use super::args::DaemonArgs;

pub(super) fn run(args: DaemonArgs) -> anyhow::Result<()> {
    let mut file = file::load(&args.config)?;
    file.config.state_dir = Some(args.state_dir);
    file.config.force = args.force;
    super::serve_config(file.config, Some(&file.origin))
}
