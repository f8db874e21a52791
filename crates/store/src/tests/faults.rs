//! Operators and disks that misbehave under the mapping.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{Driver, image, stamp};
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};
use engine::{Durability, FaultKind, Health};

pub(super) fn patiently(what: &str, mut attempt: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !attempt() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_file_cut_short_fails_its_requests_only() {
    file_cut_short(StoreKind::Mmap);
}

#[test]
fn a_file_cut_short_under_direct_io_fails_its_requests_only() {
    file_cut_short(StoreKind::Direct);
}

fn file_cut_short(kind: StoreKind) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = image(&path, 4096);
    let store = open(&StoreOptions::new(kind, &path)).unwrap();
    let mut driver = Driver::new(&store);
    for lba in 0..4096 {
        driver.write(lba, &stamp(lba, 1), Durability::WriteBack).unwrap();
    }
    file.set_len(1001 * 512).unwrap();
    let fault = driver.read(3000, 4).expect_err("beyond the end");
    assert_eq!((fault.kind, fault.lba), (FaultKind::Read, 3000));
    let fault = driver.read(999, 4).expect_err("across the end");
    assert_eq!((fault.kind, fault.lba), (FaultKind::Read, 1001));
    let fault = driver
        .write(2000, &stamp(2000, 2), Durability::WriteBack)
        .expect_err("beyond the end");
    assert_eq!((fault.kind, fault.lba), (FaultKind::Write, 2000));
    assert_eq!(
        file.metadata().unwrap().len(),
        1001 * 512,
        "a write must not make it longer again"
    );
    assert_eq!(store.refresh().unwrap(), 4096, "a disk does not shrink");
    // The operator makes it as long as before, but what was written is gone.
    file.set_len(4096 * 512).unwrap();
    driver.flush().expect_err("acknowledged writes are lost");
    let Health::LostWrites(lost) = store.health() else {
        panic!("healthy");
    };
    assert_eq!((lost.extent.lba, lost.extent.end()), (1001, 4096));
    assert!(lost.stopped && lost.cause.contains("cut short"), "{lost}");
    assert!(driver.write(5, &stamp(5, 3), Durability::WriteBack).is_err());
    for lba in 0..1001 {
        assert_eq!(driver.read(lba, 1).unwrap(), stamp(lba, 1), "sector {lba}");
    }
    store.accept_lost_writes();
    patiently("no recovery", || driver.read(3000, 1).is_ok());
    assert_eq!(driver.read(3000, 1).unwrap(), [0; 512]);
    driver.write(3000, &stamp(3000, 4), Durability::Durable).unwrap();
    driver.flush().unwrap();
    store.close().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[3000 * 512..3001 * 512], stamp(3000, 4));
    assert!((0..1001).all(|lba| bytes[lba * 512..(lba + 1) * 512] == stamp(lba as u64, 1)));
}

/// Nothing is asked beyond the end, and all of it was on the medium before.
#[test]
fn a_flush_notices_that_the_file_was_cut_short() {
    for kind in [StoreKind::Mmap, StoreKind::Direct] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = image(&path, 4096);
        let store = open(&StoreOptions::new(kind, &path)).unwrap();
        let mut driver = Driver::new(&store);
        driver.write(1000, &stamp(1000, 1), Durability::Durable).unwrap();
        driver.flush().unwrap();
        file.set_len(0).unwrap();
        driver.flush().expect_err("the write is gone");
        file.set_len(4096 * 512).unwrap();
        driver.flush().expect_err("it does not come back");
        assert!(matches!(store.health(), Health::LostWrites(_)));
    }
}

