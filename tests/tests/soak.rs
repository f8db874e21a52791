//! Endurance: mixed load on several exports while strangers flood, the configuration is reloaded and the target is
//! restarted and killed; then a second half without restarts in which nothing may grow. All data is verified at the end.
//!
//! `XBLADE_SOAK_MINUTES=N` (`cargo xtask test --soak N`) says how long; without it, a third of a minute.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::image::Random;
use lab::initiator::TIMEOUT;
use lab::link::target_mac;
use lab::needs::Need;
use lab::seed;
use lab::target::daemon;
use lab::writer::{Options, Writer};
use lab::{Address, Image, Lab, Process, Request, Target, needs};
use nix::sys::signal::Signal;

const SECTORS: u64 = 2048;

/// What one export is like: address, port, options of its config.
const EXPORTS: [(u8, u32, &str); 3] = [
    (3, 0, "store = \"mmap\""),
    (4, 1, "store = \"direct\"\nsync = true"),
    (
        5,
        0,
        "store = \"mmap\"\nsync = true\nallow = [\"02:00:00:00:00:01\"]",
    ),
];

fn length() -> Duration {
    let minutes = std::env::var("XBLADE_SOAK_MINUTES").ok();
    let minutes: Option<f64> = minutes.map(|text| text.parse().expect("XBLADE_SOAK_MINUTES is a number"));
    Duration::from_secs_f64(minutes.map_or(20.0, |minutes| minutes * 60.0))
}

/// The files of a run.
struct Site {
    images: Vec<Image>,
    extra: Image,
    config: PathBuf,
}

impl Site {
    fn new() -> Result<Site> {
        let images = EXPORTS
            .iter()
            .map(|_| Image::sparse(SECTORS))
            .collect::<Result<Vec<Image>>>()?;
        let extra = Image::sparse(64)?;
        let config = images[0].directory().join("xblade.toml");
        Ok(Site {
            images,
            extra,
            config,
        })
    }

    /// Writes the config; with `extra`, one export more and other settings of the first.
    fn configure(&self, extra: bool) -> Result<()> {
        let mut text = String::new();
        for ((slot, port, options), image) in EXPORTS.iter().zip(&self.images) {
            let path = image.as_str();
            let buffers = if extra { 32 } else { 64 };
            write!(
                text,
                "[[export]]\nshelf = 7\nslot = {slot}\npath = \"{path}\"\ninterfaces = [\"eth{port}\"]\n\
                 buffers = {buffers}\n{options}\n"
            )?;
        }
        if extra {
            let path = self.extra.as_str();
            write!(
                text,
                "[[export]]\nshelf = 7\nslot = 9\npath = \"{path}\"\ninterfaces = [\"eth*\"]\n"
            )?;
        }
        // As an editor does: a reload never sees half a file.
        let new = self.config.with_extension("new");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, &self.config)?)
    }

    fn start(&self, lab: &Lab) -> Result<Target> {
        Target::ready_again(&lab.target, &daemon(self.images[0].directory())?, 2)
    }
}

/// What must not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Footprint {
    descriptors: usize,
    threads: usize,
    memory_kib: u64,
}

fn footprint(process: &Process) -> Result<Footprint> {
    let entries = |name: &str| -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/{name}", process.pid()))?.count())
    };
    // Pages of the images are the page cache's.
    Ok(Footprint {
        descriptors: entries("fd")?,
        threads: entries("task")?,
        memory_kib: process.anonymous_kib()?,
    })
}

fn peak(footprints: &[Footprint]) -> Footprint {
    let most = |field: fn(&Footprint) -> u64| footprints.iter().map(field).max().unwrap_or_default();
    Footprint {
        descriptors: most(|one| one.descriptors as u64) as usize,
        threads: most(|one| one.threads as u64) as usize,
        memory_kib: most(|one| one.memory_kib),
    }
}

