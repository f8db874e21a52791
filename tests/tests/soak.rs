//! Endurance: verified load, floods, reloads and restarts, over and over; memory and file descriptors stay flat.
//!
//! Half a minute by default; `cargo xtask test --soak MINUTES` sets how long.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::frame::ata;
use lab::needs::Need;
use lab::target::binary;
use lab::{Address, Image, Initiator, Lab, Options, Process, Request, Target, needs};
use nix::sys::signal::Signal;

const SECTORS: u64 = 1 << 16;
/// Load of a round; its stamps say which round wrote a sector, and the seed that it was ours.
const LOAD: &str = "--mix 50 --destroy-data --verify --seed 1 --depth 16 --duration 4s --timeout 60s";

fn how_long() -> Duration {
    let minutes = std::env::var("XBLADE_SOAK_MINUTES")
        .ok()
        .and_then(|text| text.parse().ok());
    minutes.map_or(Duration::from_secs(30), |minutes: u64| {
        Duration::from_secs(60 * minutes)
    })
}

/// Starts `xblade bench` on link `n` against e1.{n + 1}.
fn bench(lab: &Lab, n: u32, options: &str) -> Result<Process> {
    let (interface, address) = (format!("eth{n}"), format!("1.{}", n + 1));
    let mut args = vec!["bench", &interface, &address, "--json"];
    args.extend(options.split(' '));
    Process::spawn(&lab.initiator, &binary()?, &args)
}

/// A bench must end by itself and find nothing wrong.
fn holds(bench: &mut Process, what: &str) -> Result<()> {
    let status = bench.wait(Duration::from_secs(120))?;
    ensure!(status.success(), "{what}: {status}: {}", bench.log());
    Ok(())
}

/// Strangers' frames, refused ones and broken ones, for a while.
fn flood(initiator: &Initiator, target: Mac, time: Duration) -> Result<()> {
    let mut stranger = Request::ata(target, Address::new(1, 1), ata::READ_EXT, 0, 1, &[]);
    (stranger.src, stranger.tag) = (Mac([2, 0, 0, 0, 0, 0x66]), 0x0666);
    let mut lost = stranger.clone();
    lost.address = Address::new(9, 9);
    let runt = stranger.bytes()[..30].to_vec();
    let frames: Vec<Vec<u8>> = (0..100)
        .flat_map(|_| [stranger.bytes(), lost.bytes(), runt.clone()])
        .collect();
    let end = Instant::now() + time;
    while Instant::now() < end {
        initiator.send_many(&frames)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    initiator.drain()
}

fn open_files(process: &Process) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", process.pid()))?.count())
}

#[test]
fn load_floods_reloads_and_restarts() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        mtu: 9000,
        links: 2,
        ..Options::default()
    })?;
    let images = [Image::sparse(SECTORS)?, Image::sparse(SECTORS)?];
    let config = images[0].directory().join("xblade.toml");
    let write_config = |spin_us: u32| {
        let allow = lab::link::initiator_mac(0);
        let text = format!(
            "[defaults]\nspin_us = {spin_us}\n\
             [[export]]\nshelf = 1\nslot = 1\npath = {:?}\ninterfaces = [\"eth0\"]\nallow = [\"{allow}\"]\n\
             [[export]]\nshelf = 1\nslot = 2\npath = {:?}\ninterfaces = [\"eth1\"]\nsync = true\n",
            images[0].as_str(),
            images[1].as_str()
        );
        std::fs::write(&config, text).context("writing the configuration")
    };
    write_config(50)?;
    let state = images[0].directory().join("state");
    let odd = "odd path";
    let args = [
        "daemon",
        "--config",
        config.to_str().context(odd)?,
        "--state-dir",
        state.to_str().context(odd)?,
    ];
    let mut target = Target::ready(&lab.target, &args, 2)?;
    // Every sector gets a stamp first.
    for n in 0..2 {
        let fill =
            "--write --sequential --destroy-data --verify --seed 1 --sectors 16 --count 4096 --depth 16";
        holds(&mut bench(&lab, n, fill)?, "filling")?;
    }

    let (start, mut round, mut after_first) = (Instant::now(), 0_u32, None);
    while start.elapsed() < how_long() {
        round += 1;
        let initiator = lab.open(0)?;
        let mut loads = [bench(&lab, 0, LOAD)?, bench(&lab, 1, LOAD)?];
        flood(&initiator, lab::link::target_mac(0), Duration::from_secs(1))?;
        write_config(if round % 2 == 0 { 50 } else { 0 })?;
        target.process.signal(Signal::SIGHUP)?;
        flood(&initiator, lab::link::target_mac(0), Duration::from_secs(1))?;
        if round.is_multiple_of(3) {
            // In the middle of the load: initiators ask again, nothing that was acknowledged is lost.
            if round.is_multiple_of(2) {
                target.process.kill()?;
            } else {
                ensure!(target.process.stop()? == 0);
            }
            target = Target::ready(&lab.target, &args, 2)?;
            after_first = None;
        }
        for load in &mut loads {
            holds(load, &format!("round {round}"))?;
        }
        let now = (target.process.anonymous_kib()?, open_files(&target.process)?);
        println!("round {round}: {} KiB, {} files", now.0, now.1);
        let first = *after_first.get_or_insert(now);
        ensure!(
            now.0 < first.0 + 8192,
            "memory grew from {} to {} KiB",
            first.0,
            now.0
        );
        ensure!(
            now.1 <= first.1 + 2,
            "open files grew from {} to {}",
            first.1,
            now.1
        );
    }
    ensure!(target.process.stop()? == 0);

    // What is on the disks after all this, read by a new process.
    let _target = Target::ready(&lab.target, &args, 2)?;
    for n in 0..2 {
        holds(
            &mut bench(
                &lab,
                n,
                "--sequential --verify --seed 1 --sectors 16 --count 4096",
            )?,
            "the end",
        )?;
    }
    Ok(())
}
