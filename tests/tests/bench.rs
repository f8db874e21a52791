//! `xblade bench` against a target that others wrote: Debian's vblade.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::initiator::TIMEOUT;
use lab::needs::Need;
use lab::{Image, Lab, Options, Process, needs, target};
use serde_json::Value;

const SECTORS: u64 = 8192;

/// A link with vblade at one end, e1.2, up to 16 requests queued.
struct Bench {
    lab: Lab,
    image: Image,
    vblade: Process,
}

impl Bench {
    fn new(mtu: u32) -> Result<Bench> {
        let lab = Lab::new(Options {
            mtu,
            ..Options::default()
        })?;
        let image = Image::stamped(SECTORS)?;
        let vblade = Process::spawn(&lab.target, "vblade", &["1", "2", "eth0", image.as_str()])?;
        let bench = Bench { lab, image, vblade };
        let deadline = Instant::now() + Duration::from_secs(10);
        while bench.run("--count 1")?.0 != 0 {
            ensure!(
                Instant::now() < deadline,
                "vblade does not answer: {}",
                bench.vblade.log()
            );
        }
        Ok(bench)
    }

    /// Runs `xblade bench eth0` with these arguments; its exit code and everything it printed.
    fn run(&self, arguments: &str) -> Result<(i32, String)> {
        let mut words = vec!["bench", "eth0"];
        words.extend(arguments.split_whitespace());
        let mut process = Process::spawn(&self.lab.initiator, &target::binary()?, &words)?;
        end(&mut process)
    }

    /// The same with `--json`, and its one object.
    fn json(&self, arguments: &str) -> Result<(i32, Value)> {
        let (code, log) = self.run(&format!("{arguments} --json"))?;
        let line = log
            .lines()
            .find(|line| line.starts_with('{'))
            .with_context(|| log.clone())?;
        Ok((code, serde_json::from_str(line)?))
    }
}

/// Waits for the end of a generator; its exit code and everything it printed, which is something in any case.
fn end(process: &mut Process) -> Result<(i32, String)> {
    let status = process.wait(Duration::from_secs(120))?;
    Ok((status.code().context("ended by a signal")?, process.log()))
}

#[test]
fn what_is_written_is_read_back_and_found_again_by_its_seed() -> Result<()> {
    needs!(Need::Root, Need::Tool("vblade"));
    for (mtu, sectors) in [(1500, 2), (9000, 17)] {
        let bench = Bench::new(mtu)?;
        let (code, json) =
            bench.json("1.2 --write --destroy-data --count 3000 --verify --seed 7 --depth 32")?;
        ensure!(code == 0, "MTU {mtu}: {json}");
        ensure!(
            json["sectors"] == sectors && json["requests"] == 3000 && json["writes"] == 3000,
            "{json}"
        );
        ensure!(
            json["verified"] == json["read_back"] && json["read_back"].as_u64() > Some(100),
            "{json}"
        );
        ensure!(
            json["lat_us"]["p50"].as_f64() > Some(0.0) && json["rps"].as_f64() > Some(0.0),
            "{json}"
        );
        ensure!(
            json["size_bytes"] == SECTORS * 512
                && json["schema"] == 1
                && json["address"] == "1.2"
                && json["interface"] == "eth0",
            "{json}"
        );
        // the image itself holds what was counted: a sector written bears its number
        let stamped = (0..SECTORS).filter(|&lba| {
            let sector = bench.image.read(lba, 1).expect("the image can be read");
            sector[..8] == *b"AoEstamp" && sector[8..16] == lba.to_le_bytes()
        });
        let blocks = stamped.count() as u64 / sectors;
        ensure!(
            json["read_back"] == blocks,
            "{blocks} blocks of the image are stamped: {json}"
        );
        let (code, json) = bench.json("1.2 --count 3000 --verify --seed 7 --sequential")?;
        ensure!(
            code == 0 && json["verified"].as_u64() > Some(0) && json["reads"] == 3000,
            "{json}"
        );
    }
    Ok(())
}

#[test]
fn data_changed_behind_the_targets_back_are_reported() -> Result<()> {
    needs!(Need::Root, Need::Tool("vblade"));
    let bench = Bench::new(1500)?;
    let write = "1.2 --write --sequential --destroy-data --verify --seed 9 --span 400 --count 200";
    let (code, json) = bench.json(write)?;
    ensure!(code == 0 && json["read_back"] == 200, "{json}");
    // one sector gets its neighbour's data, as a misdirected write would do
    bench
        .image
        .file()
        .write_all_at(&bench.image.read(101, 1)?, 100 * 512)?;
    let (code, json) = bench.json("1.2 --verify --seed 9 --sequential --span 400 --count 200")?;
    ensure!(
        code == 1 && json["mismatches"] == 1 && json["verified"] == 199,
        "exit {code}: {json}"
    );
    let note = json["notes"][0].as_str().unwrap_or_default();
    ensure!(note.contains("LBA 100"), "{json}");
    Ok(())
}

