//! A sparse image in RAM: what reading its holes takes, in time and in memory.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};

use super::Bench;
use super::contender::{Contender, Running, Serving};
use super::load::{Load, median};

/// Name of a stage, as [`super::bars`] looks it up.
pub(super) const HOLES_1500: &str = "a hole in RAM, MTU 1500";
/// Name of a stage.
pub(super) const HOLES_9000: &str = "a hole in RAM, MTU 9000";
/// MiB that the sparse images hold after all reads.
pub(super) const TAKEN: &str = "MiB that reading holes in RAM took";

/// Requests outstanding.
const DEPTH: u32 = 16;

/// The loads of this part, by stage.
pub(super) fn load(stage: &str) -> Load {
    let sectors = if stage == HOLES_1500 { 2 } else { 16 };
    Load::reads(sectors, DEPTH)
}

/// The rate from holes to the rate from data of the same target, as it is looked up.
pub(super) fn against_data(stage: &str) -> String {
    format!("{stage}, {}: rate (data)", load(stage).name())
}

/// Every target on a sparse image and on one full of data, by turns.
pub(super) fn holes(bench: &mut Bench) {
    for (stage, mtu) in [(HOLES_1500, 1500), (HOLES_9000, 9000)] {
        for contender in bench.contenders.clone() {
            if let Err(error) = by_turns(bench, stage, mtu, contender) {
                bench.failed(&format!("{stage}, {}", contender.name()), &error);
            }
        }
    }
}

fn by_turns(bench: &mut Bench, stage: &str, mtu: u32, contender: Contender) -> Result<()> {
    let hole = bench.images.hole_in_ram(&format!("hole-{}", contender.name()))?;
    let data = bench.images.in_ram(contender.name())?;
    let mut of_hole = Running::start(bench, contender, &Serving::plain(&hole, mtu))?;
    let mut of_data = Running::start(bench, contender, &Serving::plain(&data, mtu))?;
    let load = Load {
        seconds: bench.seconds,
        ..load(stage)
    };
    let mut ratios = Vec::new();
    for _ in 0..bench.rounds {
        let run = of_hole.load(&load)?;
        ratios.push(run.result.rps / of_data.load(&load)?.result.rps);
        bench.results.add(stage, &load.name(), contender, run);
    }
    bench
        .results
        .fact(&against_data(stage), contender, median(ratios));
    let taken = hole.metadata().context("the sparse image")?.blocks() as f64 / 2048.0;
    bench.results.fact(TAKEN, contender, taken);
    Ok(())
}
