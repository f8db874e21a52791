//! Loads on an image on the disk's file system.

use std::fs::File;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::contender::{Contender, Running, Serving, result};
use super::images::drop_caches;
use super::load::{Load, Run};
use super::{Bench, GENERATOR_CPU, SHELF, SLOT, TARGET_CPU, fio};
use crate::sh;

/// Name of a stage, as [`super::bars`] looks it up.
pub(super) const WRITES: &str = "image on disk, MTU 1500, final flush counted";
/// Name of a stage.
pub(super) const SYNC: &str = "image on disk, MTU 1500, synchronous";
/// Name of a stage.
pub(super) const COLD_1500: &str = "image on disk, MTU 1500, cold";
/// Name of a stage.
pub(super) const COLD_9000: &str = "image on disk, MTU 9000, cold";
/// Name of a fact.
pub(super) const HOT_BESIDE_COLD: &str =
    "rate of a hot export beside cold reads, compared with both in processes of their own";
/// Name of a fact: bytes that reached the device for a byte acknowledged.
pub(super) const AMPLIFICATION: &str = "bytes written to the device for a byte acknowledged";

/// `--sync` against `vblade -s`.
pub(super) fn sync(bench: &mut Bench) {
    let seconds = if bench.quick { 1.0 } else { 5.0 };
    let rounds = if bench.quick { 1 } else { bench.rounds };
    for depth in [1, 16, 64].repeat(rounds) {
        let load = Load {
            seconds,
            ..Load::writes(2, depth)
        };
        for contender in both(bench) {
            let running = fresh(bench, contender, |serving| serving.sync = true);
            match running.and_then(|mut running| running.load(&load)) {
                Ok(run) => bench.results.add(SYNC, &load.name(), contender, run),
                Err(error) => bench.failed(&format!("{SYNC}, {}", contender.name()), &error),
            }
        }
        // As one commit covers all writes under way, so does one of fio's.
        let flush = format!("--fdatasync={depth}");
        by_fio(bench, SYNC, &load, &[&flush]);
    }
}

/// Random writes, until the last byte of them is on the medium.
pub(super) fn writes(bench: &mut Bench) {
    let seconds = if bench.quick { 5.0 } else { 20.0 };
    for depth in [16, 64] {
        let load = Load {
            seconds,
            warm_up: 0.0,
            ..Load::writes(2, depth)
        };
        for contender in both(bench) {
            match write_and_flush(bench, contender, &load) {
                Ok((run, amplification)) => {
                    bench.results.add(WRITES, &load.name(), contender, run);
                    bench.results.fact(AMPLIFICATION, contender, amplification);
                }
                Err(error) => bench.failed(&format!("{WRITES}, {}", contender.name()), &error),
            }
        }
        by_fio(bench, WRITES, &load, &["--end_fsync=1"]);
    }
}

fn write_and_flush(bench: &Bench, contender: Contender, load: &Load) -> Result<(Run, f64)> {
    let image = bench.images.on_disk(contender.name())?;
    let mut running = fresh(bench, contender, |_| {})?;
    let (before, started) = (device_bytes_written(&image)?, Instant::now());
    let mut run = running.load(load)?;
    running.process.stop().ok();
    File::open(&image)?.sync_data()?;
    let (elapsed, after) = (started.elapsed().as_secs_f64(), device_bytes_written(&image)?);
    run.result.rps = run.result.requests as f64 / elapsed;
    let acknowledged_bytes = run.result.requests as f64 * f64::from(load.sectors) * 512.0;
    Ok((run, (after - before) as f64 / acknowledged_bytes))
}

/// Reads of what is not in the page cache.
pub(super) fn cold(bench: &mut Bench) {
    let seconds = if bench.quick { 1.0 } else { 3.0 };
    let rounds = if bench.quick { 1 } else { bench.rounds };
    let loads = [
        (COLD_1500, 1500, Load::reads(2, 64)),
        (COLD_9000, 9000, Load::reads(16, 16).in_order()),
    ];
    for _ in 0..rounds {
        for (name, mtu, load) in &loads {
            let load = Load {
                seconds,
                ..load.clone()
            };
            for contender in both(bench) {
                let run = fresh(bench, contender, |serving| serving.mtu = *mtu);
                match run.and_then(|mut running| running.load(&load)) {
                    Ok(run) => bench.results.add(name, &load.name(), contender, run),
                    Err(error) => bench.failed(&format!("{name}, {}", contender.name()), &error),
                }
            }
            by_fio(bench, name, &load, &["--direct=1"]);
        }
    }
}

