//! `xblade`: parse and dispatch.

use std::process::ExitCode;

use xblade::cli;
use xblade::control::signals::{self, Blocked};

/// Of the thread that does all that is not another thread's. Not the process's first one: `ulimit -s` decides how much that has.
const STACK_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    // Before anything else: nothing that arrives while a daemon starts may end it.
    let before = signals::block();
    let thread = std::thread::Builder::new()
        .name("main".to_owned())
        .stack_size(STACK_BYTES);
    match thread.spawn(move || run(before)) {
        // What a panic said is on its way already; its exit code is that of any program.
        Ok(thread) => thread.join().unwrap_or(ExitCode::from(101)),
        Err(error) => cli::no_thread(&error),
    }
}

fn run(before: Blocked) -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if !cli.command.handles_signals() {
        before.restore();
    }
    cli::run(cli)
}
