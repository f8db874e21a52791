//! Loads that once took all the memory to receive into, each in a way of its own.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use disks::io_engine::IoEngine;
use lab::faulty_export::cold;
use lab::file_system::EXT4;
use lab::{Lab, eventually, needs};

use super::load::{Ask, OUTSTANDING, SOURCES};
use super::{NEEDS, Served, Site, TIMEOUT};

/// Presses on a disk that needs so long for each request, and looks at the other export after that.
fn on_a_slow_disk(site: Site, kind: Ask, request_us: u64) -> Result<()> {
    let mut served = Served::new(site)?;
    let mut salt = 0;
    served.keeps_its_pace(|served| {
        let switches = served.disk.switches();
        switches.request_us.store(request_us, Ordering::Relaxed);
        salt += 1;
        served.press(kind, SOURCES * OUTSTANDING, salt)
    })?;
    served.target.process.stop()?;
    Ok(())
}

#[test]
fn many_initiators_of_three_exports_of_a_throttled_disk() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for lines in ["flush_interval = \"100ms\"\n", super::DIRECT] {
        let site = Site {
            exports: 3,
            mib: 16,
            lines,
            ..Site::default()
        };
        on_a_slow_disk(site, Ask::All, 200_000).with_context(|| lines.to_owned())?;
    }
    Ok(())
}

/// Jumbo frames to one that commits each write, at 20 requests a second.
#[test]
fn large_writes_to_a_synchronous_export_on_a_throttled_disk() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for (lines, engine) in [
        ("sync = true\n", IoEngine::Uring),
        ("sync = true\nstore = \"direct\"\n", IoEngine::Uring),
        ("sync = true\nstore = \"direct\"\n", IoEngine::Threads),
    ] {
        let site = Site {
            mtu: 9000,
            mib: 32,
            lines,
            engine,
            ..Site::default()
        };
        on_a_slow_disk(site, Ask::Writes, 50_000).with_context(|| format!("{lines}{engine:?}"))?;
    }
    Ok(())
}

/// Presses on a disk that hangs.
fn on_a_stuck_disk(mut served: Served, kind: Ask, each: usize) -> Result<()> {
    let mut salt = 0;
    served.keeps_its_pace(|served| {
        served.disk.switches().hangs.store(true, Ordering::Relaxed);
        salt += 1;
        served.press(kind, each, salt)?;
        if salt > 1 {
            return Ok(());
        }
        eventually("the disk is asked for something", TIMEOUT, || {
            Ok(served.disk.waiting() > 0)
        })
    })?;
    served.target.process.stop()?;
    Ok(())
}

/// However many an export says that it takes.
#[test]
fn an_export_that_advertises_very_many_buffers() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for lines in [
        "buffers = 1024\nflush_interval = \"100ms\"\n",
        "buffers = 1024\nflush_interval = \"100ms\"\nstore = \"direct\"\n",
    ] {
        let served = Served::new(Site {
            lines,
            ..Site::default()
        })?;
        on_a_stuck_disk(served, Ask::All, 4000).with_context(|| lines.to_owned())?;
    }
    Ok(())
}

/// Images on ext4 that are on the disk and not in memory. The file system is dropped last.
fn cold_images(engine: IoEngine) -> Result<()> {
    const EXPORTS: usize = 6;
    let site = Site {
        exports: EXPORTS,
        mib: 12,
        lines: "flush_interval = \"100ms\"\n",
        engine,
        ..Site::default()
    };
    let mut mounted = None;
    let served = Served::over(site, 128, |lab: &Lab, device: &Path| {
        let device = device.to_str().context("odd path")?;
        let place = mounted.insert(EXT4.make(&lab.target, device)?);
        let images = (0..EXPORTS).map(|n| {
            let path = place.path(&format!("image{n}"));
            cold(&lab.target, &path, site.mib << 20)?;
            Ok((path, String::new()))
        });
        images.collect()
    })?;
    on_a_stuck_disk(served, Ask::Fresh, 256)
}

#[test]
fn cold_reads_of_six_exports() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    cold_images(IoEngine::Uring)?;
    cold_images(IoEngine::Threads).context("without io_uring")
}
