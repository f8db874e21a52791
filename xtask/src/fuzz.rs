//! `cargo xtask fuzz`: cargo-fuzz for a bounded time, beginning with the seeds.
//!
//! Fuzzing needs the nightly compiler's instrumentation. Where there is none, the same trials run on the seeds and changes
//! of them as ordinary tests of the package `xblade-fuzz`.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::sh;

/// The fuzz targets: `fuzz/fuzz_targets/`.
const TARGETS: [&str; 3] = ["frame", "config", "state"];

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// How long to fuzz each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// This one only.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
}

/// What came of a bounded run.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing was found; one line for each target with the number of inputs tried.
    Passed(Vec<String>),
    /// It cannot run here, and why.
    Skipped(String),
    /// An input that breaks a rule, or a build that failed: what the fuzzer printed.
    Failed(String),
}

/// Fuzzes for the user, who sees all of it.
pub fn run(args: &Args) -> Result<()> {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return Ok(());
    }
    seeds()?;
    for target in TARGETS
        .iter()
        .filter(|name| args.target.as_deref().is_none_or(|only| only == **name))
    {
        sh::run(&mut command(target, args.seconds)).with_context(|| {
            format!("the fuzzer has found something; put the input that it names into fuzz/seeds/{target}/ once fixed")
        })?;
    }
    Ok(())
}

/// Fuzzes each target for so long and keeps what the fuzzer prints to itself.
pub fn run_bounded(seconds: u32) -> Outcome {
    if let Some(reason) = missing() {
        return Outcome::Skipped(reason);
    }
    if let Err(error) = seeds() {
        return Outcome::Failed(format!("{error:#}"));
    }
    let mut lines = Vec::new();
    for target in TARGETS {
        match quietly(&mut command(target, seconds)) {
            Ok(said) => lines.push(format!("{target}: {}", inputs(&said))),
            Err(error) => return Outcome::Failed(format!("{target}: {error:#}")),
        }
    }
    Outcome::Passed(lines)
}

/// Why fuzzing cannot run here. Installs cargo-fuzz where only that is missing.
fn missing() -> Option<String> {
    let toolchains = sh::output(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let nightly = |line: &str| line.starts_with("nightly");
    if !String::from_utf8_lossy(&toolchains).lines().any(nightly) {
        return Some("no nightly toolchain (rustup toolchain install nightly)".into());
    }
    if sh::find("c++").is_none() {
        return Some("no C++ compiler, which libFuzzer is built with (apt-get install g++)".into());
    }
    let installed = sh::output(Command::new("cargo").args(["fuzz", "--version"])).is_ok();
    if !installed
        && let Err(error) = sh::run(Command::new("cargo").args(["install", "cargo-fuzz", "--locked"]))
    {
        return Some(format!("cargo-fuzz cannot be installed: {error:#}"));
    }
    None
}

/// Puts the seeds where the fuzzer keeps what it finds worth remembering.
fn seeds() -> Result<()> {
    sh::run(
        Command::new("cargo")
            .args([
                "run",
                "--quiet",
                "--package",
                "xblade-fuzz",
                "--example",
                "seeds",
                "--",
                "fuzz/corpus",
            ])
            .current_dir(sh::root()),
    )
}

fn command(target: &str, seconds: u32) -> Command {
    let mut command = Command::new("rustup");
    command
        // What is fuzzed is safe Rust: its own checks find more than a sanitizer would, at twice the pace.
        .args([
            "run",
            "nightly",
            "cargo",
            "fuzz",
            "run",
            "--sanitizer",
            "none",
            "--features",
            "libfuzzer",
            target,
            "--",
        ])
        .args([
            "-max_len=16384",
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ])
        .arg(format!("-max_total_time={seconds}"))
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .current_dir(sh::root().join("fuzz"));
    command
}

/// Runs a command and returns all it prints; when it fails, the end of that is the error.
fn quietly(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", sh::line(command)))?;
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        bail!(
            "`{}`:\n{}",
            sh::line(command),
            lines[lines.len().saturating_sub(40)..].join("\n")
        );
    }
    Ok(said)
}

/// The fuzzer's own count of inputs tried.
fn inputs(said: &str) -> String {
    let count = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    format!("{} inputs", count.map_or("?", str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_found() {
        let said = "Done 17 runs\nstat::number_of_executed_units: 17\nstat::average_exec_per_sec: 8\n";
        assert_eq!(inputs(said), "17 inputs");
        assert_eq!(inputs("nothing"), "? inputs");
    }

    #[test]
    fn every_target_has_a_file() {
        for target in TARGETS {
            assert!(
                sh::root()
                    .join(format!("fuzz/fuzz_targets/{target}.rs"))
                    .is_file(),
                "{target}"
            );
        }
    }
}
