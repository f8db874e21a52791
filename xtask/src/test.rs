//! `cargo xtask test`: every layer of tests, one line a suite, and at the end a count.
//!
//! Without root only what needs none is run, and the rest is counted as skipped with the reason.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::Executable;
use crate::{cargo, fuzz, setup};

/// What the tests need of the distribution.
const PACKAGES: &[&str] = &[
    "iproute2",
    "ethtool",
    "aoetools",
    "tshark",
    "fio",
    "e2fsprogs",
    "busybox-static",
    "kmod",
    "qemu-system-x86",
    "qemu-utils",
    "ipxe-qemu",
    "ipxe",
];

/// No suite takes longer than this unless it hangs (soaking excepted).
const LONGEST: Duration = Duration::from_secs(900);

/// Suites of the tests package, in the order to run them: name, tests at the same time.
///
/// One that is not listed runs after these, one test at a time.
const ORDER: &[(&str, u32)] = &[
    ("filter", 1),
    ("xsk", 1),
    ("xsk_receive", 1),
    ("vectors", 1),
    ("serving", 2),
    ("exports", 2),
    ("links", 2),
    ("access", 1),
    ("life", 2),
    ("faults", 2),
    ("disk_faults", 2),
    ("kill", 2),
    ("histories", 2),
    ("bench", 1),
    ("aoetools", 2),
    ("dissector", 1),
    ("fuzz", 1),
    ("linux", 2),
    ("paths", 2),
    ("boot", 2),
    ("zerocopy", 1),
    ("power", 2),
    ("soak", 1),
];

/// The suite that is no test executable: cargo-fuzz.
const FUZZER: &str = "libfuzzer";
/// How long it works on each target.
const FUZZ_SECONDS: u32 = 15;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Let the endurance tests run this long.
    #[arg(long, value_name = "MINUTES")]
    soak: Option<u32>,
    /// Run these suites only.
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,
}

/// A suite to run: one line of the report.
struct Suite {
    name: String,
    executables: Vec<PathBuf>,
    threads: u32,
    needs_root: bool,
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    passed: u32,
    failed: u32,
    skipped: u32,
    /// Why tests were skipped, and how many.
    reasons: BTreeMap<String, u32>,
    /// What to show of a failed suite.
    output: String,
}

/// Builds, runs every suite, prints the report.
pub fn run(args: &Args) -> Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    if is_root && let Err(error) = setup::ensure(PACKAGES) {
        // Tests that lack something say so by themselves.
        eprintln!("warning: {error:#}");
    }
    let xblade = cargo::xblade(false)?;
    let packages = ["aoe-common", "aoe-user", "xtask", "xblade-fuzz", "xblade-tests"];
    let mut build = vec!["test", "--no-run"];
    build.extend(packages.iter().flat_map(|package| ["--package", package]));
    let suites = suites(&cargo::build(&build)?, &args.suites)?;

    let mut total = Outcome::default();
    for suite in &suites {
        let start = Instant::now();
        let outcome = if suite.needs_root && !is_root {
            skip(suite)?
        } else {
            execute(suite, &xblade, args.soak)?
        };
        report(&suite.name, &outcome, start, &mut total);
    }
    if args.suites.is_empty() || args.suites.iter().any(|name| name == FUZZER) {
        let start = Instant::now();
        report(FUZZER, &fuzzing(), start, &mut total);
    }
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    if total.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// Prints a suite's line and adds it to the total.
fn report(name: &str, outcome: &Outcome, start: Instant, total: &mut Outcome) {
    println!(
        "{name:12} {:>4} passed {:>3} failed {:>3} skipped {:>7.1} s",
        outcome.passed,
        outcome.failed,
        outcome.skipped,
        start.elapsed().as_secs_f64()
    );
    for (reason, count) in &outcome.reasons {
        println!("{:12} skipped {count}: {reason}", "");
    }
    if outcome.failed > 0 {
        println!("{}", outcome.output);
    }
    total.passed += outcome.passed;
    total.failed += outcome.failed;
    total.skipped += outcome.skipped;
}

/// A short run of the coverage-guided fuzzer on each target.
fn fuzzing() -> Outcome {
    let mut outcome = Outcome::default();
    match fuzz::run_bounded(FUZZ_SECONDS) {
        fuzz::Outcome::Passed(targets) => outcome.passed = targets.len() as u32,
        fuzz::Outcome::Skipped(reason) => {
            outcome.skipped = 1;
            outcome.reasons.insert(reason, 1);
        }
        fuzz::Outcome::Failed(output) => {
            outcome.failed = 1;
            outcome.output = output;
        }
    }
    outcome
}

/// Sorts what was built into suites, and keeps those asked for.
fn suites(executables: &[Executable], wanted: &[String]) -> Result<Vec<Suite>> {
    let tests: Vec<&Executable> = executables
        .iter()
        .filter(|executable| executable.is_test)
        .collect();
    let is_lab = |executable: &&&Executable| executable.package == "tests" && executable.target != "lab";
    let unit = tests
        .iter()
        .filter(|executable| !is_lab(executable))
        .map(|unit| unit.path.clone())
        .collect();
    let mut suites = vec![Suite {
        name: "unit".to_owned(),
        executables: unit,
        threads: 0,
        needs_root: false,
    }];
    let mut lab: Vec<Suite> = tests
        .iter()
        .filter(is_lab)
        .map(|executable| lab_suite(executable))
        .collect();
    let place = |suite: &Suite| {
        ORDER
            .iter()
            .position(|(name, _)| *name == suite.name)
            .unwrap_or(ORDER.len())
    };
    lab.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.name.cmp(&b.name)));
    suites.extend(lab);
    for name in wanted {
        let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
        ensure!(
            name == FUZZER || names.contains(&name.as_str()),
            "there is no suite {name}; there are {}, {FUZZER}",
            names.join(", ")
        );
    }
    suites.retain(|suite| wanted.is_empty() || wanted.contains(&suite.name));
    Ok(suites)
}

