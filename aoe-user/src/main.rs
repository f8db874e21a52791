//! `xblade`: parse and dispatch.

use std::process::ExitCode;

use clap::Parser as _;
use xblade::cli::{self, args::Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
