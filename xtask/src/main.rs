//! What developers and first users run: `cargo xtask <task>`. One file a task; this one only dispatches.

mod bench;
mod book;
mod cargo;
mod clock;
mod ebpf;
mod func_info;
mod fuzz;
mod lesson;
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
    /// Build the book as a site (with mdBook) and follow its links.
    Book(book::Args),
    /// Fuzz the engine and the readers of config and state files.
    Fuzz(fuzz::Args),
    /// Serve an image to an initiator in a lab of namespaces and check every byte; or run xblade with your arguments.
    Run(run::Args),
    /// A lab of two namespaces to type in, for the lesson "AoE in an evening"; taken down when the shell ends.
    Lab(lesson::Args),
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
        Task::Book(args) => book::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Run(args) => run::run(&args),
        Task::Lab(args) => lesson::run(&args),
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

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn every_call_in_the_book_is_understood() {
        let docs = sh::root().join("docs");
        let entries = std::fs::read_dir(docs)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut seen = 0;
        for path in entries.chain([sh::root().join("README.md")]) {
            let Ok(page) = std::fs::read_to_string(&path) else {
                continue;
            };
            for line in page.lines().filter(|line| line.starts_with("cargo xtask ")) {
                let call = line.split(" #").next().unwrap_or_default();
                let words = call.split_whitespace().skip(1);
                let failed = Args::try_parse_from(words).err();
                let is_wrong = failed.is_some_and(|error| error.kind() != ErrorKind::DisplayHelp);
                assert!(!is_wrong, "{}: {line}", path.display());
                seen += 1;
            }
        }
        assert!(seen > 8, "only {seen} calls were found");
    }
}