/// Reads that fail meanwhile see the same cut.
#[test]
fn a_cut_that_was_accepted_does_not_come_back() {
    for kind in [StoreKind::Mmap, StoreKind::Direct] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = image(&path, 4096);
        let store = open(&StoreOptions::new(kind, &path)).unwrap();
        let mut driver = Driver::new(&store);
        driver.write(1000, &stamp(1000, 1), Durability::Durable).unwrap();
        file.set_len(0).unwrap();
        driver.flush().expect_err("the write is gone");
        driver.read(2000, 1).expect_err("nothing is there");
        file.set_len(4096 * 512).unwrap();
        store.accept_lost_writes();
        driver.write(1000, &stamp(1000, 2), Durability::Durable).unwrap();
        driver.flush().unwrap();
        assert_eq!(store.health(), Health::Healthy, "{kind:?}");
    }
}

/// Reads while the file is cut and restored all the time: never a byte that is neither the file's nor a fault's.
#[test]
fn no_foreign_page_is_ever_read() {
    const KEPT: u64 = 512;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = image(&path, 2048);
    let store = open(&StoreOptions::new(StoreKind::Mmap, &path)).unwrap();
    let mut driver = Driver::new(&store);
    for lba in 0..KEPT {
        driver.write(lba, &stamp(lba, 1), Durability::WriteBack).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..3u64 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let mut driver = Driver::new(store);
                let mut random = seed * 7 + 1;
                while !stop.load(Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let lba = (random >> 33) % 2048;
                    match driver.read(lba, 1) {
                        Ok(data) if lba < KEPT => assert!(data == stamp(lba, 1), "sector {lba}"),
                        Ok(data) => assert!(data == [0; 512], "sector {lba}"),
                        Err(fault) => assert!(lba >= KEPT, "{fault}"),
                    }
                }
            });
        }
        let mut writer = Driver::new(&store);
        for round in 0..200u64 {
            file.set_len(KEPT * 512).unwrap();
            for lba in 0..8 {
                // Refused as soon as the cut is noticed.
                let _ = writer.write(KEPT - 1 - lba, &stamp(KEPT - 1 - lba, 1), Durability::WriteBack);
            }
            std::thread::sleep(Duration::from_millis(round % 4));
            file.set_len(2048 * 512).unwrap();
        }
        stop.store(true, Relaxed);
    });
    store.close().expect_err("what was cut off is lost");
    let bytes = std::fs::read(&path).unwrap();
    assert!((0..KEPT).all(|lba| bytes[lba as usize * 512..(lba as usize + 1) * 512] == stamp(lba, 1)));
}

/// A small file system, gone when dropped.
struct Mount {
    _dir: tempfile::TempDir,
    point: PathBuf,
}

impl Mount {
    /// `None`, with a line that says why, where the test may not mount.
    fn new(mount: impl FnOnce(&Path, &Path) -> Command) -> Option<Mount> {
        let dir = tempfile::Builder::new()
            .prefix("xblade-store-")
            .tempdir()
            .unwrap();
        let point = dir.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let output = mount(dir.path(), &point).output().ok()?;
        if !output.status.success() {
            crate::skip(super::why_not(&output));
            return None;
        }
        Some(Mount { _dir: dir, point })
    }

    fn tmpfs() -> Option<Mount> {
        Mount::new(|_, point| {
            let mut command = Command::new("mount");
            command
                .args(["-t", "tmpfs", "-o", "size=2m", "xblade-test"])
                .arg(point);
            command
        })
    }

    fn ramfs() -> Option<Mount> {
        Mount::new(|_, point| {
            let mut command = Command::new("mount");
            command.args(["-t", "ramfs", "xblade-test"]).arg(point);
            command
        })
    }

    fn ext4() -> Option<Mount> {
        Mount::new(|dir, point| {
            let disk = dir.join("disk");
            image(&disk, 16 << 11);
            let made = Command::new("mkfs.ext4")
                .args(["-q", "-m", "0"])
                .arg(&disk)
                .status();
            if !made.is_ok_and(|status| status.success()) {
                eprintln!("mkfs.ext4 did not work");
            }
            let mut command = Command::new("mount");
            command.args(["-o", "loop"]).arg(&disk).arg(point);
            command
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.point).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()),
            "{} stays mounted",
            self.point.display()
        );
    }
}

