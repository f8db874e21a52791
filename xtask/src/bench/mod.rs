//! `cargo xtask bench`: the same loads on xblade and on every peer installed, by turns, in a lab of namespaces.
//!
//! Target and generator are pinned to a cpu each. What is compared are ratios of medians in one run: absolute
//! figures are this machine's. Beside the contenders stands an upper bound: an AF_XDP echo (`aoe-user/examples/echo.rs`) for an
//! image in RAM, `fio` on the same file for one on disk.

mod bars;
mod chart;
mod contender;
mod direct;
mod disk;
mod fio;
mod flood;
mod holes;
mod images;
mod iscsi;
mod load;
mod nbd;
mod others;
mod report;
mod results;
mod scale;
mod stages;
mod tcp;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::{cargo, sh};
use contender::Contender;
use images::Images;
use results::Results;

/// Where targets run.
const TARGET_CPU: &str = "0";
/// Where the generator runs.
const GENERATOR_CPU: &str = "1";
/// Address of the export that is measured.
const SHELF: u16 = 1;
/// Address of the export that is measured.
const SLOT: u8 = 2;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fewer and shorter rounds: some eight minutes.
    #[arg(long)]
    quick: bool,
    /// Measure only the parts whose name contains this: ram, holes, nbd, disk, sync,
    /// direct, cold, flood, scale, idle.
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// Directory on a disk's file system, for the images that are not in RAM.
    #[arg(long, value_name = "DIR")]
    disk: Option<PathBuf>,
    /// Where JSON and charts go.
    #[arg(long, value_name = "DIR")]
    figures: Option<PathBuf>,
    /// A binary to measure instead of building one.
    #[arg(long, hide = true)]
    binary: Option<PathBuf>,
}

/// What every part needs to know.
pub(crate) struct Bench {
    xblade: PathBuf,
    echo: PathBuf,
    contenders: Vec<Contender>,
    rounds: usize,
    seconds: f64,
    quick: bool,
    images: Images,
    results: Results,
}

/// Measures everything, prints the table and writes JSON and charts.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab is made of network namespaces: run this as root"
    );
    ensure!(
        std::thread::available_parallelism()?.get() >= 2,
        "target and generator need a cpu each; this machine has one"
    );
    let xblade = match &args.binary {
        Some(binary) => binary.canonicalize()?,
        None => cargo::xblade()?,
    };
    let started = Instant::now();
    let disk = args.disk.clone().unwrap_or_else(|| sh::root().join("target"));
    let mut bench = Bench {
        xblade,
        echo: cargo::echo()?,
        contenders: Contender::installed(),
        rounds: if args.quick { 3 } else { 5 },
        seconds: if args.quick { 0.4 } else { 2.0 },
        quick: args.quick,
        images: Images::new(&disk)?,
        results: Results::default(),
    };
    let names: Vec<&str> = bench
        .contenders
        .iter()
        .map(|contender| contender.name())
        .collect();
    eprintln!("measuring {}", names.join(", "));
    for (name, part) in PARTS {
        if args.only.as_ref().is_none_or(|word| name.contains(word.as_str())) {
            eprintln!("{:>5.0} s  {name}", started.elapsed().as_secs_f64());
            part(&mut bench);
        }
    }
    let bars = bars::judge(&bench.results);
    print!("{}", report::text(&bench.results, &bars));
    let figures = args
        .figures
        .clone()
        .unwrap_or_else(|| sh::root().join("docs/figures"));
    report::write(&figures, &bench, &bars)?;
    println!(
        "{} s; JSON and charts are in {}",
        started.elapsed().as_secs(),
        figures.display()
    );
    Ok(())
}

/// A part of the benchmark; what fails in it is noted in the results.
type Part = fn(&mut Bench);

const PARTS: [(&str, Part); 15] = [
    ("ram: reads and writes at MTU 1500 and 9000", stages::ram),
    ("holes: a sparse image in RAM", holes::holes),
    ("ram: threaded NAPI", stages::threaded),
    ("ram: unpinned", stages::unpinned),
    ("nbd: what else serves an image", others::nbd),
    ("sync: acknowledged when on the medium", disk::sync),
    ("direct: past the page cache", direct::direct),
    ("disk: random writes and their way to the medium", disk::writes),
    ("cold: nothing in the page cache", disk::cold),
    ("cold: a hot export beside it", disk::hot_beside_cold),
    (
        "flood: a load beside frames that are nobody's business",
        flood::floods,
    ),
    (
        "flood: an allowed initiator over its rate limit",
        flood::rate_limit,
    ),
    ("scale: one export served by several threads", scale::threads),
    ("scale: 4096 exports, two interfaces", scale::scale),
    ("idle: CPU and memory", scale::idle),
];

impl Bench {
    /// Notes a failure, on the terminal too.
    fn failed(&mut self, what: &str, error: &anyhow::Error) {
        let failure = format!("{what}: {error:#}");
        eprintln!("         {failure}");
        if !self.results.failures.contains(&failure) {
            self.results.failures.push(failure);
        }
    }
}
