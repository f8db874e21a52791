//! `xblade bench --af-xdp` against xblade itself, and what it leaves behind on the interface.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::initiator::TIMEOUT;
use lab::needs::Need;
use lab::{Image, Lab, Options, Process, Target, needs, target};
use nix::sys::signal::Signal;
use serde_json::Value;

const SECTORS: u64 = 8192;

/// A link with xblade serving e1.2 at one end.
struct Bench {
    lab: Lab,
    _target: Target,
    _image: Image,
}

impl Bench {
    fn new(options: Options) -> Result<Bench> {
        let lab = Lab::new(options)?;
        let image = Image::stamped(SECTORS)?;
        let target = Target::ready(&lab.target, &["serve", "1", "2", "eth0", image.as_str()], 1)?;
        Ok(Bench {
            lab,
            _target: target,
            _image: image,
        })
    }

    /// Starts `xblade bench eth0 1.2 --json` with these arguments.
    fn start(&self, arguments: &str) -> Result<Process> {
        let mut words = vec!["bench", "eth0", "1.2", "--json"];
        words.extend(arguments.split_whitespace());
        Process::spawn(&self.lab.initiator, &target::binary()?, &words)
    }

    /// Runs it to its end, which must be a good one, and returns what it measured.
    fn measure(&self, arguments: &str) -> Result<Value> {
        let mut process = self.start(arguments)?;
        let (_, line) = process.wait_for_after(0, |line| line.starts_with('{'), Duration::from_secs(60))?;
        let status = process.wait(TIMEOUT)?;
        ensure!(status.success(), "{arguments}: {status}: {}", process.log());
        Ok(serde_json::from_str(&line)?)
    }

    /// Whether the generator's interface has an XDP program.
    fn has_program(&self) -> Result<bool> {
        Ok(self.lab.initiator.ip("link show eth0")?.contains("prog/xdp"))
    }
}

#[test]
fn reads_and_verified_writes_work_as_by_packet_socket() -> Result<()> {
    needs!(Need::Root);
    for (mtu, queues, sectors) in [(1500, 1, 2), (9000, 1, 17), (9000, 2, 17)] {
        let bench = Bench::new(Options {
            mtu,
            queues,
            ..Options::default()
        })?;
        let reads = bench.measure("--af-xdp --count 3000")?;
        ensure!(
            reads["reads"] == 3000 && reads["sectors"] == sectors,
            "MTU {mtu}, {queues} queues: {reads}"
        );
        ensure!(reads["transport"] == "AF_XDP, native copy", "{reads}");
        let writes =
            bench.measure("--af-xdp --write --destroy-data --count 3000 --verify --seed 7 --depth 64")?;
        ensure!(
            writes["writes"] == 3000 && writes["verified"] == writes["read_back"],
            "{writes}"
        );
        // what one generator has written the other finds
        let found = bench.measure("--count 3000 --verify --seed 7 --sequential")?;
        ensure!(
            found["verified"].as_u64() > Some(0) && found["transport"] == "AF_PACKET",
            "{found}"
        );
        let mixed = bench.measure("--af-xdp --mix 50 --destroy-data --count 3000 --verify --depth 100")?;
        ensure!(mixed["mismatches"] == 0, "{mixed}");
        ensure!(!bench.has_program()?, "a program is left behind");
    }
    Ok(())
}

#[test]
fn thousands_of_requests_outstanding_find_room_for_their_answers() -> Result<()> {
    needs!(Need::Root);
    let bench = Bench::new(Options {
        mtu: 9000,
        ..Options::default()
    })?;
    let json = bench.measure("--af-xdp --depth 2000 --count 20000 --sectors 2")?;
    ensure!(json["requests"] == 20_000, "{json}");
    Ok(())
}

#[test]
fn the_interface_is_an_ordinary_one_however_the_generator_ends() -> Result<()> {
    needs!(Need::Root);
    let bench = Bench::new(Options::default())?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut process = bench.start("--af-xdp --duration 1m")?;
        wait_until(|| bench.has_program()).context("no program appears")?;
        process.signal(signal)?;
        process.wait(TIMEOUT)?;
        wait_until(|| Ok(!bench.has_program()?))
            .with_context(|| format!("a program is left after {signal}"))?;
    }
    // a second one finds the place taken and says so, and the first goes on
    let mut first = bench.start("--af-xdp --duration 1m")?;
    wait_until(|| bench.has_program())?;
    let mut second = bench.start("--af-xdp --mac 02:00:00:00:00:02 --timeout 500ms --count 1")?;
    let status = second.wait(Duration::from_secs(20))?;
    ensure!(!status.success() && first.is_running(), "{}", second.log());
    Ok(())
}

#[test]
fn a_run_that_is_interrupted_shows_what_it_measured() -> Result<()> {
    needs!(Need::Root);
    let bench = Bench::new(Options::default())?;
    for (signal, way) in [(Signal::SIGINT, ""), (Signal::SIGTERM, " --af-xdp")] {
        let arguments = format!("bench eth0 1.2 --duration 1h --verify{way}");
        let words: Vec<&str> = arguments.split_whitespace().collect();
        let mut process = Process::spawn(&bench.lab.initiator, &target::binary()?, &words)?;
        process.wait_for("through AF_", Duration::from_secs(30))?;
        process.signal(signal)?;
        let status = process.wait(Duration::from_secs(30))?;
        let log = process.log();
        ensure!(status.success(), "{status}: {log}");
        ensure!(log.contains("interrupted") && log.contains("requests  "), "{log}");
    }
    Ok(())
}

#[test]
fn an_interface_that_goes_down_ends_the_load() -> Result<()> {
    needs!(Need::Root);
    let bench = Bench::new(Options::default())?;
    let mut process = bench.start("--af-xdp --duration 1m")?;
    wait_until(|| bench.has_program())?;
    bench.lab.set_carrier(0, false)?;
    let status = process.wait(TIMEOUT)?;
    ensure!(
        !status.success() && process.log().contains("eth0 is down"),
        "{status}: {}",
        process.log()
    );
    Ok(())
}

fn wait_until(mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < TIMEOUT {
        if holds()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("not within {TIMEOUT:?}")
}
