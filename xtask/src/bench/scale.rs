//! Many exports, two interfaces, and what xblade costs when nobody asks for anything.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::contender::{Contender, Running, Serving, result};
use super::load::{Load, median};
use super::{Bench, GENERATOR_CPU, SHELF, SLOT};
use crate::{cargo, sh};

/// Exports of the large configuration; each has an access list of four.
const EXPORTS: u32 = 4096;

/// Name of a fact: rate with many exports, compared with that of one.
pub(super) const MANY_RATE: &str = "rate with 4096 exports and 16384 list entries, compared with one export";
/// Name of a fact.
pub(super) const MANY_START: &str = "seconds until 4096 exports answer";
/// Name of a fact.
pub(super) const MANY_MEMORY: &str = "KiB an export of 4096, beyond what one export takes";
/// Name of a fact.
pub(super) const TWO_INTERFACES: &str =
    "rate over two interfaces with two queues each, compared with one of them";
/// Name of a fact.
pub(super) const IDLE: &str = "percent of a cpu when idle";
/// Name of a fact.
pub(super) const MEMORY: &str = "MiB resident, image aside";

/// One export served by one, two and four threads, through engine and store, without a network: a table of its own, with
/// what bounds it beside.
pub(super) fn threads(bench: &mut Bench) {
    let (milliseconds, rounds) = if bench.quick { ("100", "3") } else { ("300", "5") };
    let measured = cargo::scale().and_then(|scale| {
        let mut command = Command::new(scale);
        command.arg(bench.images.disk_directory());
        sh::run(command.args([milliseconds, rounds]))
    });
    if let Err(error) = measured {
        bench.failed("threads that share an export", &error);
    }
}

/// Many exports, two interfaces.
pub(super) fn scale(bench: &mut Bench) {
    if let Err(error) = many(bench) {
        bench.failed("4096 exports", &error);
    }
    if let Err(error) = two_interfaces(bench) {
        bench.failed("two interfaces", &error);
    }
}

fn many(bench: &mut Bench) -> Result<()> {
    let start = |exports, image: &str| {
        // two processes never share an image
        let image = bench.images.in_ram(image)?;
        let config = write_config(bench.images.ram_directory(), &image, exports)?;
        let serving = Serving {
            config: Some(config),
            ..Serving::plain(&image, 1500)
        };
        Running::start(bench, Contender::Xblade, &serving)
    };
    let (mut one, mut many) = (start(1, Contender::Xblade.name())?, start(EXPORTS, "many")?);
    let extra_kib = many.process.anonymous_kib()? as f64 - one.process.anonymous_kib()? as f64;
    let load = Load {
        seconds: bench.seconds,
        ..Load::reads(2, 16)
    };
    let mut shares = Vec::new();
    for _ in 0..bench.rounds {
        shares.push(1.0 / one.load(&load)?.result.rps * many.load(&load)?.result.rps);
    }
    bench
        .results
        .fact(MANY_START, Contender::Xblade, many.start_up.as_secs_f64());
    bench
        .results
        .fact(MANY_MEMORY, Contender::Xblade, extra_kib / f64::from(EXPORTS - 1));
    bench.results.fact(MANY_RATE, Contender::Xblade, median(shares));
    Ok(())
}

/// A config with the measured export and others beside it, on small sparse images.
fn write_config(directory: &Path, image: &Path, exports: u32) -> Result<PathBuf> {
    let mut text = String::from("[defaults]\ninterfaces = [\"eth0\"]\n");
    let load = lab::link::initiator_mac(0);
    for n in 0..exports {
        let small = directory.join(format!("small-{n}"));
        let path = if n == 0 { image } else { &small };
        if n > 0 && !path.exists() {
            File::create(path)?.set_len(1 << 20)?;
        }
        // the measured export first, the others on shelves of their own
        let (shelf, slot) = if n == 0 {
            (u32::from(SHELF), u32::from(SLOT))
        } else {
            (10 + n / 16, n % 16)
        };
        let others = (1..4).map(|k| format!(", \"06:00:{:02x}:{:02x}:00:{k:02x}\"", n >> 8, n & 0xff));
        let others: String = others.collect();
        write!(
            text,
            "[[export]]\nshelf = {shelf}\nslot = {slot}\npath = {path:?}\nallow = [\"{load}\"{others}]\n"
        )?;
    }
    let config = directory.join(format!("{exports}.toml"));
    fs::write(&config, text)?;
    Ok(config)
}