#[test]
fn a_target_that_dies_is_reported_and_does_not_hang_the_generator() -> Result<()> {
    needs!(Need::Root, Need::Tool("vblade"));
    let mut bench = Bench::new(1500)?;
    let words = [
        "bench",
        "eth0",
        "1.2",
        "--duration",
        "5s",
        // Otherwise the answers that are waited for below may all be of the time that is not measured.
        "--warmup",
        "0s",
        "--timeout",
        "500ms",
        "--depth",
        "4",
        "--json",
    ];
    let mut generator = Process::spawn(&bench.lab.initiator, &target::binary()?, &words)?;
    // Kill it in the middle: answers have come, and the generator goes on for seconds.
    let received = || -> Result<u64> {
        let counter = "/sys/class/net/eth0/statistics/rx_packets";
        Ok(bench.lab.initiator.read(counter)?.trim().parse()?)
    };
    let (before, start) = (received()?, Instant::now());
    while received()? < before + 100 {
        ensure!(start.elapsed() < TIMEOUT, "the generator is not answered");
        std::thread::sleep(Duration::from_millis(10));
    }
    bench.vblade.kill()?;
    let (code, log) = end(&mut generator)?;
    ensure!(code == 1, "exit {code}: {log}");
    let line = log
        .lines()
        .find(|line| line.starts_with('{'))
        .with_context(|| log.clone())?;
    let json: Value = serde_json::from_str(line)?;
    ensure!(
        json["timeouts"].as_u64() >= Some(4) && json["requests"].as_u64() > Some(0),
        "{json}"
    );
    ensure!(log.contains("requests unanswered"), "{log}");
    Ok(())
}

#[test]
fn mistakes_are_refused_before_anything_is_written() -> Result<()> {
    needs!(Need::Root, Need::Tool("vblade"));
    let bench = Bench::new(1500)?;
    for (arguments, said) in [
        ("1.2 --write --count 1", "--destroy-data"),
        ("1.2 --mix 50 --count 1", "--destroy-data"),
        ("1.3 --count 1", "no target 1.3 answers"),
        ("1.2 --count 1 --sectors 3", "allow 2 sectors"),
        ("1.2 --count 1 --first 8192", "holds no request"),
        ("1.2 --count 1 --first 1 --span 8192", "8192 sectors"),
    ] {
        let (code, log) = bench.run(arguments)?;
        ensure!(code == 1 && log.contains(said), "{arguments}: exit {code}: {log}");
        let (code, json) = bench.json(arguments)?;
        let error = json["error"].as_str().unwrap_or_default();
        ensure!(
            code == 1 && json["schema"] == 1 && error.contains(said),
            "{arguments}: {json}"
        );
    }
    let mut second = Process::spawn(
        &bench.lab.target,
        "vblade",
        &["1", "3", "eth0", bench.image.as_str()],
    )?;
    while bench.run("1.3 --count 1")?.0 != 0 {
        ensure!(second.is_running(), "{}", second.log());
    }
    let (code, log) = bench.run("--count 1")?;
    ensure!(
        code == 1 && log.contains("2 targets answer") && log.contains("1.3 at 02:00:00:00:00:02"),
        "{log}"
    );
    for lba in [0, 1, SECTORS - 1] {
        ensure!(
            bench.image.read(lba, 1)? == lab::image::stamp(lba),
            "sector {lba} was written"
        );
    }
    Ok(())
}

/// Whoever reads the output goes away: the tool ends, says nothing of it, and what it used is as it was.
#[test]
fn readers_that_go_away_end_bench_and_doctor_quietly() -> Result<()> {
    needs!(Need::Root, Need::Tool("vblade"));
    let bench = Bench::new(1500)?;
    let binary = target::binary()?;
    for line in [
        "bench eth0 1.2 --count 2000 | head -1",
        "bench eth0 1.2 --count 2000 --json | true",
        "bench eth0 1.2 --duration 1s | true",
        "bench eth0 1.2 --count 2000 --af-xdp --json | true",
        "bench eth0 1.2 --count 2000 2>&1 | true",
        "discover eth0 | true",
        "doctor eth0 | true",
        "doctor eth0 | head -1",
        "doctor eth0 --json | true",
        "doctor eth0 2>&1 | true",
    ] {
        let script = format!("{binary} {line}");
        let mut shell = Process::spawn(&bench.lab.initiator, "bash", &["-o", "pipefail", "-c", &script])?;
        let status = shell.wait(TIMEOUT * 10)?;
        let said = shell.log();
        ensure!(matches!(status.code(), Some(0..=4)), "{line}: {status}: {said}");
        for word in ["panicked", "Broken pipe", "os error"] {
            ensure!(!said.contains(word), "{line}: {said}");
        }
    }
    // And the interface serves as before.
    ensure!(bench.run("1.2 --count 10")?.0 == 0);
    Ok(())
}
