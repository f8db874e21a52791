//! `xblade`: parse, dispatch, print the error.

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
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xblade: {error:#}");
            ExitCode::FAILURE
        }
    }
}
