//! `cargo xtask sim`: the simulator, a program of its own that is built only here.

use std::process::Command;

use anyhow::Result;

use crate::sh;

/// Options of `cargo xtask sim`: handed on as they are.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The simulator's options; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<String>,
}

/// Builds and runs it; its findings are the user's to see.
pub(crate) fn run(args: &Args) -> Result<()> {
    sh::run(&mut command(&args.options))
}

/// What CI runs: kept plans, planted defects, and new seeds for so long. Gives the number of checks, or what was printed.
pub(crate) fn run_bounded(seconds: u32) -> Result<u32, String> {
    let output = command(&["--suite".into(), "--seconds".into(), seconds.to_string()])
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(said + &String::from_utf8_lossy(&output.stderr));
    }
    let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
    Ok(passed as u32)
}

fn command(options: &[String]) -> Command {
    let mut command = Command::new("cargo");
    // Planted defects are the engine's only in this build.
    command
        .args(["run", "--quiet", "--release", "--package", "xblade-sim"])
        .args(["--features", "mutants", "--"])
        .args(options)
        .current_dir(sh::root());
    command
}
