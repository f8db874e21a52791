//! Runs many seeds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::draw;
use crate::gateways;
use crate::known::Known;
use crate::mutants::Mutant;
use crate::oracle::Violation;
use crate::plan::Plan;
use crate::run::Outcome;
use crate::world;

/// What to run.
#[derive(Debug, Clone)]
pub struct Search {
    /// The first seed; the next ones follow.
    pub from: u64,
    /// Seeds at most.
    pub seeds: u64,
    /// For so long.
    pub time: Duration,
    /// Threads.
    pub threads: usize,
    /// Longer and larger runs.
    pub wide: bool,
    /// Of gateways, not of one target with disks.
    pub gateways: bool,
    /// The planted defect.
    pub mutant: Option<Mutant>,
    /// Known faults do not count.
    pub known: bool,
}

/// A seed that breaks a promise.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The seed.
    pub seed: u64,
    /// What it runs.
    pub plan: Plan,
    /// What it breaks.
    pub violation: Violation,
}

/// What a search was like.
#[derive(Debug, Default)]
pub struct Report {
    /// Seeds that were run to their end.
    pub runs: u64,
    /// Frames that the target sent.
    pub replies: u64,
    /// Known faults met, and how often.
    pub known: BTreeMap<Known, u64>,
    /// The failing seed, the smallest if several threads found one.
    pub finding: Option<Finding>,
    /// How long it took.
    pub took: Duration,
    /// The CPU time it took, of all threads: what a busy machine does not change.
    pub cpu: Duration,
}

impl Search {
    /// The plan of a seed.
    pub fn plan(&self, seed: u64) -> Plan {
        Plan {
            mutant: self.mutant,
            ..match self.gateways {
                true => gateways::draw::plan(seed, self.wide),
                false => draw::plan(seed, self.wide),
            }
        }
    }

    /// What is wrong with an outcome.
    pub fn judge(&self, outcome: &Outcome) -> Result<(), Option<Known>> {
        let Some(violation) = &outcome.violation else {
            return Ok(());
        };
        Err(Known::of(violation).filter(|_| self.known))
    }

    /// Runs seeds until one fails, or time or seeds are over.
    pub fn run(&self) -> Report {
        let (start, cpu) = (Instant::now(), cpu_time());
        let (next, stop) = (AtomicU64::new(self.from), AtomicBool::new(false));
        let report = Mutex::new(Report::default());
        let work = || {
            while !stop.load(Ordering::Relaxed) && start.elapsed() < self.time {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed - self.from >= self.seeds {
                    break;
                }
                let plan = self.plan(seed);
                let outcome = world::run(&plan, false);
                let mut report = report.lock();
                report.runs += 1;
                report.replies += outcome.replies;
                match self.judge(&outcome) {
                    Ok(()) => {}
                    Err(Some(known)) => *report.known.entry(known).or_default() += 1,
                    Err(None) => {
                        stop.store(true, Ordering::Relaxed);
                        let violation = outcome.violation.expect("it failed");
                        let smaller = report.finding.as_ref().is_none_or(|other| seed < other.seed);
                        if smaller {
                            report.finding = Some(Finding {
                                seed,
                                plan,
                                violation,
                            });
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(work);
            }
            work();
        });
        let mut report = report.into_inner();
        report.took = start.elapsed();
        report.cpu = cpu_time().saturating_sub(cpu);
        report
    }
}

/// CPU time of the process so far, from `/proc/self/stat` (proc_pid_stat(5)): in hundredths of a second. Zero if it cannot be read.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}