/// The median. Where something else has the CPUs for some seconds, more of the threads that do one thing and end are there at once.
fn usual_threads(footprints: &[Footprint]) -> usize {
    let mut threads: Vec<usize> = footprints.iter().map(|one| one.threads).collect();
    threads.sort_unstable();
    threads.get(threads.len() / 2).copied().unwrap_or_default()
}

fn nothing_grows(footprints: &[Footprint]) -> Result<()> {
    // The kernel's own helpers of io_uring come and go, and the first rounds may still fetch what is needed once: the
    // peak of the second half of the rounds must not be above that of the first; a descriptor lost by each reload would be.
    let (early, late) = footprints.split_at(footprints.len() / 2);
    let threads = [early, late].map(usual_threads);
    let (early, late) = (peak(early), peak(late));
    ensure!(
        late.descriptors <= early.descriptors + 3,
        "descriptors: {early:?} … {late:?}"
    );
    ensure!(
        threads[1] <= threads[0] + 2,
        "threads: {threads:?} as a rule, {early:?} … {late:?} at most"
    );
    ensure!(
        late.memory_kib <= early.memory_kib + early.memory_kib / 20 + 512,
        "memory: {early:?} … {late:?}"
    );
    Ok(())
}

/// Writes to one export till told to stop, through whatever happens.
fn load(lab: &Lab, n: usize, seed: u64, stop: &AtomicBool) -> Result<Writer> {
    let (slot, port, _) = EXPORTS[n];
    let options = Options {
        seed: seed + n as u64,
        address: Address::new(7, slot),
        target: target_mac(port),
        sectors: SECTORS,
        per_write: [2, 1, 2][n],
        depth: [16, 8, 4][n],
        patience: Duration::from_millis(100),
    };
    let mut writer = Writer::new(lab.open(port)?, options);
    while !stop.load(Ordering::Relaxed) {
        writer.run_for(Duration::from_millis(50))?;
    }
    writer.run_till(500, TIMEOUT)?;
    writer.settle(TIMEOUT)?;
    Ok(writer)
}

/// Strangers: bursts of reads of exports that they may not see or that are not there, and of garbage.
fn flood(lab: &Lab, seed: u64, stop: &AtomicBool) -> Result<u64> {
    let sockets = [lab.open(0)?, lab.open(1)?];
    let mut random = Random::new(seed);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let port = random.below(2) as usize;
        let frames: Vec<Vec<u8>> = (0..2000)
            .map(|_| {
                let address = Address::new(7, random.below(12) as u8);
                let mut request = Request::ata(
                    target_mac(port as u32),
                    address,
                    0x24,
                    random.below(SECTORS),
                    2,
                    &[],
                );
                request.src = Mac([2, 0xbb, 0, 0, 0, random.below(250) as u8]);
                request.tag = random.number() as u32;
                if address.slot < 5 {
                    request.ver_flags = [0x20, 0x18, 0x1c, 0x00][random.below(4) as usize];
                }
                let mut bytes = request.bytes();
                bytes.truncate(bytes.len() - random.below(12) as usize);
                bytes
            })
            .collect();
        sockets[port].send_many(&frames)?;
        sent += frames.len() as u64;
        sockets.iter().try_for_each(lab::Initiator::drain)?;
        std::thread::sleep(Duration::from_millis(random.below(100)));
    }
    Ok(sent)
}

