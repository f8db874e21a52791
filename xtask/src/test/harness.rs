//! Test executables: running them, and reading what they report.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::suites::Suite;

/// No suite takes longer than this, on the slowest machine, unless it hangs (soaking excepted).
const LONGEST: Duration = Duration::from_secs(1800);

/// What came of a suite.
#[derive(Default)]
pub(super) struct Outcome {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that could not run.
    pub skipped: u32,
    /// Why tests were skipped, and how many.
    pub reasons: BTreeMap<String, u32>,
    /// What to show of a failed suite.
    pub output: String,
}

impl Outcome {
    /// Of a suite that could not be run.
    pub(crate) fn of_error(error: &anyhow::Error) -> Outcome {
        Outcome {
            failed: 1,
            output: format!("{error:#}"),
            ..Outcome::default()
        }
    }

    /// Of a suite that lacks something.
    pub(super) fn skipped(why: &str) -> Outcome {
        Outcome {
            skipped: 1,
            reasons: BTreeMap::from([(why.to_owned(), 1)]),
            ..Outcome::default()
        }
    }

    /// The suite's line of the report. A lone reason for skipping stands on it, several follow, one a line.
    pub(super) fn line(&self, name: &str, took: Duration) -> String {
        let mut line = format!(
            "{name:12} {:>4} passed {:>3} failed {:>3} skipped {:>7.1} s",
            self.passed,
            self.failed,
            self.skipped,
            took.as_secs_f64()
        );
        let reasons: Vec<_> = self.reasons.iter().collect();
        match reasons[..] {
            [(reason, _)] => line += &format!("  skipped: {reason}"),
            _ => line.extend(
                reasons
                    .iter()
                    .map(|(reason, count)| format!("\n{:12} skipped {count}: {reason}", "")),
            ),
        }
        line
    }
}

/// Runs a suite's executables and reads what they report.
pub(super) fn execute(suite: &Suite, xblade: &Path, soak: Option<u32>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (program, tests) in &suite.programs {
        let mut command = Command::new(program);
        command
            .env("XBLADE", xblade)
            .env("RUST_BACKTRACE", "0")
            .env("RUST_LIB_BACKTRACE", "0")
            .current_dir(&suite.directory);
        if !tests.is_empty() {
            command.arg("--exact").args(tests);
        }
        if let Some(minutes) = soak {
            command.env("XBLADE_SOAK_MINUTES", minutes.to_string());
        }
        if suite.threads > 0 {
            command.arg(format!("--test-threads={}", suite.threads));
        }
        let longest = LONGEST + Duration::from_secs(60 * u64::from(soak.unwrap_or(0)));
        let (output, success) = finish(&mut command, longest)?;
        count(&output, success, &mut outcome).with_context(|| format!("{}:\n{output}", program.display()))?;
        if !success {
            outcome.output += &output;
        }
    }
    Ok(outcome)
}

/// Runs a command that runs tests, and reads what they report.
pub(super) fn run(command: &mut Command) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let (output, success) = finish(command, LONGEST)?;
    count(&output, success, &mut outcome).with_context(|| output.clone())?;
    if !success {
        outcome.failed = outcome.failed.max(1);
        outcome.output = output;
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
    fn a_suite_has_one_line_and_more_only_for_several_reasons() {
        let mut outcome = Outcome {
            passed: 2,
            skipped: 3,
            ..Outcome::default()
        };
        outcome.reasons.insert("needs root".to_owned(), 2);
        let line = outcome.line("links", Duration::from_secs(1));
        assert!(
            line.starts_with("links ") && line.ends_with("1.0 s  skipped: needs root"),
            "{line}"
        );
        outcome.reasons.insert("needs fio".to_owned(), 1);
        let lines = outcome.line("links", Duration::from_secs(1));
        assert!(
            lines.contains("\n")
                && lines.contains("skipped 1: needs fio")
                && lines.contains("skipped 2: needs root"),
            "{lines}"
        );
    }

    #[test]
    fn a_harness_that_dies_is_a_failure() {
        let mut outcome = Outcome::default();
        count("running 1 test\n", false, &mut outcome).unwrap();
        assert_eq!(outcome.failed, 1);
        assert!(count("", true, &mut Outcome::default()).is_err());
    }
}
