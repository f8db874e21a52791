//! `cargo xtask test`: every layer of tests, one line a suite, and at the end a count.
//!
//! Without root only what needs none is run: a test of the lab says by itself what it lacks, and counts as skipped.

mod harness;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use harness::{Outcome, execute};
use lab::vm::qemu;

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
    "vblade",
    "ipxe-qemu",
    "ipxe",
];

/// Suites that run at the same time: most of their time they wait for silence, for timers, for guests.
const LANES: usize = 2;

/// Suites of the tests package, in the order to start them, the long ones first: name, tests at the same time.
///
/// One that is not listed starts after these, one test at a time.
const ORDER: &[(&str, u32)] = &[
    ("filter", 1),
    ("xsk", 1),
    ("xsk_receive", 1),
    ("vectors", 1),
    ("histories", 2),
    ("linux", 1),
    ("paths", 2),
    ("power", 1),
    ("boot", 1),
    ("zerocopy", 1),
    ("serving", 2),
    ("exports", 2),
    ("links", 2),
    ("access", 1),
    ("life", 2),
    ("faults", 2),
    ("disk_faults", 2),
    ("kill", 2),
    ("aoetools", 2),
    ("dissector", 1),
];

/// Suites that want the machine for themselves; they run at the end.
const ALONE: &[&str] = &["bench", "fuzz", "soak"];
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
    /// From the tests package, as opposed to unit tests.
    is_lab: bool,
    alone: bool,
}

/// Builds, runs every suite, prints the report.
pub fn run(args: &Args) -> Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    if is_root && let Err(error) = setup::ensure(PACKAGES).and_then(|()| qemu::ensure()) {
        // Tests that lack something say so by themselves.
        eprintln!("warning: {error:#}");
    }
    let xblade = cargo::xblade(false)?;
    let packages = [
        "aoe-common",
        "engine",
        "initiator",
        "store",
        "xblade",
        "xblade-fuzz",
        "xblade-tests",
        "xsk",
        "xtask",
    ];
    let mut build = vec!["test", "--no-run"];
    build.extend(packages.iter().flat_map(|package| ["--package", package]));
    let suites = suites(&cargo::build(&build)?, &args.suites)?;

    let runner = Runner {
        xblade,
        soak: args.soak,
        total: Mutex::default(),
    };
    let (shared, alone): (Vec<Suite>, Vec<Suite>) = suites.into_iter().partition(|suite| !suite.alone);
    let queue = Mutex::new(shared.into_iter());
    std::thread::scope(|scope| {
        let lane = || {
            loop {
                let next = lock(&queue).next();
                let Some(suite) = next else { return Ok(()) };
                runner.report(&suite)?;
            }
        };
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        lanes
            .into_iter()
            .try_for_each(|lane| lane.join().unwrap_or_else(|_| bail!("a lane panicked")))
    })?;
    for suite in &alone {
        runner.report(suite)?;
    }
    if args.suites.is_empty() || args.suites.iter().any(|name| name == FUZZER) {
        let start = Instant::now();
        runner.print(FUZZER, &fuzzing(), start);
    }
    let total = runner.total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    if !is_root && total.skipped > 0 {
        println!("what needs root: sudo -E env PATH=\"$PATH\" cargo xtask test");
    }
    if total.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs suites and adds up what comes of them.
struct Runner {
    xblade: PathBuf,
    soak: Option<u32>,
    total: Mutex<Outcome>,
}

impl Runner {
    /// Runs a suite and prints its line.
    fn report(&self, suite: &Suite) -> Result<()> {
        let start = Instant::now();
        let outcome = execute(suite, &self.xblade, self.soak)?;
        self.print(&suite.name, &outcome, start);
        Ok(())
    }

    /// Prints a suite's line and adds it to the total.
    fn print(&self, name: &str, outcome: &Outcome, start: Instant) {
        // Held while printing: lanes must not mix their lines.
        let mut total = lock(&self.total);
        println!("{}", outcome.line(name, start.elapsed()));
        if outcome.failed > 0 {
            println!("{}", outcome.output);
        }
        total.passed += outcome.passed;
        total.failed += outcome.failed;
        total.skipped += outcome.skipped;
    }
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
        is_lab: false,
        alone: false,
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
        is_lab: true,
        alone: ALONE.contains(&executable.target.as_str()),
    }
}