fn lab_suite(executable: &Executable) -> Suite {
    let threads = ORDER
        .iter()
        .find(|(name, _)| *name == executable.target)
        .map_or(1, |(_, threads)| *threads);
    Suite {
        name: executable.target.clone(),
        executables: vec![executable.path.clone()],
        threads,
        needs_root: true,
    }
}

/// Counts the tests of a suite that needs root as skipped.
fn skip(suite: &Suite) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for executable in &suite.executables {
        let list = Command::new(executable)
            .args(["--list", "--format", "terse"])
            .output()?;
        let tests = String::from_utf8_lossy(&list.stdout)
            .lines()
            .filter(|line| line.ends_with(": test"))
            .count();
        outcome.skipped += tests as u32;
    }
    outcome.reasons.insert(
        "needs root: `sudo -E env PATH=\"$PATH\" cargo xtask test`".to_owned(),
        outcome.skipped,
    );
    Ok(outcome)
}

/// Runs a suite's executables and reads what they report.
fn execute(suite: &Suite, xblade: &PathBuf, soak: Option<u32>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for executable in &suite.executables {
        let mut command = Command::new(executable);
        command
            .env("XBLADE", xblade)
            .env("RUST_BACKTRACE", "0")
            .env("RUST_LIB_BACKTRACE", "0");
        // Tests with files of their own expect to run in their package, as under cargo.
        command.current_dir(crate::sh::root().join(if suite.needs_root { "tests" } else { "aoe-user" }));
        if let Some(minutes) = soak {
            command.env("XBLADE_SOAK_MINUTES", minutes.to_string());
        }
        if suite.threads > 0 {
            command.arg(format!("--test-threads={}", suite.threads));
        }
        let longest = LONGEST + Duration::from_secs(60 * u64::from(soak.unwrap_or(0)));
        let (output, success) = finish(&mut command, longest)?;
        count(&output, success, &mut outcome)
            .with_context(|| format!("{}:\n{output}", executable.display()))?;
        if !success {
            outcome.output += &output;
        }
    }
    Ok(outcome)
}

/// Runs a command to its end, or kills it after `longest`; returns all it printed and whether it succeeded.
fn finish(command: &mut Command, longest: Duration) -> Result<(String, bool)> {
    let (mut reader, writer) = std::io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    // The command holds the pipe's other end: without this the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let collector = std::thread::spawn(move || {
        let mut output = Vec::new();
        let _ = reader.read_to_end(&mut output);
        String::from_utf8_lossy(&output).into_owned()
    });
    let deadline = Instant::now() + longest;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut output = collector.join().unwrap_or_default();
    if status.is_none() {
        output += &format!("\ntest result: FAILED. 0 passed; 1 failed; killed after {longest:?}\n");
    }
    Ok((output, status.is_some_and(|status| status.success())))
}

/// Adds what a test harness printed: `test result: ok. 3 passed; 0 failed; …`, and `skipped NAME: WHY` of tests that
/// could not run, which the harness counts as passed.
fn count(output: &str, success: bool, outcome: &mut Outcome) -> Result<()> {
    let mut reported = false;
    let mut skipped = 0;
    for line in output.lines() {
        if let Some(result) = line.strip_prefix("test result: ") {
            reported = true;
            outcome.passed += number_before(result, " passed");
            outcome.failed += number_before(result, " failed");
            let ignored = number_before(result, " ignored");
            outcome.skipped += ignored;
            if ignored > 0 {
                *outcome.reasons.entry("marked as ignored".to_owned()).or_default() += ignored;
            }
        }
        // The harness may have written to the beginning of the line.
        if let Some((_, rest)) = line.split_once("skipped ")
            && let Some((test, why)) = rest.split_once(": ")
            && test.contains("::")
            && !test.contains(' ')
        {
            skipped += 1;
            *outcome.reasons.entry(why.to_owned()).or_default() += 1;
        }
    }
    outcome.skipped += skipped;
    outcome.passed = outcome.passed.saturating_sub(skipped);
    if !reported {
        if success {
            bail!("it succeeded without a result");
        }
        outcome.failed += 1;
    }
    Ok(())
}

/// The number that stands before `what`, 0 where there is none.
fn number_before(text: &str, what: &str) -> u32 {
    let Some((before, _)) = text.split_once(what) else {
        return 0;
    };
    before
        .rsplit([' ', ';', '.'])
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_and_skipped_tests_are_not_counted_as_passed() {
        let mut outcome = Outcome::default();
        let output = "running 3 tests\nskipped a::b: needs root\ntest a::b ... ok\n\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        count(output, true, &mut outcome).unwrap();
        assert_eq!((outcome.passed, outcome.failed, outcome.skipped), (2, 0, 2));
        assert_eq!(outcome.reasons["needs root"], 1);
    }

    #[test]
    fn a_harness_that_dies_is_a_failure() {
        let mut outcome = Outcome::default();
        count("running 1 test\n", false, &mut outcome).unwrap();
        assert_eq!(outcome.failed, 1);
        assert!(count("", true, &mut Outcome::default()).is_err());
    }
}
