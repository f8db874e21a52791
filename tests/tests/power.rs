//! Power cuts: xblade runs in a virtual machine on ext4, on a disk with a volatile cache. The machine is killed at
//! random moments, the disk keeps what it was told to flush and of the rest a random part, and after the next boot
//! every sector is compared with what was acknowledged.
//!
//! `XBLADE_CUTS=N` cuts the power N times; 5 times otherwise.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::disk::Disk;
use lab::history::seed;
use lab::image::Random;
use lab::needs::Need;
use lab::vm::host::{Host, MAC, Parts, ext4};
use lab::vm::kernel::Kernel;
use lab::writer::{Options, Writer};
use lab::{Address, Namespace, needs};

fn cuts() -> usize {
    std::env::var("XBLADE_CUTS").map_or(5, |text| text.parse().expect("XBLADE_CUTS is a number"))
}

/// Age that the oldest lost write had at each cut.
fn cut_again_and_again(arguments: &str) -> Result<Vec<Duration>> {
    let namespace = Namespace::new("host")?;
    let disk = Disk::new(&namespace, 64)?;
    disk.preset(&ext4(64)?);
    let binary = lab::target::binary()?;
    let parts = Parts {
        kernel: Kernel::get()?,
        disk: disk.path(),
        xblade: Path::new(&binary),
        arguments,
        mtu: 1500,
    };
    let host = Host::new(namespace, &parts)?;
    let options = Options {
        seed: seed(),
        address: Address::new(7, 3),
        target: MAC,
        sectors: 256,
        per_write: 2,
        depth: 8,
        patience: Duration::from_millis(500),
    };
    let mut writer = Writer::new(host.initiator()?, options);
    let mut random = Random::new(options.seed);
    let mut ages = Vec::new();
    for round in 1..=cuts() {
        let boot = Instant::now();
        let vm = host.switch_on()?;
        let boot = boot.elapsed();
        if round > 1 {
            let verdict = writer.judge_by_reading()?;
            assert!(
                verdict.foreign.is_empty(),
                "sectors {:?} hold what nobody wrote",
                verdict.foreign
            );
            let cut = cut_at(&ages);
            let age = verdict
                .lost
                .iter()
                .map(|(_, at)| cut.saturating_duration_since(*at))
                .max();
            println!(
                "{} sectors kept, {} writes lost, the oldest {age:?} old",
                verdict.kept,
                verdict.lost.len()
            );
            let last = ages.len() - 1;
            ages[last].1 = age.unwrap_or_default();
        }
        let before = writer.acknowledged;
        writer.run_till(1, Duration::from_secs(20))?;
        writer.run_for(Duration::from_millis(500 + random.below(3000)))?;
        vm.cut()?;
        ages.push((Instant::now(), Duration::ZERO));
        writer.drain()?;
        let lost = disk.cut(&mut random);
        let written = writer.acknowledged - before;
        println!(
            "cut {round}: boot {boot:?}, {written} writes acknowledged, the disk lost {lost} sectors of its cache"
        );
    }
    let _vm = host.switch_on()?;
    let verdict = writer.judge_by_reading()?;
    assert!(
        verdict.foreign.is_empty(),
        "sectors {:?} hold what nobody wrote",
        verdict.foreign
    );
    let cut = cut_at(&ages);
    let last = ages.len() - 1;
    ages[last].1 = verdict
        .lost
        .iter()
        .map(|(_, at)| cut.saturating_duration_since(*at))
        .max()
        .unwrap_or_default();
    assert!(
        writer.acknowledged > 50 * cuts() as u64,
        "too little was written to show anything"
    );
    Ok(ages.into_iter().map(|(_, age)| age).collect())
}

fn cut_at(ages: &[(Instant, Duration)]) -> Instant {
    ages[ages.len() - 1].0
}

#[test]
fn no_write_acknowledged_in_sync_mode_is_lost() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::Tool("mkfs.ext4"),
        Need::File("/dev/fuse")
    );
    let ages = cut_again_and_again("serve 7 3 eth0 /mnt/image --sync")?;
    assert!(
        ages.iter().all(Duration::is_zero),
        "acknowledged writes were lost: {ages:?}"
    );
    Ok(())
}

/// What the emulated machine may add to `flush_interval`: it is slow, and what it writes back takes time on the way.
const MARGIN: Duration = Duration::from_millis(1500);

#[test]
fn write_back_loses_no_more_than_its_flush_interval() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::Tool("mkfs.ext4"),
        Need::File("/dev/fuse")
    );
    let ages = cut_again_and_again("serve 7 3 eth0 /mnt/image --flush-interval 1s")?;
    println!("the oldest lost write was {ages:?} old");
    assert!(
        ages.iter().any(|age| !age.is_zero()),
        "nothing was ever lost: was the power cut at all?"
    );
    assert!(
        ages.iter().all(|age| *age <= Duration::from_secs(1) + MARGIN),
        "too much was lost: {ages:?}"
    );
    Ok(())
}
