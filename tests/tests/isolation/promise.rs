//! The promise of docs/architecture.md: with one export's disk stuck, slow or throttled another one on the same queue keeps 90 % of its
//! rate, and the 99th percentile of its answers within twice what it was and 100 µs.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use disks::io_engine::IoEngine;
use lab::image::SECTOR;
use lab::needs;

use super::load::{Ask, OUTSTANDING, OtherUser, SOURCES, Sources};
use super::{NEEDS, Served, Site, TIMEOUT, bad};

/// How many each source keeps outstanding: all but the last as initiators do, that one as many as it can.
const FEW: [usize; 4] = [16, 16, 16, 120];

fn stuck(mtu: u32, engine: IoEngine) -> Result<()> {
    let mut served = Served::new(Site {
        mtu,
        engine,
        ..Site::default()
    })?;
    let mut salt = 0;
    served.keeps_its_pace(|served| {
        served.disk.switches().hangs.store(true, Ordering::Relaxed);
        salt += 1;
        served.press(Ask::All, SOURCES * OUTSTANDING, salt)
    })?;
    ensure!(served.lab.open(0)?.find(bad(0))?.read(2048, 1)?.len() == SECTOR);
    engine.is_used_by(&served.target)?;
    served.target.process.stop()?;
    Ok(())
}

#[test]
fn an_export_on_a_stuck_disk_takes_nothing_from_another() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for mtu in [1500, 9000] {
        stuck(mtu, IoEngine::Uring).with_context(|| format!("MTU {mtu}"))?;
    }
    stuck(1500, IoEngine::Threads).context("without io_uring")
}

/// Presses on an export whose disk needs this long for each request until that many are answered; then looks at the other one.
fn slow(site: Site, kind: Ask, windows: &[usize], request_us: u64, enough: u32) -> Result<()> {
    let mut served = Served::new(site)?;
    let takes = Duration::from_micros(request_us);
    let mut sources = Sources::new(&served, kind, windows, takes)?;
    served
        .disk
        .switches()
        .request_us
        .store(request_us, Ordering::Relaxed);
    // Not counted: what was waiting before all of them had asked.
    sources.go_on(takes * 20 + Duration::from_millis(500))?;
    sources.answered.fill(0);
    let limit = Instant::now() + TIMEOUT + takes * enough * 4;
    while sources.answered.iter().sum::<u32>() < enough {
        ensure!(Instant::now() < limit, "{}", served.target.process.threads());
        sources.go_on(Duration::from_millis(500))?;
    }
    sources.are_even()?;

    let slow_down = |served: &Served| {
        let switches = served.disk.switches();
        switches.request_us.store(request_us, Ordering::Relaxed);
    };
    // The test makes the disk, on the processors that serve: what that costs is no work of xblade.
    let control = |served: &Served| {
        slow_down(served);
        OtherUser::new(served, kind)
    };
    served.keeps_its_pace_against(control, |served| {
        sources.begin_anew()?;
        slow_down(served);
        sources.go_on(Duration::from_millis(100))
    })?;
    served.target.process.stop()?;
    Ok(())
}

#[test]
fn a_slow_disk_is_shared_evenly_and_takes_nothing_from_another_export() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for mtu in [1500, 9000] {
        let site = Site {
            mtu,
            ..Site::default()
        };
        slow(site, Ask::Reads, &FEW, 2000, 1000).with_context(|| format!("MTU {mtu}"))?;
        for kind in [Ask::Reads, Ask::Writes] {
            slow(site, kind, &[OUTSTANDING; SOURCES], 2000, 2400)
                .with_context(|| format!("MTU {mtu}, {kind:?} by many sources"))?;
        }
    }
    let site = Site {
        engine: IoEngine::Threads,
        ..Site::default()
    };
    slow(site, Ask::Reads, &FEW, 2000, 1000).context("without io_uring")
}

/// Five requests a second.
#[test]
fn a_throttled_disk_is_shared_evenly_and_takes_nothing_from_another_export() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for mtu in [1500, 9000] {
        let site = Site {
            mtu,
            ..Site::default()
        };
        slow(site, Ask::Reads, &FEW, 200_000, 80).with_context(|| format!("MTU {mtu}"))?;
    }
    Ok(())
}
