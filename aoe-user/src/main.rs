//! `xblade`: parse and dispatch.

use std::process::ExitCode;

use xblade::cli;
use xblade::control::signals;

fn main() -> ExitCode {
    // Before anything else: nothing that arrives while a daemon starts may end it.
    let before = signals::block();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if !cli.command.handles_signals() {
        before.restore();
    }
    cli::run(cli)
}