/// Four workers on the target's one cpu; two generators on the other, because two generators that never sleep would take both
/// cpus from the target. There are two for the one interface too: they take the cpu from each other.
fn two_interfaces(bench: &mut Bench) -> Result<()> {
    let image = bench.images.in_ram(Contender::Xblade.name())?;
    let serving = Serving {
        links: 2,
        served: 2,
        queues: 2,
        ..Serving::plain(&image, 1500)
    };
    let running = Running::start(bench, Contender::Xblade, &serving)?;
    let load = Load {
        seconds: bench.seconds,
        ..Load::reads(2, 32)
    };
    let mut shares = Vec::new();
    let half = Load {
        depth: load.depth / 2,
        ..load
    };
    let rate = |links: [u32; 2]| -> Result<f64> {
        let start = |link| running.spawn_bench(link, GENERATOR_CPU, &half.arguments(), &[]);
        let (mut first, mut second) = (start(links[0])?, start(links[1])?);
        Ok(result(&mut first)?.rps + result(&mut second)?.rps)
    };
    for _ in 0..bench.rounds {
        let one = rate([0, 0])?;
        shares.push(rate([0, 1])? / one);
    }
    bench
        .results
        .fact(TWO_INTERFACES, Contender::Xblade, median(shares));
    Ok(())
}

/// CPU and memory of a target that nobody asks for anything.
pub(super) fn idle(bench: &mut Bench) {
    for contender in bench.contenders.clone() {
        match idle_cost(bench, contender) {
            Ok((percent, mib)) => {
                bench.results.fact(IDLE, contender, percent);
                bench.results.fact(MEMORY, contender, mib);
            }
            Err(error) => bench.failed(&format!("idle, {}", contender.name()), &error),
        }
    }
}

fn idle_cost(bench: &Bench, contender: Contender) -> Result<(f64, f64)> {
    let image = bench.images.in_ram(contender.name())?;
    let mut running = Running::start(bench, contender, &Serving::plain(&image, 1500))?;
    running.load(&Load {
        seconds: 0.5,
        ..Load::reads(2, 64)
    })?;
    std::thread::sleep(Duration::from_secs(1));
    let watched = Duration::from_secs(2);
    let before = running.process.cpu_time()?;
    std::thread::sleep(watched);
    let used = running.process.cpu_time()?.saturating_sub(before);
    let percent = 100.0 * used.as_secs_f64() / watched.as_secs_f64();
    Ok((
        percent,
        resident_bytes(running.process.pid(), &image)? as f64 / f64::from(1 << 20),
    ))
}

/// Memory of a process, its mapping of the image aside.
fn resident_bytes(pid: i32, image: &Path) -> Result<u64> {
    let image = image.to_str().context("an odd path of an image")?;
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    Ok(resident_kib(&maps, image) * 1024)
}

/// Sum of the `Rss` lines of an smaps file, those of one path left out.
fn resident_kib(smaps: &str, path: &str) -> u64 {
    let mut kib = 0;
    let mut counted = true;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            counted = !line.ends_with(path);
        } else if counted && first == "Rss:" {
            kib += line
                .split_whitespace()
                .nth(1)
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    kib
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_left_out_of_the_memory() {
        let smaps = "7f00-7f10 rw-p 00 00:00 0 \nSize: 64 kB\nRss:   60 kB\nPss: 60 kB\n\
                     7f20-7f30 rw-s 00 00:1a 7 /dev/shm/x/xblade\nSize: 64 kB\nRss:  5000 kB\n\
                     7f40-7f50 r-xp 00 00:1a 9 /usr/bin/xblade\nRss:  40 kB\n";
        assert_eq!(resident_kib(smaps, "/dev/shm/x/xblade"), 100);
    }

    #[test]
    fn every_export_of_the_large_configuration_has_an_address_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let config = write_config(directory.path(), Path::new("/image"), 40).unwrap();
        let text = fs::read_to_string(config).unwrap();
        let addresses: Vec<&str> = text
            .split("[[export]]")
            .skip(1)
            .map(|e| e.split("path").next().unwrap())
            .collect();
        let mut unique = addresses.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!((addresses.len(), unique.len()), (40, 40));
    }
}
