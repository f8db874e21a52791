//! What was built, sorted into suites, and what each takes of the machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::{self, Executable};
use crate::sh;

/// A suite to run: one line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suite {
    /// What it is called on the command line.
    pub name: String,
    /// Test programs, each with the names of its tests to run; none: all.
    pub programs: Vec<(PathBuf, Vec<String>)>,
    /// Where they run: in their package, as under cargo.
    pub directory: PathBuf,
    /// Tests at the same time; 0: as many as there are CPUs.
    pub threads: u32,
    /// What it takes of the machine: [`WAITS`], [`BUSY`], more, or [`ALONE`].
    pub shares: usize,
}

/// Parts that a CPU has.
pub(crate) const PER_CPU: usize = 2;
/// A suite that mostly waits, for timers, disks that hang, retransmissions.
const WAITS: usize = 1;
/// One that keeps a CPU busy, such as emulated machines, or is about what happens in time.
const BUSY: usize = PER_CPU;
/// The machine for itself.
pub(crate) const ALONE: usize = usize::MAX;

/// Suites of the lab in the order to start them, the long ones first: name, tests at the same time, shares of the CPUs.
///
/// One that is not listed comes after those that are not alone, one test at a time, and mostly waits.
const LAB: &[(&str, u32, usize)] = &[
    ("power", 1, BUSY),
    ("drivers", 1, BUSY),
    ("room", 1, BUSY),
    ("systemd", 1, BUSY),
    ("debian_root", 1, BUSY),
    ("book", 1, BUSY),
    ("rbd", 1, WAITS),
    ("stuck_disk", 3, WAITS),
    ("linux", 1, BUSY),
    ("failover", 1, BUSY),
    ("boot", 1, BUSY),
    ("paths", 2, WAITS),
    ("kill", 2, WAITS),
    ("histories", 2, BUSY),
    ("bonds", 1, BUSY),
    ("backing", 1, BUSY),
    ("degraded", 1, BUSY),
    ("overlay", 1, WAITS),
    ("disk_faults", 2, WAITS),
    ("filter", 1, WAITS),
    ("xsk", 1, WAITS),
    ("xsk_receive", 1, WAITS),
    ("vectors", 1, WAITS),
    ("serving", 2, WAITS),
    ("exports", 2, WAITS),
    ("links", 2, WAITS),
    ("life", 2, WAITS),
    ("faults", 2, WAITS),
    ("limits", 1, WAITS),
    ("aoetools", 2, WAITS),
    // What they are about is how soon something happens.
    ("hung_disk", 1, ALONE),
    ("signals", 1, ALONE),
    ("isolation", 1, ALONE),
    ("bench", 1, ALONE),
    ("fuzz", 1, ALONE),
    ("soak", 1, ALONE),
];

/// Sorts what was built into suites: one for each package's own tests, by the name of its directory, and one for each
/// module of the lab.
///
/// # Errors
/// When a test program does not list its tests, or a wanted suite does not exist; `others` exist besides.
pub(super) fn sort(executables: &[Executable], wanted: &[String], others: &[&str]) -> Result<Vec<Suite>> {
    let mut unit: BTreeMap<String, Suite> = BTreeMap::new();
    let mut lab = Vec::new();
    for executable in executables.iter().filter(|executable| executable.is_test) {
        if executable.target == "lab" && executable.package == "tests" {
            lab = of_lab(executable, &list(&executable.path)?);
        } else {
            let suite = unit
                .entry(executable.package.clone())
                .or_insert_with(|| of_package(executable));
            suite.programs.push((executable.path.clone(), Vec::new()));
        }
    }
    let place = |suite: &Suite| {
        let listed = LAB.iter().position(|(name, ..)| *name == suite.name);
        listed.unwrap_or_else(|| LAB.iter().take_while(|(.., shares)| *shares != ALONE).count())
    };
    lab.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.name.cmp(&b.name)));
    let mut suites: Vec<Suite> = unit.into_values().chain(lab).collect();
    let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
    for name in wanted {
        ensure!(
            names.contains(&name.as_str()) || others.contains(&name.as_str()),
            "there is no suite {name}; there are {}, {}",
            names.join(", "),
            others.join(", ")
        );
    }
    suites.retain(|suite| wanted.is_empty() || wanted.contains(&suite.name));
    Ok(suites)
}

