//! The command line: one file for each subcommand, all arguments in [`args`].

pub mod args;
mod bench;
mod check;
mod create;
mod daemon;
mod doctor;
mod manual;
mod serve;
mod state;
mod table;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};

use crate::config::Config;
use crate::config::file::Origin;
use crate::config::interfaces;
use crate::config::problem::Problem;
use crate::config::validate::{Report, validate};
use crate::control::preflight::{preflight, raise_descriptors};

/// Does what the command line says.
///
/// # Errors
/// Whatever kept it from being done, for the person who typed it.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    log_to_stderr(&cli.log)?;
    raise_descriptors();
    match cli.command {
        Command::Serve(args) => serve::run(*args),
        Command::Daemon(args) => daemon::run(args),
        Command::Check(args) => check::run(&args),
        Command::Create(args) => create::run(&args),
        Command::State(args) => state::run(args.action),
        Command::Bench(mut args) => {
            args.interface = interfaces::real_name(&args.interface);
            bench::run(&args)
        }
        Command::Doctor(mut args) => {
            args.interface = interfaces::real_name(&args.interface);
            doctor::run(&args)
        }
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { dir } => manual::man(dir.as_deref()),
    }
}

fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    Ok(())
}

/// Holds the config against this machine.
fn validate_here(config: &Config) -> anyhow::Result<Report> {
    let interfaces = interfaces::list().context("cannot list the network interfaces")?;
    Ok(validate(config, &interfaces))
}

/// Holds the config against this machine; all that speaks against it is told at once.
fn fit_to_serve(config: Config, origin: Option<&Origin>) -> anyhow::Result<Config> {
    let host = preflight(&config);
    let report = validate_here(&config)?;
    report.log_warnings();
    let mut problems = report.problems(origin);
    match host {
        Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
        Err(error) => problems.0.insert(
            0,
            Problem {
                message: error.to_string(),
                place: None,
            },
        ),
    }
    if problems.0.is_empty() {
        Ok(config)
    } else {
        Err(problems.into())
    }
}