/// A sparse image of 32 MiB on a file system with less: writes fail when it is full, and only writes.
fn full_file_system(kind: StoreKind, durability: Durability, mount: &Mount) {
    const SECTORS: u64 = 32 << 11;
    let path = mount.point.join("image");
    image(&path, SECTORS);
    let ballast = mount.point.join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    std::fs::File::open(&ballast).unwrap().sync_all().unwrap();
    let store = open(&StoreOptions::new(kind, &path)).unwrap();
    let mut driver = Driver::new(&store);
    let mut written = Vec::new();
    let mut fault = None;
    for lba in (0..SECTORS).step_by(8) {
        let data: Vec<u8> = (lba..lba + 8).flat_map(|lba| stamp(lba, 5)).collect();
        match driver.write(lba, &data, durability) {
            Ok(()) => written.push(lba),
            Err(error) => {
                fault = Some((lba, error));
                break;
            }
        }
    }
    let (failed, fault) = fault.expect("2 to 16 MiB hold 32 MiB?");
    assert_eq!((fault.kind, fault.lba), (FaultKind::Write, failed));
    assert_eq!(fault.source.raw_os_error(), Some(libc::ENOSPC));
    // What was acknowledged is there; what was never written reads as zeros, although no page can be had.
    for lba in written.iter().step_by(7) {
        assert!(driver.read(*lba, 1).unwrap() == stamp(*lba, 5));
    }
    assert_eq!(driver.read(SECTORS - 8, 8).unwrap(), [0; 4096]);
    // Space comes back, and with it the service.
    std::fs::remove_file(&ballast).unwrap();
    patiently("no recovery", || {
        driver.write(failed, &stamp(failed, 6), durability).is_ok()
    });
    assert_eq!(driver.read(failed, 1).unwrap(), stamp(failed, 6));
    patiently("flushes keep failing", || driver.flush().is_ok());
    store.close().unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap()[failed as usize * 512..][..512],
        stamp(failed, 6)
    );
}

/// It has no O_DIRECT; the mapping serves it.
#[test]
fn on_ramfs_the_direct_store_is_refused_in_one_message_that_names_the_other() {
    let Some(mount) = Mount::ramfs() else { return };
    let path = mount.point.join("image");
    image(&path, 64);
    let direct = open(&StoreOptions::new(StoreKind::Direct, &path)).unwrap_err();
    let message = direct.to_string();
    let wanted = "its file system has no direct I/O (O_DIRECT); use store = \"mmap\"";
    assert!(message.contains(wanted) && message.contains("image"), "{message}");
    assert!(!message.contains("os error"), "{message}");
    assert!(std::error::Error::source(&direct).is_none(), "told twice");
    let store = open(&StoreOptions::new(StoreKind::Mmap, &path)).unwrap();
    let mut driver = Driver::new(&store);
    driver.write(3, &stamp(3, 1), Durability::Durable).unwrap();
    assert_eq!(driver.read(3, 1).unwrap(), stamp(3, 1));
}

#[test]
fn a_full_tmpfs_fails_writes_until_there_is_space() {
    if let Some(mount) = Mount::tmpfs() {
        full_file_system(StoreKind::Mmap, Durability::WriteBack, &mount);
    }
}

#[test]
fn a_full_ext4_fails_writes_until_there_is_space() {
    if let Some(mount) = Mount::ext4() {
        full_file_system(StoreKind::Mmap, Durability::WriteBack, &mount);
    }
}

#[test]
fn a_full_ext4_fails_direct_writes_until_there_is_space() {
    if let Some(mount) = Mount::ext4() {
        full_file_system(StoreKind::Direct, Durability::WriteBack, &mount);
    }
}

#[test]
fn a_full_ext4_fails_durable_direct_writes_until_there_is_space() {
    if let Some(mount) = Mount::ext4() {
        full_file_system(StoreKind::Direct, Durability::Durable, &mount);
    }
}
