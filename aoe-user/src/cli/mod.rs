//! The command line: one file for each subcommand, all arguments in [`args`].

pub mod args;
mod bench;
#[cfg(test)]
mod book;
mod check;
mod create;
mod daemon;
mod doctor;
mod import;
mod interrupt;
mod live;
mod log;
mod manual;
mod output;
mod serve;
mod state;
mod table;
#[cfg(feature = "top")]
mod top;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use serde_json::json;

use args::{Cli, CliCommand};
use live::NoTarget;
use log::Log;
use output::{Closed, Shown};

use crate::config::Config;
use crate::config::file::Origin;
use crate::config::problem::{Problem, Problems};
use crate::config::validate::{Report, SettingNames, contradictions, validate};
use crate::control::api::types::SCHEMA;
use crate::control::preflight::{preflight, raise_descriptors};
use crate::host;

/// Reads the command line; `Err`: the process ends with this code, and all is said.
pub fn parse() -> Result<Cli, ExitCode> {
    let mut error = match try_parse() {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if error.use_stderr() {
        // "To pass '-s' as a value, use '-- -s'": nobody who mistypes an option means that.
        if error.kind() == ErrorKind::UnknownArgument {
            error.insert(ContextKind::Suggested, ContextValue::None);
        }
        // There is nobody else to tell.
        let _ = error.print();
        return Err(ExitCode::from(2));
    }
    let text = error.render();
    let told = match std::io::stdout().is_terminal() {
        true => output::print(text.ansi()),
        false => output::print(text),
    };
    match told {
        Err(failure) if !failure.is::<Closed>() => {
            let _ = writeln!(std::io::stderr(), "xblade: {failure:#}");
            Err(ExitCode::FAILURE)
        }
        _ => Err(ExitCode::SUCCESS),
    }
}

fn try_parse() -> Result<Cli, clap::Error> {
    let mut matches = Cli::command().try_get_matches()?;
    let json = has_json(&matches);
    let mut cli =
        Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut Cli::command()))?;
    cli.json = json;
    Ok(cli)
}

/// Whether `--json` is there, of whatever subcommand.
fn has_json(mut matches: &ArgMatches) -> bool {
    while let Some((_, of_command)) = matches.subcommand() {
        matches = of_command;
    }
    matches!(matches.try_get_one("json"), Ok(Some(true)))
}

/// Does what the command line says, and says itself what kept it from being done.
pub fn run(cli: Cli) -> ExitCode {
    let log = match Log::start(cli.log.as_deref()) {
        Ok(log) => log,
        Err(error) => return no_thread(&error),
    };
    let json = cli.json;
    match command(cli.command, &log) {
        Ok(code) => code,
        // As with other tools: `xblade check | head -1` is no failure.
        Err(error) if error.is::<Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            log.failure(&format!("{error:#}"));
            if json && !error.is::<Shown>() {
                // There is nobody else to tell.
                let _ = output::line(json!({ "schema": SCHEMA, "error": format!("{error:#}") }));
            }
            if error.is::<NoTarget>() {
                ExitCode::from(live::NO_TARGET)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Says what keeps the process from starting a thread, without the one that writes the log.
pub fn no_thread(error: &std::io::Error) -> ExitCode {
    let why = crate::store::limits::no_thread(error);
    // There is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "xblade: cannot start: {why}");
    ExitCode::FAILURE
}

fn command(command: CliCommand, log: &Log) -> anyhow::Result<ExitCode> {
    raise_descriptors();
    match command {
        CliCommand::Status(args) => return live::status(&args),
        CliCommand::Ls(args) => return live::ls(&args),
        CliCommand::Stat(args) => return live::stat(&args),
        #[cfg(feature = "top")]
        CliCommand::Top(args) => return top::top(&args),
        CliCommand::Import(args) => return import::run(&args),
        CliCommand::Initiators(args) => return live::initiators(&args),
        CliCommand::Denied(args) => return live::denied(&args),
        CliCommand::Reload(args) => return live::reload(&args),
        CliCommand::Export(args) => return live::export(args.action),
        CliCommand::Failover(args) => return live::failover(args.action),
        CliCommand::Overlay(args) => return live::overlay(args.action),
        CliCommand::Log(args) => return live::log(&args),
        CliCommand::Dump(args) => return live::dump(&args),
        CliCommand::Metrics(args) => return live::metrics(&args),
        CliCommand::Discover(args) => return live::discover(&args),
        CliCommand::Serve(args) => serve::run(*args, log),
        CliCommand::Daemon(args) => daemon::run(args, log),
        CliCommand::Check(args) => check::run(&args),
        CliCommand::Create(args) => create::run(&args),
        CliCommand::State(args) => state::run(args.action),
        CliCommand::Bench(mut args) => {
            args.interface = host::real_name(&args.interface);
            bench::run(&args)
        }
        CliCommand::Doctor(mut args) => {
            args.interfaces
                .iter_mut()
                .for_each(|name| *name = host::real_name(name));
            doctor::run(&args)
        }
        CliCommand::Completions { shell } => manual::completions(shell),
        CliCommand::Man { dir } => manual::man(dir.as_deref()),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Holds the config against this machine.
fn validate_here(config: &Config, words: SettingNames) -> anyhow::Result<Report> {
    let interfaces = host::interfaces().context("cannot list the network interfaces")?;
    Ok(validate(config, &interfaces, words))
}

/// Holds the config against this machine; all that speaks against it is told at once.
fn fit_to_serve(config: Config) -> anyhow::Result<Config> {
    let report = validate_here(&config, SettingNames::Options)?;
    report.log_warnings();
    refuse(host_problems(&config), &report, None)?;
    Ok(config)
}

/// Refuses what no machine could serve, and a host that never can. What this machine lacks now (a file, an interface) may come.
fn fit_to_wait(config: Config, origin: Option<&Origin>) -> anyhow::Result<Config> {
    let words = origin.map_or(SettingNames::Options, |_| SettingNames::File);
    let report = contradictions(&config, words);
    report.log_warnings();
    refuse(host_problems(&config), &report, origin)?;
    Ok(config)
}

/// What the host lacks for good: a kernel that is new enough, rights.
fn host_problems(config: &Config) -> Problems {
    match preflight(config) {
        Ok(warnings) => {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            Problems(Vec::new())
        }
        Err(error) => Problems(vec![Problem {
            message: error.to_string(),
            place: None,
        }]),
    }
}

fn refuse(mut problems: Problems, report: &Report, origin: Option<&Origin>) -> anyhow::Result<()> {
    problems.0.extend(report.problems(origin).0);
    if problems.0.is_empty() {
        Ok(())
    } else {
        Err(problems.into())
    }
}
