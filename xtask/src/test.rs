//! `cargo xtask test`: every layer of tests, one line a suite, and at the end a count.
//!
//! Without root only what needs none is run: a test of the lab says by itself what it lacks, and counts as skipped.

mod harness;
mod miri;
mod schedule;
mod suites;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use harness::{Outcome, execute};
use lab::vm::qemu;
use suites::Suite;

use crate::{cargo, clock, fuzz, setup, sim};

/// What the tests need of the distribution.
pub(crate) const PACKAGES: &[&str] = &[
    "iproute2",
    "ethtool",
    "libteam-utils",
    "aoetools",
    "tshark",
    "socat",
    "jq",
    "zsh",
    "fish",
    "fio",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "fdisk",
    "busybox-static",
    "kmod",
    "vblade",
    "xz-utils",
    "g++",
    "ipxe-qemu",
    "ipxe",
    "prometheus",
    "nbdkit",
    "qemu-utils",
    "ceph-mon",
    "ceph-osd",
    "ceph-common",
    "rbd-fuse",
    "dnsmasq-base",
    "debootstrap",
    "grub-common",
    "grub-pc-bin",
];

/// The suite that is no test executable: libFuzzer on the fuzz targets.
const FUZZER: &str = "libfuzzer";
/// The suite that is a program of its own: the simulator.
const SIMULATOR: &str = "sim";
/// The suite that is the engine built anew: loom runs every way in which threads can meet in an export's order.
const LOOM: &str = "loom";
/// The suite that is another compiler's: Miri.
const MIRI: &str = "miri";
/// The priority of what only uses time that is left (`nice 19`).
const LAST: i32 = 19;
/// How long it runs new seeds.
const SIM_SECONDS: u32 = 60;
/// How long it works on each target.
const FUZZ_SECONDS: u32 = 15;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Let the endurance tests run this long.
    #[arg(long, value_name = "MINUTES")]
    soak: Option<u32>,
    /// Run these suites only.
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,
}

/// Builds, runs every suite, prints the report.
pub(crate) fn run(args: &Args) -> Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    if is_root && let Err(error) = setup::ensure(PACKAGES).and_then(|()| qemu::ensure()) {
        // Tests that lack something say so by themselves.
        eprintln!("warning: {error:#}");
    }
    let build = Instant::now();
    // All packages at once: a part of them would be built with other features, and so again.
    let built = cargo::build(&["test", "--no-run", "--locked"])?;
    let xblade = built
        .iter()
        .find(|built| built.target == "xblade" && !built.is_test)
        .context("cargo built no xblade")?;
    let suites = suites::sort(&built, &args.suites, &[FUZZER, LOOM, MIRI])?;
    println!("built in {:.0} s", build.elapsed().as_secs_f64());

    let runner = Runner {
        xblade: xblade.path.clone(),
        soak: args.soak,
        total: Mutex::default(),
    };
    let wanted = |name: &str| args.suites.is_empty() || args.suites.iter().any(|suite| suite == name);
    let (alone, shared): (Vec<Suite>, Vec<Suite>) = suites
        .into_iter()
        .partition(|suite| suite.shares == suites::ALONE);
    std::thread::scope(|scope| {
        scope.spawn(|| runner.programs(wanted));
        schedule::run(&shared, |suite| runner.report(suite));
    });
    schedule::run(&alone, |suite| runner.report(suite));
    let total = runner.total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} passed, {} failed, {} skipped, in {:.0} s",
        total.passed,
        total.failed,
        total.skipped,
        clock::since_the_command_began().as_secs_f64()
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
    fn report(&self, suite: &Suite) {
        let start = Instant::now();
        let outcome =
            execute(suite, &self.xblade, self.soak).unwrap_or_else(|error| Outcome::of_error(&error));
        self.print(&suite.name, &outcome, start);
    }

    /// Builds and runs what are programs of their own, one after the other, in the time that the other suites leave of the CPUs.
    fn programs(&self, wanted: impl Fn(&str) -> bool) {
        // Of this thread alone, and of what it starts.
        if let Err(error) = rustix::process::setpriority_process(None, LAST) {
            eprintln!("warning: the builds cannot be given a lower priority: {error}");
        }
        let start = Instant::now();
        if wanted(FUZZER) {
            self.print(FUZZER, &fuzzing(), start);
        }
        let start = Instant::now();
        if wanted(SIMULATOR) {
            self.print(SIMULATOR, &simulating(), start);
        }
        let start = Instant::now();
        if wanted(MIRI) {
            self.print(MIRI, &miri::run(), start);
        }
        if wanted(LOOM) {
            match suites::explored(LOOM) {
                Ok(suite) => self.report(&suite),
                Err(error) => self.print(LOOM, &Outcome::of_error(&error), Instant::now()),
            }
        }
    }

    /// Prints a suite's line and adds it to the total.
    fn print(&self, name: &str, outcome: &Outcome, start: Instant) {
        // Held while printing: suites must not mix their lines.
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

/// A short run of the simulator.
fn simulating() -> Outcome {
    match sim::run_bounded(SIM_SECONDS) {
        Ok(passed) => Outcome {
            passed,
            ..Outcome::default()
        },
        Err(output) => Outcome {
            failed: 1,
            output,
            ..Outcome::default()
        },
    }
}

/// A short run of the coverage-guided fuzzer on each target.
fn fuzzing() -> Outcome {
    let mut outcome = Outcome::default();
    match fuzz::run_bounded(FUZZ_SECONDS) {
        fuzz::Outcome::Passed(targets) => outcome.passed = targets.len() as u32,
        fuzz::Outcome::Failed(output) => {
            outcome.failed = 1;
            outcome.output = output;
        }
    }
    outcome
}
