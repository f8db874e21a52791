//! `xblade`: parse and dispatch.

use std::process::ExitCode;

use clap::Parser as _;
use xblade::cli::{self, args::Cli};
use xblade::control::signals;

fn main() -> ExitCode {
    // Before anything else: nothing that arrives while a daemon starts may end it.
    let before = signals::block();
    let cli = Cli::parse();
    if !cli.command.handles_signals() {
        before.restore();
    }
    cli::run(cli)
}
