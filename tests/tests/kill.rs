//! `kill -9` at random moments under verified writes: every acknowledged write is there.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use disks::io_engine::IoEngine;
use lab::image::{Random, SECTOR};
use lab::initiator::TIMEOUT;
use lab::link::target_mac;
use lab::needs::Need;
use lab::seed;
use lab::writer::{Options, Writer};
use lab::{Address, Image, Lab, Target, needs};

const ROUNDS: usize = 50;
/// With the thread engine, which differs in transfers only.
const FEWER_ROUNDS: usize = 15;

fn killed_again_and_again(mtu: u32, extra: &[&str], engine: IoEngine) -> Result<()> {
    killed_in(&std::env::temp_dir(), mtu, extra, engine)
}

fn killed_in(place: &Path, mtu: u32, extra: &[&str], engine: IoEngine) -> Result<()> {
    let lab = Lab::new(lab::Options {
        mtu,
        queues: 2,
        ..Default::default()
    })?;
    let sectors = 1024;
    engine.choose(&lab.target)?;
    let image = Image::sparse_in(place, sectors)?;
    let mut args = vec!["serve", "7", "3", "eth0", image.as_str()];
    args.extend(extra);
    let rounds = match engine {
        IoEngine::Uring => ROUNDS,
        IoEngine::Threads => FEWER_ROUNDS,
    };
    let options = Options {
        seed: seed(),
        address: Address::new(7, 3),
        target: target_mac(0),
        sectors,
        per_write: if mtu > 8000 { 16 } else { 2 },
        depth: 16,
        patience: Duration::from_millis(100),
    };
    let mut writer = Writer::new(lab.open(0)?, options);
    let mut random = Random::new(options.seed);
    let (start, mut torn) = (Instant::now(), 0);
    for round in 0..rounds {
        let mut target = Target::ready_again(&lab.target, &args, 1)?;
        writer.run_till(20 + random.below(300), TIMEOUT)?;
        if engine == IoEngine::Threads {
            engine.is_used_by(&target)?;
        }
        target.process.kill()?;
        // Replies that it sent before it died are still to be heard.
        writer.drain()?;
        let mut verdict = writer.judge(|lba| image.read(lba, 1))?;
        let mut cut = 0;
        if place == Path::new(MEMORY) {
            // What the documentation excepts: a write into a file in memory is a copy, which a kill can cut. None of these had an answer.
            cut = std::mem::take(&mut verdict.torn).len();
            torn += cut;
        }
        verdict
            .nothing_lost()
            .map_err(|lost| lost.context(format!("after round {round}")))?;
        assert_eq!(verdict.kept + verdict.unanswered + cut, sectors as usize);
    }
    let (acknowledged, took) = (writer.acknowledged, start.elapsed());
    println!("{rounds} kills, {acknowledged} writes acknowledged, {torn} sectors torn, {took:?}");
    // The same through a new process, with what was under way written at last.
    let _target = Target::ready_again(&lab.target, &args, 1)?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;
    assert_eq!(image.file().metadata()?.len(), sectors * SECTOR as u64);
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_in_write_back() -> Result<()> {
    needs!(Need::Root);
    killed_again_and_again(1500, &[], IoEngine::Uring)
}

#[test]
fn nothing_acknowledged_is_lost_in_write_back_with_jumbo_frames() -> Result<()> {
    needs!(Need::Root);
    killed_again_and_again(9000, &[], IoEngine::Uring)
}

#[test]
fn nothing_acknowledged_is_lost_in_sync_mode_with_jumbo_frames() -> Result<()> {
    needs!(Need::Root);
    killed_again_and_again(9000, &["--sync"], IoEngine::Uring)
}

#[test]
fn nothing_acknowledged_is_lost_with_the_direct_store() -> Result<()> {
    needs!(Need::Root);
    killed_again_and_again(1500, &["--direct"], IoEngine::Uring)
}

/// The file system whose sectors a kill can tear, if nothing has been acknowledged about them.
const MEMORY: &str = "/dev/shm";

#[test]
fn nothing_acknowledged_is_lost_or_torn_on_tmpfs() -> Result<()> {
    needs!(Need::Root, Need::File(MEMORY));
    killed_in(Path::new(MEMORY), 9000, &[], IoEngine::Uring)
}

#[test]
fn nothing_acknowledged_is_lost_with_the_direct_store_without_io_uring() -> Result<()> {
    needs!(Need::Root);
    for extra in [&["--direct"][..], &["--direct", "--sync"]] {
        killed_again_and_again(1500, extra, IoEngine::Threads)?;
    }
    Ok(())
}

/// A restart under load (an upgrade): SIGTERM, and a new process at once. Nothing is lost, and no write waits for more
/// than a second beyond what the restart itself takes.
#[test]
fn a_restart_loses_nothing_and_stalls_for_little_longer_than_it_takes() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(lab::Options::default())?;
    let image = Image::sparse(1024)?;
    let args = ["serve", "7", "3", "eth0", image.as_str(), "--sync"];
    let mut target = Target::ready(&lab.target, &args, 1)?;
    let options = Options {
        seed: seed(),
        address: Address::new(7, 3),
        target: target_mac(0),
        sectors: 1024,
        per_write: 2,
        depth: 8,
        patience: Duration::from_millis(50),
    };
    let mut writer = Writer::new(lab.open(0)?, options);
    writer.run_till(100, TIMEOUT)?;
    for _ in 0..3 {
        writer.longest_wait = Duration::ZERO;
        let (tx, restarted) = std::sync::mpsc::channel();
        let (again, restart) = std::thread::scope(|scope| -> Result<(Target, Duration)> {
            let (lab, args) = (&lab, &args);
            scope.spawn(move || {
                let start = Instant::now();
                let status = target.process.stop().expect("it ends in time");
                assert_eq!(status, 0, "{}", target.process.log());
                let again = Target::ready(&lab.target, args, 1);
                let _ = tx.send(again.map(|again| (again, start.elapsed())));
            });
            loop {
                writer.run_for(Duration::from_millis(20))?;
                if let Ok(again) = restarted.try_recv() {
                    break again;
                }
            }
        })?;
        target = again;
        writer.run_till(100, TIMEOUT)?;
        writer.settle(TIMEOUT)?;
        println!(
            "a restart took {restart:?}, a write waited for {:?}",
            writer.longest_wait
        );
        assert!(
            writer.longest_wait < restart + Duration::from_secs(1),
            "a restart took {restart:?}, a write waited for {:?}",
            writer.longest_wait
        );
    }
    writer.judge(|lba| image.read(lba, 1))?.nothing_lost()
}
