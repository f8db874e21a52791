//! `kill -9` at random moments under verified writes: every acknowledged write is there.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::history::seed;
use lab::image::{Random, SECTOR};
use lab::link::target_mac;
use lab::needs::Need;
use lab::writer::{Options, Writer};
use lab::{Address, Image, Lab, Target, needs};

const ROUNDS: usize = 50;

fn killed_again_and_again(mtu: u32, extra: &[&str]) -> Result<()> {
    let lab = Lab::new(lab::Options {
        mtu,
        queues: 2,
        ..Default::default()
    })?;
    let sectors = 1024;
    let image = Image::sparse(sectors)?;
    let mut args = vec!["serve", "7", "3", "eth0", image.as_str()];
    args.extend(extra);
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
    let start = Instant::now();
    for round in 0..ROUNDS {
        let mut target = Target::ready(&lab.target, &args, 1)?;
        writer.run_till(1, Duration::from_secs(5))?;
        writer.run_for(Duration::from_millis(random.below(100)))?;
        target.process.kill()?;
        // Replies that it sent before it died are still to be heard.
        writer.drain()?;
        let verdict = writer.judge(|lba| image.read(lba, 1))?;
        verdict
            .nothing_lost()
            .map_err(|lost| lost.context(format!("after round {round}")))?;
        assert_eq!(verdict.kept + verdict.unanswered, sectors as usize);
    }
    let (acknowledged, took) = (writer.acknowledged, start.elapsed());
    println!("{ROUNDS} kills, {acknowledged} writes acknowledged, {took:?}");
    assert!(
        acknowledged > 20 * ROUNDS as u64,
        "too little was written to show anything"
    );
    // The same through a new process, with what was under way written at last.
    let _target = Target::ready(&lab.target, &args, 1)?;
    writer.settle(Duration::from_secs(10))?;
    writer.judge_by_reading()?.nothing_lost()?;
    assert_eq!(image.file().metadata()?.len(), sectors * SECTOR as u64);
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_in_write_back() -> Result<()> {
    needs!(Need::Root);
    killed_again_and_again(1500, &[])
}

#[test]
fn nothing_acknowledged_is_lost_in_sync_mode_with_jumbo_frames() -> Result<()> {
    needs!(Need::Root);
    killed_again_and_again(9000, &["--sync"])
}

#[test]
fn nothing_acknowledged_is_lost_with_the_direct_store() -> Result<()> {
    needs!(Need::Root);
    killed_again_and_again(1500, &["--direct"])
}