/// First half: restarts, kills, reloads. Second half: reloads only, and a look at the footprint before and after each.
fn disturb(lab: &Lab, site: &Site, seed: u64) -> Result<(Target, Vec<Footprint>)> {
    let mut random = Random::new(seed);
    let mut target = site.start(lab)?;
    let half = length() / 2;
    let start = Instant::now();
    let mut restarts = 0;
    while start.elapsed() < half || restarts < 2 {
        std::thread::sleep(Duration::from_millis(500 + random.below(1500)));
        match random.below(3) {
            0 => target.process.kill()?,
            1 => {
                stop_well(&mut target)?;
            }
            _ => {
                reload(&mut target, site, random.below(2) == 0)?;
                continue;
            }
        }
        target = site.start(lab)?;
        restarts += 1;
    }
    let mut footprints = Vec::new();
    while start.elapsed() < half * 2 || footprints.len() < 4 {
        std::thread::sleep(Duration::from_millis(500 + random.below(500)));
        reload(&mut target, site, true)?;
        reload(&mut target, site, false)?;
        footprints.push(footprint(&target.process)?);
    }
    println!(
        "{restarts} restarts, {} pairs of reloads in the second half",
        footprints.len()
    );
    Ok((target, footprints))
}

/// Stops it; what it says of its chunks then must add up, with none in a frame that nobody answers.
fn stop_well(target: &mut Target) -> Result<()> {
    let status = target.process.stop()?;
    let log = target.process.log();
    ensure!(status == 0, "it ended with {status}:\n{log}");
    let mut ports = 0;
    for line in log.lines().filter(|line| line.contains(": served: ")) {
        let count = |name: &str| {
            let word = line
                .split(' ')
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.map_or(Ok(0), str::parse::<u64>)
        };
        let (all, held) = (count("chunks")?, count("chunks_held")?);
        let rest = count("chunks_pool")? + count("chunks_fill")? + count("chunks_tx")?;
        // Two queues of 2048 chunks.
        ensure!(all == 4096 && held == 0 && rest == all, "chunks are lost: {line}");
        ports += 1;
    }
    ensure!(ports == 2, "{ports} ports tell their figures:\n{log}");
    Ok(())
}

fn reload(target: &mut Target, site: &Site, extra: bool) -> Result<()> {
    site.configure(extra)?;
    let mark = target.process.mark();
    target.process.signal(Signal::SIGHUP)?;
    let reloaded = |line: &str| line.contains("reloaded");
    target
        .process
        .wait_for_after(mark, reloaded, TIMEOUT)
        .context("waiting for the reload")?;
    Ok(())
}

#[test]
fn it_goes_on_and_on_and_nothing_grows_or_is_lost() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(lab::Options {
        queues: 2,
        links: 2,
        ..Default::default()
    })?;
    let seed = seed();
    let site = Site::new()?;
    site.configure(false)?;
    let stop = AtomicBool::new(false);
    let (lab, site, stop) = (&lab, &site, &stop);
    let (writers, flooded, disturbed) = std::thread::scope(|scope| {
        let loads: Vec<_> = (0..EXPORTS.len())
            .map(|n| scope.spawn(move || load(lab, n, seed, stop)))
            .collect();
        let flooder = scope.spawn(move || flood(lab, seed, stop));
        let disturbed = disturb(lab, site, seed);
        stop.store(true, Ordering::Relaxed);
        let writers: Vec<_> = loads
            .into_iter()
            .map(|load| load.join().expect("a writer panicked"))
            .collect();
        (writers, flooder.join().expect("the flooder panicked"), disturbed)
    });
    let (mut target, footprints) = disturbed?;
    let flooded = flooded?;

    for (writer, image) in writers.into_iter().zip(&site.images) {
        let mut writer = writer?;
        println!(
            "{} writes acknowledged, {} sent again",
            writer.acknowledged, writer.retransmissions
        );
        writer.judge_by_reading()?.nothing_lost()?;
        writer.judge(|lba| image.read(lba, 1))?.nothing_lost()?;
    }
    println!(
        "{flooded} frames of strangers; footprints {:?} … {:?}",
        footprints.first(),
        footprints.last()
    );

    nothing_grows(&footprints)?;
    stop_well(&mut target)?;
    println!(
        "{}",
        target
            .process
            .log()
            .lines()
            .rev()
            .take(8)
            .collect::<Vec<_>>()
            .join("\n")
    );
    Ok(())
}
