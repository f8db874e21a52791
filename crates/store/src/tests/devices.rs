//! Block devices, by way of loop devices; where those cannot be had the tests say so and are skipped.

use std::path::PathBuf;
use std::process::Command;

use super::{Driver, image, stamp};
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};
use engine::{Durability, Extent};

/// A loop device over a file, detached when dropped.
struct Loop {
    _dir: tempfile::TempDir,
    file: PathBuf,
    device: PathBuf,
}

impl Loop {
    fn new(sectors: u64) -> Option<Loop> {
        let dir = tempfile::Builder::new()
            .prefix("xblade-store-")
            .tempdir()
            .unwrap();
        let file = dir.path().join("disk");
        image(&file, sectors);
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&file)
            .output()
            .ok()?;
        if !output.status.success() {
            crate::skip(super::why_not(&output));
            return None;
        }
        let device = String::from_utf8(output.stdout).unwrap().trim().into();
        Some(Loop {
            _dir: dir,
            file,
            device,
        })
    }

    fn run(&self, program: &str, args: &[&str]) -> bool {
        let status = Command::new(program).args(args).arg(&self.device).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        assert!(
            self.run("losetup", &["--detach"]),
            "{} stays",
            self.device.display()
        );
    }
}

#[test]
fn a_block_device_is_a_disk() {
    let Some(disk) = Loop::new(8192) else { return };
    for kind in [StoreKind::Mmap, StoreKind::Direct] {
        let store = open(&StoreOptions::new(kind, &disk.device)).unwrap();
        assert_eq!(store.sectors(), 8192);
        let mut driver = Driver::new(&store);
        for (lba, durability) in [
            (0, Durability::WriteBack),
            (8191, Durability::Durable),
            (77, Durability::Durable),
        ] {
            driver.write(lba, &stamp(lba, 1), durability).unwrap();
            assert_eq!(driver.read(lba, 1).unwrap(), stamp(lba, 1));
        }
        assert!(driver.read(8191, 2).is_err());
        driver.verify(0, 8192).unwrap();
        driver.flush().unwrap();
        if store.traits().trim {
            driver.trim(&[Extent { lba: 64, count: 64 }]).unwrap();
            assert_eq!(driver.read(77, 1).unwrap(), [0; 512]);
            driver.write(77, &stamp(77, 1), Durability::WriteBack).unwrap();
        }
        store.close().unwrap();
    }
    let bytes = std::fs::read(&disk.file).unwrap();
    assert!(
        [0, 77, 8191]
            .iter()
            .all(|lba| bytes[lba * 512..][..512] == stamp(*lba as u64, 1))
    );
}

#[test]
fn a_device_that_grows_is_served_whole() {
    let Some(disk) = Loop::new(2048) else { return };
    for (kind, sectors) in [(StoreKind::Mmap, 4096), (StoreKind::Direct, 8192)] {
        let store = open(&StoreOptions::new(kind, &disk.device)).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&disk.file)
            .unwrap()
            .set_len(sectors * 512)
            .unwrap();
        assert!(disk.run("losetup", &["--set-capacity"]));
        assert_eq!(store.refresh().unwrap(), sectors);
        let mut driver = Driver::new(&store);
        driver
            .write(sectors - 1, &stamp(1, 1), Durability::Durable)
            .unwrap();
        assert_eq!(driver.read(sectors - 1, 1).unwrap(), stamp(1, 1));
        store.close().unwrap();
    }
}

#[test]
fn one_process_may_split_a_device_but_not_share_a_mounted_one() {
    let Some(disk) = Loop::new(16 << 11) else { return };
    let range = |offset, length| StoreOptions {
        offset,
        length,
        ..StoreOptions::new(StoreKind::Mmap, &disk.device)
    };
    let halves = (open(&range(0, 1000)).unwrap(), open(&range(1000, 1000)).unwrap());
    assert!(open(&range(999, 2)).is_err());
    halves.0.close().unwrap();
    halves.1.close().unwrap();
    drop(halves);
    assert!(disk.run("mkfs.ext4", &["-q"]));
    let point = disk.file.with_file_name("mnt");
    std::fs::create_dir(&point).unwrap();
    let mount = |args: &[&str]| Command::new(args[0]).args(&args[1..]).status().unwrap().success();
    let (device, target) = (disk.device.to_str().unwrap(), point.to_str().unwrap());
    assert!(mount(&["mount", device, target]));
    let refused = open(&range(0, 0)).map(drop).map_err(|error| error.to_string());
    assert!(mount(&["umount", target]));
    assert_eq!(refused, Err(format!("{device}: in use by the mount at {target}")));
    open(&range(0, 0)).expect("free again");
}
