//! xblade.
use clap::Parser;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Bench(xblade::cli::bench::BenchArgs),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let Command::Bench(args) = Args::parse().command;
    xblade::cli::bench::run(&args)
}
