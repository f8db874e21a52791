//! `cargo xtask fuzz`: libFuzzer for a bounded time, beginning with the seeds.
//!
//! What is fuzzed is safe Rust: its own checks find what a sanitizer would. So there is need of the coverage's instrumentation
//! alone, which every LLVM has, and with it of no nightly compiler; and of a C++ compiler, for libFuzzer itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cargo, setup, sh};

/// The fuzz targets: `fuzz/fuzz_targets/`.
const TARGETS: [&str; 3] = ["frame", "config", "state"];

/// What libFuzzer needs to see which way an input took.
const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to fuzz each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// This one only.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
}

/// What came of a bounded run.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing was found; one line for each target with the number of inputs tried.
    Passed(Vec<String>),
    /// An input that breaks a rule, or a build that failed: what the fuzzer printed.
    Failed(String),
}

/// Fuzzes for the user, who sees all of it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let built = build()?;
    seeds()?;
    for target in TARGETS
        .iter()
        .filter(|name| args.target.as_deref().is_none_or(|only| only == **name))
    {
        sh::run(&mut command(&built, target, args.seconds)?).with_context(|| {
            format!("the fuzzer has found something; put the input that it names into fuzz/seeds/{target}/ once fixed")
        })?;
    }
    Ok(())
}

/// Fuzzes each target for so long and keeps what the fuzzer prints to itself.
pub(crate) fn run_bounded(seconds: u32) -> Outcome {
    let tried = || -> Result<Vec<String>> {
        let built = build()?;
        seeds()?;
        let mut lines = Vec::new();
        for target in TARGETS {
            let said = quietly(&mut command(&built, target, seconds)?).context(target)?;
            lines.push(format!("{target}: {}", inputs(&said)));
        }
        Ok(lines)
    };
    match tried() {
        Ok(lines) => Outcome::Passed(lines),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// Builds the fuzz targets and returns the directory that they are in.
fn build() -> Result<PathBuf> {
    setup::ensure(&["g++"])?;
    let version = String::from_utf8(sh::output(Command::new("rustc").arg("-vV"))?)?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc names no host")?;
    let directory = sh::root().join("target/fuzz");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(sh::root())
        .env("RUSTFLAGS", INSTRUMENTED)
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "xblade-fuzz",
            "--bins",
        ])
        // A target of its own, so that build scripts and macros are not instrumented.
        .args(["--features", "libfuzzer", "--target", host, "--target-dir"])
        .arg(&directory);
    sh::run(&mut cargo)?;
    Ok(directory.join(host).join("release"))
}

/// Puts the seeds where the fuzzer keeps what it finds worth remembering.
fn seeds() -> Result<()> {
    // All packages' examples: with the features that the tests are built with.
    let built = cargo::build(&["build", "--examples", "--locked"])?;
    let seeds = built
        .iter()
        .find(|built| built.target == "seeds" && built.package == "fuzz")
        .context("cargo built no seeds")?;
    sh::run(
        Command::new(&seeds.path)
            .arg("fuzz/corpus")
            .current_dir(sh::root()),
    )
}

fn command(built: &Path, target: &str, seconds: u32) -> Result<Command> {
    let fuzz = sh::root().join("fuzz");
    for directory in ["corpus", "artifacts"] {
        std::fs::create_dir_all(fuzz.join(directory).join(target))?;
    }
    let mut command = Command::new(built.join(target));
    command
        .args([
            "-max_len=16384",
            "-timeout=60",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix=artifacts/{target}/"))
        .arg(format!("corpus/{target}"))
        .current_dir(fuzz);
    Ok(command)
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