/// A hot export beside one whose every read waits for the disk.
pub(super) fn hot_beside_cold(bench: &mut Bench) {
    let rounds = if bench.quick { 1 } else { bench.rounds };
    for _ in 0..rounds {
        let share = beside_cold(bench, false).and_then(|apart| Ok(beside_cold(bench, true)? / apart));
        match share {
            Ok(share) => bench.results.fact(HOT_BESIDE_COLD, Contender::Xblade, share),
            Err(error) => bench.failed("a hot export beside cold reads", &error),
        }
    }
}

/// The hot export's rate. The cold one is served by the same worker, or by another process on a link of its own: the CPU that
/// generators and cold reads take is the same then, and what is left is whether a worker that waits for a disk keeps others waiting.
fn beside_cold(bench: &Bench, together: bool) -> Result<f64> {
    let name = Contender::Xblade.name();
    let (hot, cold) = (bench.images.in_ram(name)?, bench.images.on_disk(name)?);
    let config = bench.images.ram_directory().join("beside.toml");
    let next_slot = SLOT + 1;
    let text = format!(
        "[defaults]\ninterfaces = [\"eth0\"]\n\
         [[export]]\nshelf = {SHELF}\nslot = {SLOT}\npath = {hot:?}\n\
         [[export]]\nshelf = {SHELF}\nslot = {next_slot}\npath = {cold:?}\n"
    );
    std::fs::write(&config, text)?;
    drop_caches()?;
    let serving = Serving {
        links: 2,
        config: together.then_some(config),
        ..Serving::plain(&hot, 1500)
    };
    let mut running = Running::start(bench, Contender::Xblade, &serving)?;
    let _other = if together {
        None
    } else {
        Some(running.spawn_xblade(1, &cold)?)
    };

    let hot_load = Load {
        seconds: bench.seconds.max(1.0),
        ..Load::reads(2, 16)
    };
    let mut cold_arguments = Load {
        seconds: hot_load.seconds + 1.0,
        warm_up: 0.0,
        ..Load::reads(2, 64)
    }
    .arguments();
    if together {
        cold_arguments[0] = format!("{SHELF}.{next_slot}");
    }
    let mut generator = running.spawn_bench(u32::from(!together), GENERATOR_CPU, &cold_arguments, &[])?;
    std::thread::sleep(Duration::from_millis(200));
    let run = running.load(&hot_load)?;
    result(&mut generator)?;
    Ok(run.result.rps)
}

/// The same I/O by fio on a file of the same kind, pinned as the targets are; its rate counts the flush at its end.
pub(super) fn by_fio(bench: &mut Bench, stage: &str, load: &Load, more: &[&str]) {
    if sh::find("fio").is_none() {
        return bench.failed(
            stage,
            &anyhow::anyhow!("no fio is on the PATH, so no bound is measured"),
        );
    }
    let run = || -> Result<Run> {
        let image = bench.images.on_disk(Contender::Fio.name())?;
        drop_caches()?;
        let file = format!("--filename={}", image.display());
        let engine: Vec<&str> = ["--ioengine=io_uring", &file]
            .iter()
            .chain(more)
            .copied()
            .collect();
        let started = Instant::now();
        let said = sh::output(&mut fio::command(TARGET_CPU, &engine, load))?;
        let elapsed = started.elapsed().as_secs_f64();
        let mut result = fio::result(&String::from_utf8_lossy(&said), load, "the file itself")?;
        if load.write && load.warm_up == 0.0 {
            result.rps = result.requests as f64 / elapsed;
        }
        Ok(Run {
            result,
            target_us: f64::NAN,
            system_us: f64::NAN,
        })
    };
    match run() {
        Ok(run) => bench.results.add(stage, &load.name(), Contender::Fio, run),
        Err(error) => bench.failed(&format!("{stage}, fio"), &error),
    }
}

/// The contenders that the bars on disks are about.
fn both(bench: &Bench) -> Vec<Contender> {
    bench
        .contenders
        .iter()
        .copied()
        .filter(|&contender| contender != Contender::Ggaoed)
        .collect()
}

/// Starts a target on an image of which nothing is cached.
fn fresh(bench: &Bench, contender: Contender, adjust: impl Fn(&mut Serving)) -> Result<Running> {
    let image = bench.images.on_disk(contender.name())?;
    drop_caches()?;
    let mut serving = Serving::plain(&image, 1500);
    adjust(&mut serving);
    Running::start(bench, contender, &serving)
}

/// Bytes written so far to the device that the file is on.
fn device_bytes_written(file: &Path) -> Result<u64> {
    let device = std::fs::metadata(file)?.st_dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let path = format!("/sys/dev/block/{major}:{minor}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // Documentation/block/stat.rst: the seventh number counts sectors written
    let sectors = stat.split_whitespace().nth(6).context("a short stat")?;
    Ok(sectors.parse::<u64>()? * 512)
}
