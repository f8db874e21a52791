//! `xblade daemon`: every export of a config file.

use std::sync::Arc;

use crate::config::{Config, file};
use crate::control::{self, Service};

use super::args::DaemonArgs;
use super::live::args::socket;
use super::log::Log;

pub(super) fn run(args: DaemonArgs, log: &Log) -> anyhow::Result<()> {
    control::run(Service {
        control: Some(socket(args.control.clone())),
        set_log: log.changer(),
        read_log: log.reader(),
        load: Arc::new(move || config(&args)),
        reloads: true,
        must_start: false,
    })
}

/// Reads the file: at start, and at each SIGHUP.
fn config(args: &DaemonArgs) -> anyhow::Result<Config> {
    let mut file = file::load(&args.config)?;
    file.config.state_dir = Some(args.state_dir.clone());
    file.config.state_required = args.state_required;
    file.config.force = args.force;
    super::fit_to_wait(file.config, Some(&file.origin))
}
