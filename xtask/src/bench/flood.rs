//! A load beside a flood that comes from the target's own cpu.
//!
//! What counts is the rate compared with that beside the same flood into another link: the flooder's own CPU is in
//! both, and cancels.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Process;

use super::contender::{Contender, Running, Serving};
use super::load::{Load, Run};
use super::{Bench, SHELF, SLOT, TARGET_CPU};

/// Frames a second.
const RATE: &str = "200000";
/// Kinds of floods, as `xblade bench --flood` names them.
pub(super) const KINDS: [&str; 6] = [
    "strangers",
    "wrong-shelf",
    "responses",
    "bad-version",
    "runts",
    "garbage",
];
/// Name of a fact: rate under an allowed initiator's flood, compared with the flood elsewhere.
pub(super) const RATE_LIMITED: &str = "rate kept beside an initiator over its limit";
/// Name of a fact.
pub(super) const WOKEN: &str = "wake-ups by a flood of strangers, a second";

/// Name of a fact: the rate under a flood, compared with the flood elsewhere.
pub(super) fn kept(kind: &str) -> String {
    format!("rate kept beside a flood of {kind}")
}

/// Frames from strangers, and frames that are wrong.
pub(super) fn floods(bench: &mut Bench) {
    for contender in bench.contenders.clone() {
        if contender == Contender::Ggaoed {
            continue;
        }
        if let Err(error) = all_kinds(bench, contender) {
            bench.failed(&format!("flood, {}", contender.name()), &error);
        }
    }
}

fn all_kinds(bench: &mut Bench, contender: Contender) -> Result<()> {
    let image = bench.images.in_ram(contender.name())?;
    let serving = Serving {
        links: 2,
        access_list: true,
        ..Serving::plain(&image, 1500)
    };
    let mut running = Running::start(bench, contender, &serving)?;
    // Many short rounds: a single one is off by ten percent either way. Peers are there to be compared with, not to be judged.
    let (rounds, seconds) = match (bench.quick, contender) {
        (true, Contender::Xblade) => (3, 0.3),
        (true, _) => (1, 0.5),
        (false, _) => (bench.rounds, bench.seconds),
    };
    for kind in KINDS.repeat(rounds) {
        let share = compare(&mut running, kind, seconds)?;
        bench.results.fact(&kept(kind), contender, share);
    }
    let mut flood = flood(&running, "strangers", 0, 1.0)?;
    std::thread::sleep(Duration::from_millis(200));
    let before = running.process.context_switches()?;
    std::thread::sleep(Duration::from_millis(500));
    let woken = running.process.context_switches()?.saturating_sub(before);
    bench.results.fact(WOKEN, contender, woken as f64 * 2.0);
    flood.wait(Duration::from_secs(10)).map(drop)
}

/// One initiator has a limit and ignores it; another has none.
pub(super) fn rate_limit(bench: &mut Bench) {
    if let Err(error) = limited(bench) {
        bench.failed("flood over a rate limit", &error);
    }
}

fn limited(bench: &mut Bench) -> Result<()> {
    let image = bench.images.in_ram(Contender::Xblade.name())?;
    let config = bench.images.ram_directory().join("limited.toml");
    let (load, flooder) = (lab::link::initiator_mac(0), FLOODER);
    let text = format!(
        "[defaults]\ninterfaces = [\"eth0\"]\n\
         [[export]]\nshelf = {SHELF}\nslot = {SLOT}\npath = {image:?}\n\
         allow = [\"{load}\", {{ mac = \"{flooder}\", access = \"rw\", rate_limit = \"10k/s\" }}]\n"
    );
    fs::write(&config, text)?;
    let serving = Serving {
        links: 2,
        config: Some(config),
        ..Serving::plain(&image, 1500)
    };
    let mut running = Running::start(bench, Contender::Xblade, &serving)?;
    let share = compare(&mut running, "neighbour", bench.seconds.max(1.0))?;
    bench.results.fact(RATE_LIMITED, Contender::Xblade, share);
    Ok(())
}

/// The source of `--flood neighbour`.
const FLOODER: &str = "06:00:00:00:00:01";

/// The rate beside a flood into the target's link, divided by that beside the same flood into the other link.
fn compare(running: &mut Running, kind: &str, seconds: f64) -> Result<f64> {
    let load = Load {
        seconds,
        warm_up: 0.1,
        ..Load::reads(2, 16)
    };
    let mut rate = |link| -> Result<f64> {
        let mut flood = flood(running, kind, link, seconds + 0.5)?;
        std::thread::sleep(Duration::from_millis(200));
        let run: Run = running.load(&load)?;
        flood.wait(Duration::from_secs(60))?;
        let log = flood.log();
        let said: serde_json::Value = serde_json::from_str(log.trim()).with_context(|| log.clone())?;
        let sent = said["rate"].as_f64().context("a flood without a rate")?;
        let wanted: f64 = RATE.parse()?;
        // without a fair share of the cpu the flooder cannot flood: that is no result
        ensure!(
            sent > 0.5 * wanted,
            "the flood of {kind} reached only {sent:.0} frames/s"
        );
        Ok(run.result.rps)
    };
    let elsewhere = rate(1)?;
    Ok(rate(0)? / elsewhere)
}

fn flood(running: &Running, kind: &str, link: u32, seconds: f64) -> Result<Process> {
    let mac = lab::link::target_mac(link).to_string();
    let args: Vec<String> = vec![format!("{SHELF}.{SLOT}")];
    let seconds = seconds.to_string();
    let more = [
        "--mac",
        &mac,
        "--flood",
        kind,
        "--rate",
        RATE,
        "--duration",
        &seconds,
    ];
    running.spawn_bench(link, TARGET_CPU, &args, &more)
}
