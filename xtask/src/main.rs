//! What developers and first users run: `cargo xtask <task>`. One file a task; this one only dispatches.

mod bench;
mod cargo;
mod clock;
mod ebpf;
mod fuzz;
mod run;
mod setup;
mod sh;
mod sim;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, run, test and measure xblade.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests and the eBPF build need (Debian packages; elsewhere print what to install).
    Setup(setup::Args),
    /// Build the kernel half and put it where the user half embeds it from.
    Ebpf(ebpf::Args),
    /// Fuzz the engine and the readers of config and state files.
    Fuzz(fuzz::Args),
    /// Serve an image to an initiator in a lab of namespaces and check every byte; or run xblade with your arguments.
    Run(run::Args),
    /// Measure xblade and the peers installed against each other.
    Bench(bench::Args),
    /// Simulate the target and its initiators, with faults, from seeds.
    #[command(disable_help_flag = true)]
    Sim(sim::Args),
    /// Run the tests, one line a suite.
    Test(test::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::Ebpf(args) => ebpf::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Run(args) => run::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Sim(args) => sim::run(&args),
        Task::Test(args) => test::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