/// The tests of the engine that loom runs, built for it.
///
/// # Errors
/// When they cannot be built.
pub(super) fn explored(name: &str) -> Result<Suite> {
    let directory = sh::root().join("target/loom");
    let directory = directory.to_str().context("an odd path of the workspace")?;
    let args = [
        "test",
        "--no-run",
        "--locked",
        "--package",
        "engine",
        "--lib",
        "--target-dir",
        directory,
    ];
    let built = cargo::build_as(&args, Some("--cfg loom"))?;
    let engine = built.iter().find(|built| built.is_test);
    let engine = engine.context("cargo built no tests of the engine")?;
    let mut tests = list(&engine.path)?;
    tests.retain(|test| test.starts_with("tests::loom::"));
    ensure!(!tests.is_empty(), "the engine has no tests for loom");
    Ok(Suite {
        name: name.to_owned(),
        programs: vec![(engine.path.clone(), tests)],
        ..of_package(engine)
    })
}

/// A package's own tests.
fn of_package(executable: &Executable) -> Suite {
    Suite {
        name: executable.package.clone(),
        programs: Vec::new(),
        directory: executable.directory.clone(),
        threads: 0,
        shares: 2 * PER_CPU,
    }
}

/// The modules of the lab's test program.
fn of_lab(executable: &Executable, tests: &[String]) -> Vec<Suite> {
    let mut modules: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for test in tests {
        let module = test.split_once("::").map_or("lab", |(module, _)| module);
        modules.entry(module).or_default().push(test.clone());
    }
    let suites = modules.into_iter().map(|(module, tests)| {
        let listed = LAB.iter().find(|(name, ..)| *name == module);
        let (_, threads, shares) = listed.copied().unwrap_or((module, 1, WAITS));
        Suite {
            name: module.to_owned(),
            programs: vec![(executable.path.clone(), tests)],
            directory: executable.directory.clone(),
            threads,
            shares,
        }
    });
    suites.collect()
}

/// The names of the tests in a test program.
fn list(program: &PathBuf) -> Result<Vec<String>> {
    let listed = sh::output(Command::new(program).args(["--list", "--format", "terse"]))
        .with_context(|| format!("listing the tests of {}", program.display()))?;
    Ok(String::from_utf8_lossy(&listed)
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(tests: &[&str]) -> Vec<Suite> {
        let executable = Executable {
            target: "lab".to_owned(),
            package: "tests".to_owned(),
            directory: "/tests".into(),
            is_test: true,
            path: "/lab".into(),
        };
        let tests: Vec<String> = tests.iter().map(|test| (*test).to_owned()).collect();
        of_lab(&executable, &tests)
    }

    #[test]
    fn a_module_is_a_suite_with_exactly_its_tests() {
        let suites = lab(&["faults::a", "disk_faults::faults::a", "soak::b", "every_file"]);
        let by_name = |name: &str| {
            let suite = suites.iter().find(|suite| suite.name == name);
            suite.map(|suite| (suite.programs[0].1.join(" "), suite.shares))
        };
        assert_eq!(by_name("faults"), Some(("faults::a".to_owned(), WAITS)));
        assert_eq!(
            by_name("disk_faults"),
            Some(("disk_faults::faults::a".to_owned(), WAITS))
        );
        assert_eq!(by_name("soak"), Some(("soak::b".to_owned(), ALONE)));
        assert_eq!(by_name("lab"), Some(("every_file".to_owned(), WAITS)));
    }
}
