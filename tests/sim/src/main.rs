//! `xblade-sim`: runs seeds. `docs/testing.md` has the chapter.

mod suite;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Parser;
use sim::known::Known;
use sim::mutants::Mutant;
use sim::oracle::Violation;
use sim::plan::Plan;
use sim::search::{Finding, Report, Search};
use sim::seeds::{self, Kept};
use sim::{shrink, world};

/// Lines of a trace that are printed.
const LINES: usize = 200;
/// How long a failing plan is made smaller.
const SHRINKING: Duration = Duration::from_secs(30);

/// Simulate the target and its initiators: many runs, each from a seed that reproduces it.
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Args {
    /// Run this seed only and print its end; with --seconds or --swarm: begin with it.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run new seeds for so long.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// On every CPU, with larger and longer runs.
    #[arg(long)]
    swarm: bool,
    /// Gateways to an image in Ceph, in place of one target with disks.
    #[arg(long)]
    gateways: bool,
    /// Known faults fail, too.
    #[arg(long)]
    no_known: bool,
    /// Plant a defect: it is to be found.
    #[arg(long, value_name = "NAME", value_parser = mutant)]
    mutant: Option<Mutant>,
    /// Run a kept plan.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Write the failing plan, made smaller, to a file that --replay takes.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Go on after failing seeds, and list them.
    #[arg(long)]
    survey: bool,
    /// Print a failing seed as it is.
    #[arg(long)]
    no_shrink: bool,
    /// Print the whole trace.
    #[arg(long)]
    trace: bool,
    /// What CI runs: kept plans, all planted defects, then new seeds for --seconds.
    #[arg(long)]
    suite: bool,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let found = Mutant::ALL.iter().find(|mutant| format!("{mutant:?}") == name);
    let names: Vec<String> = Mutant::ALL.iter().map(|mutant| format!("{mutant:?}")).collect();
    found
        .copied()
        .ok_or_else(|| format!("one of: {}", names.join(", ")))
}

fn main() -> ExitCode {
    // A panic of the engine is a finding, reported like any other.
    std::panic::set_hook(Box::new(|_| {}));
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    if args.suite {
        return suite::run(Duration::from_secs(args.seconds.unwrap_or(60)), new_seed());
    }
    if let Some(path) = &args.replay {
        let kept = seeds::load(path)?;
        println!("{}", kept.why);
        return Ok(replay(
            &Plan {
                mutant: args.mutant.or(kept.plan.mutant),
                ..kept.plan
            },
            args,
        ));
    }
    let search = search(args);
    if args.seed.is_some() && args.seconds.is_none() && !args.swarm {
        let plan = search.plan(search.from);
        let outcome = world::run(&plan, false);
        return match outcome.violation {
            None => {
                println!(
                    "seed {}: clean, {} requests answered, digest {:016x}",
                    search.from, outcome.done, outcome.digest
                );
                Ok(!args.trace || replay(&plan, args))
            }
            Some(violation) => failed(
                &Finding {
                    seed: search.from,
                    plan,
                    violation,
                },
                args,
            ),
        };
    }
    println!("seeds from {} on, {} thread(s)", search.from, search.threads);
    if args.survey {
        return Ok(survey(search));
    }
    let report = search.run();
    print(&report);
    match &report.finding {
        None => Ok(args.mutant.is_none()),
        Some(finding) => failed(finding, args).map(|_| args.mutant.is_some()),
    }
}

fn search(args: &Args) -> Search {
    let threads = if args.swarm {
        std::thread::available_parallelism().map_or(1, usize::from)
    } else {
        1
    };
    Search {
        from: args.seed.unwrap_or_else(new_seed),
        seeds: u64::MAX,
        time: Duration::from_secs(args.seconds.unwrap_or(60)),
        threads,
        wide: args.swarm,
        gateways: args.gateways || args.mutant.is_some_and(Mutant::of_gateways),
        mutant: args.mutant,
        known: !args.no_known,
    }
}

/// Lists all failing seeds; true: none.
fn survey(mut search: Search) -> bool {
    let (end, mut found) = (Instant::now() + search.time, 0);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        search.time = left;
        let report = search.run();
        print(&report);
        let Some(finding) = report.finding else { break };
        println!("seed {}: {}", finding.seed, finding.violation);
        search.from = finding.seed + 1;
        found += 1;
    }
    found == 0
}

/// A seed that nobody has had.
fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64 % 1_000_000_000_000 * 1000
}

fn print(report: &Report) {
    let rate = |time: Duration| report.replies as f64 / time.as_secs_f64().max(0.01);
    println!(
        "{} runs, {} requests, {:.0} a second ({:.0} in a second of CPU time); known faults met: {:?}",
        report.runs,
        report.replies,
        rate(report.took),
        rate(report.cpu),
        report.known
    );
}

/// Reports a failing seed, made smaller, with its trace.
fn failed(finding: &Finding, args: &Args) -> anyhow::Result<bool> {
    println!("seed {} fails: {}", finding.seed, finding.violation);
    let known = Known::of(&finding.violation);
    if args.no_shrink {
        return Ok(known.is_some() && !args.no_known);
    }
    let smaller = shrink::shrink(&finding.plan, &finding.violation, SHRINKING);
    println!("made smaller in {} tries: {}", smaller.tried, smaller.violation);
    let kept = Kept {
        why: smaller.violation.to_string(),
        shows: known,
        plan: smaller.plan,
    };
    if let Some(path) = &args.keep {
        keep(path, &kept)?;
    }
    println!("{}", serde_json::to_string(&kept.plan)?);
    replay(&kept.plan, args);
    if !args.swarm && args.seconds.is_none() {
        println!("again: cargo xtask sim --seed {}", finding.seed);
    }
    Ok(known.is_some() && !args.no_known)
}

fn keep(path: &Path, kept: &Kept) -> anyhow::Result<()> {
    if path.exists() {
        bail!("{} is there already", path.display());
    }
    seeds::save(path, kept).context("keeping the failing plan")?;
    println!("kept as {}", path.display());
    Ok(())
}

/// Runs a plan with its trace; true: clean.
fn replay(plan: &Plan, args: &Args) -> bool {
    let outcome = world::run(plan, true);
    let from = if args.trace {
        0
    } else {
        outcome.trace.len().saturating_sub(LINES)
    };
    for line in &outcome.trace[from..] {
        println!("{line}");
    }
    println!("{}", end(outcome.violation.as_ref()));
    outcome.violation.is_none()
}

fn end(violation: Option<&Violation>) -> String {
    violation.map_or("clean".to_owned(), ToString::to_string)
}
