//! `xblade`: parse, dispatch, print the error.

use std::process::ExitCode;

use clap::Parser as _;
use xblade::cli::{self, args::Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xblade: {error:#}");
            ExitCode::FAILURE
        }
    }
}
