//! What CI runs: kept plans, every planted defect, new seeds for a bounded time.

use std::time::{Duration, Instant};

use sim::known::Known;
use sim::mutants::Mutant;
use sim::plan::Plan;
use sim::search::Search;
use sim::{draw, gateways, seeds, world};

/// A planted defect must be found within this.
const MUTANT_LIMIT: Duration = Duration::from_secs(60);
/// Seeds that CI runs, always the same.
const SEEDS: u64 = 500;
/// The same with gateways.
const GATEWAY_SEEDS: u64 = 200;
/// Seeds that are run twice.
const REPEATED: u64 = 3;

/// Counts what passed.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
}

impl Tally {
    fn count(&mut self, name: &str, result: Result<String, String>) {
        match result {
            Ok(text) => {
                self.passed += 1;
                println!("ok      {name}: {text}");
            }
            Err(text) => {
                self.failed += 1;
                println!("FAILED  {name}: {text}");
            }
        }
    }
}

/// Runs all; true: all passed. New seeds begin with `seed`.
pub(crate) fn run(time: Duration, seed: u64) -> anyhow::Result<bool> {
    let mut tally = Tally::default();
    let kept: Vec<seeds::Kept> = seeds::all()?.into_iter().map(|(_, kept)| kept).collect();
    for (name, kept) in seeds::all()?
        .into_iter()
        .filter(|(_, kept)| kept.plan.mutant.is_none())
    {
        let violation = world::run(&kept.plan, false).violation;
        let seen = super::end(violation.as_ref());
        let right = match kept.shows {
            None => violation.is_none(),
            Some(known) => violation.is_some_and(|violation| Known::of(&violation) == Some(known)),
        };
        tally.count(&format!("kept {name}"), if right { Ok(seen) } else { Err(seen) });
    }
    for known in Known::ALL {
        let shown = seeds::all()?.iter().any(|(_, kept)| kept.shows == Some(*known));
        let result = if shown {
            Ok("is shown by a kept plan".into())
        } else {
            Err("no kept plan shows it".into())
        };
        tally.count(&format!("known {known:?}"), result);
    }
    for number in 0..REPEATED {
        let seed = seed + number;
        tally.count(&format!("seed {seed}"), twice(&draw::plan(seed, false)));
        let gateways = gateways::draw::plan(seed, false);
        tally.count(&format!("seed {seed} of gateways"), twice(&gateways));
    }
    for mutant in Mutant::ALL {
        tally.count(&format!("mutant {mutant:?}"), found(*mutant, &kept));
    }
    tally.count("seeds", seeds_in_a_row(false, 1, SEEDS, time));
    tally.count("seeds of gateways", seeds_in_a_row(true, 1, GATEWAY_SEEDS, time));
    let new = seeds_in_a_row(seed % 2 == 1, seed, u64::MAX, time / 4);
    // A new seed that fails is to be looked at, and kept once it is understood.
    println!(
        "new seeds from {seed}: {}",
        new.unwrap_or_else(|text| format!("LOOK AT {text}"))
    );
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

/// Runs seeds until one fails, or time or seeds are over.
fn seeds_in_a_row(gateways: bool, from: u64, seeds: u64, time: Duration) -> Result<String, String> {
    let search = Search {
        gateways,
        mutant: None,
        from,
        seeds,
        time,
        threads: 1,
        wide: false,
        known: true,
    };
    let report = search.run();
    super::print(&report);
    match report.finding {
        None => Ok(format!("{} runs from {from} on are clean", report.runs)),
        Some(finding) => Err(format!(
            "seed {}: {}; cargo xtask sim --seed {0}",
            finding.seed, finding.violation
        )),
    }
}

/// The same seed has the same run.
fn twice(plan: &Plan) -> Result<String, String> {
    let (first, second) = (world::run(plan, true), world::run(plan, true));
    match first == second {
        true => Ok(format!("the same bit for bit, digest {:016x}", first.digest)),
        false => Err("runs differ".into()),
    }
}

/// A planted defect is found, by the seed that is known to or a new one.
fn found(mutant: Mutant, kept: &[seeds::Kept]) -> Result<String, String> {
    if mutant.in_engine() && !cfg!(feature = "mutants") {
        return Ok("not planted: built without --features mutants".into());
    }
    if let Some(kept) = kept.iter().find(|kept| kept.plan.mutant == Some(mutant)) {
        let violation = world::run(&kept.plan, false).violation;
        let text = |seen: String| format!("{} (a kept plan): {seen}", mutant.text());
        return violation.map_or(Err(text("not found".into())), |violation| {
            Ok(text(violation.to_string()))
        });
    }
    let start = Instant::now();
    let search = Search {
        gateways: mutant.of_gateways(),
        mutant: Some(mutant),
        from: mutant.seed(),
        seeds: u64::MAX,
        time: MUTANT_LIMIT,
        threads: 1,
        wide: false,
        known: true,
    };
    let report = search.run();
    match report.finding {
        Some(finding) => {
            let (seed, took) = (finding.seed, start.elapsed().as_secs_f32());
            Ok(format!(
                "{} (seed {seed}, {took:.1} s): {}",
                mutant.text(),
                finding.violation
            ))
        }
        None => Err(format!("{}: not found in {} runs", mutant.text(), report.runs)),
    }
}
