//! Block devices, by way of loop devices; where those cannot be had the tests say so and are skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Driver, image, open_beside, stamp};
use crate::completion_queue::CompletionQueue;
use crate::conflict::conflict;
use crate::open::open;
use crate::options::{StoreError, StoreKind, StoreOptions};
use crate::registry::StoreRegistry;
use engine::{Durability, Extent, Store};

/// A loop device over a file, detached when dropped.
pub(super) struct Loop {
    _dir: tempfile::TempDir,
    pub(super) file: PathBuf,
    /// Its number is anybody's while nothing is attached.
    pub(super) device: PathBuf,
    attached: bool,
}

impl Loop {
    pub(super) fn new(sectors: u64) -> Option<Loop> {
        Loop::with(sectors, &[])
    }

    /// With more arguments for `losetup`.
    fn with(sectors: u64, arguments: &[&str]) -> Option<Loop> {
        let dir = tempfile::Builder::new()
            .prefix("xblade-store-")
            .tempdir()
            .unwrap();
        let file = dir.path().join("disk");
        image(&file, sectors);
        let device = match attach(&file, arguments) {
            Ok(device) => device,
            Err(why) => {
                crate::skip(&why);
                return None;
            }
        };
        Some(Loop {
            _dir: dir,
            file,
            device,
            attached: true,
        })
    }

    fn detach(&mut self) {
        self.attached = false;
        assert!(
            self.run("losetup", &["--detach"]),
            "{} stays",
            self.device.display()
        );
    }

    fn attach(&mut self, arguments: &[&str]) {
        self.device = attach(&self.file, arguments).unwrap();
        self.attached = true;
    }

    pub(super) fn run(&self, program: &str, args: &[&str]) -> bool {
        let status = Command::new(program).args(args).arg(&self.device).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.attached {
            self.detach();
        }
    }
}

/// Opens a store that is free. A program that another test starts has all descriptors, and with them the locks, until it runs.
fn opened(options: &StoreOptions) -> Arc<dyn Store<CompletionQueue>> {
    opened_beside(&StoreRegistry::default(), options)
}

/// The same beside others of one target.
fn opened_beside(registry: &StoreRegistry, options: &StoreOptions) -> Arc<dyn Store<CompletionQueue>> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match open_beside(registry, options) {
            Err(StoreError::InUse { .. }) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.unwrap(),
        }
    }
}

/// A loop device over a file or device, or why there is none.
fn attach(file: &Path, arguments: &[&str]) -> Result<PathBuf, String> {
    // `losetup --find` looks and takes in two steps; who tries what another one just took keeps its user out for a moment.
    let turns =
        std::fs::File::open("/dev/loop-control").map_err(|error| format!("/dev/loop-control: {error}"))?;
    turns.lock().unwrap();
    let output = Command::new("losetup")
        .args(["--find", "--show"])
        .args(arguments)
        .arg(file)
        .output()
        .map_err(|error| format!("losetup: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().into()),
        false => Err(super::why_not(&output).to_owned()),
    }
}

#[test]
fn a_block_device_is_a_disk() {
    let Some(disk) = Loop::new(8192) else { return };
    for kind in [StoreKind::Mmap, StoreKind::Direct] {
        let store = opened(&StoreOptions::new(kind, &disk.device));
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
        let store = opened(&StoreOptions::new(kind, &disk.device));
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
    let registry = StoreRegistry::default();
    let halves = (
        opened_beside(&registry, &range(0, 1000)),
        opened_beside(&registry, &range(1000, 1000)),
    );
    let meets_both = open_beside(&registry, &range(999, 2));
    assert!(
        matches!(meets_both, Err(StoreError::InUse { .. })),
        "{meets_both:?}"
    );
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
    let foretold = [true, false].map(|writes| conflict(&disk.device, 0..u64::MAX, writes));
    assert!(mount(&["umount", target]));
    let expected = format!("{device}: in use by the mount at {target}");
    let [writing, reading] = foretold.map(|error| error.map(|error| error.to_string()));
    assert_eq!((refused, writing), (Err(expected.clone()), Some(expected)));
    assert_eq!(reading, None, "a reader disturbs no mount");
    assert!(conflict(&disk.device, 0..u64::MAX, true).is_none(), "free again");
    let _store = opened(&range(0, 0));
    assert!(
        conflict(&disk.device, 0..u64::MAX, true).is_none(),
        "our own export is no conflict"
    );
}

/// Who is in the way, in the words of the refusal.
fn in_use(options: &StoreOptions) -> String {
    match open(options) {
        Err(StoreError::InUse { holder, .. }) => holder,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_and_a_loop_device_over_it_are_not_written_side_by_side() {
    let Some(mut disk) = Loop::new(8192) else { return };
    let name = disk.device.display().to_string();
    let file = StoreOptions::new(StoreKind::Mmap, &disk.file);
    // The device is there: its file is refused, by any link.
    let link = disk.file.with_file_name("link");
    std::fs::hard_link(&disk.file, &link).unwrap();
    for path in [&disk.file, &link] {
        let holder = in_use(&StoreOptions::new(StoreKind::Mmap, path));
        assert!(holder.contains(&name), "{holder}");
        let foretold = conflict(path, 0..512, true).map(|error| error.to_string());
        assert!(
            foretold.is_some_and(|text| text.contains(&name)),
            "check says less"
        );
    }
    // The file was exported first: the device is refused.
    disk.detach();
    let store = opened(&file);
    disk.attach(&[]);
    let device = StoreOptions::new(StoreKind::Mmap, &disk.device);
    let holder = in_use(&device);
    assert!(holder.contains("another export of this process"), "{holder}");
    drop(store);
    let store = opened(&device);
    in_use(&file);
    drop(store);
    // Two readers of what nobody writes.
    disk.detach();
    disk.attach(&["--read-only"]);
    let device = StoreOptions::new(StoreKind::Mmap, &disk.device);
    let reading = |options: &StoreOptions| {
        open(&StoreOptions {
            read_only: true,
            ..options.clone()
        })
    };
    let _both = (reading(&file).unwrap(), reading(&device).unwrap());
}

#[test]
fn a_file_under_a_mounted_loop_device_is_in_use() {
    let Some(disk) = Loop::new(65536) else { return };
    let at = disk.file.with_file_name("mnt");
    std::fs::create_dir(&at).unwrap();
    let run = |program: &str, args: &[&std::path::Path]| {
        let output = Command::new(program).args(args).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !run("mkfs.ext4", &["-q".as_ref(), &disk.device]) || !run("mount", &[&disk.device, &at]) {
        return crate::skip("needs mkfs.ext4 and mount");
    }
    let mounted = format!("mounted at {}", at.display());
    let by_file = open(&StoreOptions::new(StoreKind::Mmap, &disk.file));
    let by_device = open(&StoreOptions::new(StoreKind::Mmap, &disk.device));
    assert!(run("umount", &[&at]));
    let message = by_file.unwrap_err().to_string();
    assert!(message.contains(&mounted), "{message}");
    let message = by_device.unwrap_err().to_string();
    assert!(
        message.contains(&format!("the mount at {}", at.display())),
        "{message}"
    );
}

/// Partitions of a disk, as the kernel is told of them by whoever knows them: it need not read any table itself.
fn partition(disk: &Loop, number: &str, start: &str, sectors: &str) -> Option<PathBuf> {
    let mut addpart = Command::new("addpart");
    addpart.arg(&disk.device).args([number, start, sectors]);
    let path = PathBuf::from(format!("{}p{number}", disk.device.display()));
    if addpart.status().is_ok_and(|status| status.success()) && path.exists() {
        return Some(path);
    }
    crate::skip("needs addpart and a kernel with partitions");
    None
}

#[test]
fn a_partition_and_its_disk_are_not_written_side_by_side() {
    let Some(disk) = Loop::with(65536, &["--partscan"]) else {
        return;
    };
    let (Some(first), Some(second)) = (
        partition(&disk, "1", "2048", "8192"),
        partition(&disk, "2", "10240", "8192"),
    ) else {
        return;
    };
    let options = |path: &PathBuf| StoreOptions::new(StoreKind::Mmap, path);
    let whole = opened(&options(&disk.device));
    in_use(&options(&first));
    drop(whole);
    // Two partitions are disks of their own, for which neither waits for the other.
    let parts = (opened(&options(&first)), opened(&options(&second)));
    in_use(&options(&disk.device));
    in_use(&options(&disk.file));
    drop(parts);
    // A loop device over a partition, and the disk.
    let over = attach(&first, &[]).unwrap();
    let (of_disk, of_second) = (open(&options(&disk.device)), open(&options(&second)));
    let detached = Command::new("losetup").arg("--detach").arg(&over).status();
    assert!(detached.unwrap().success());
    let message = of_disk.unwrap_err().to_string();
    assert!(message.contains(&over.display().to_string()), "{message}");
    of_second.expect("nobody else's sectors");
}

#[test]
fn a_loop_device_over_a_device_that_is_in_use_is_in_use() {
    let Some(disk) = Loop::new(65536) else { return };
    let over = attach(&disk.device, &[]).unwrap();
    let options = |path: &PathBuf| StoreOptions::new(StoreKind::Mmap, path);
    let alone = open(&options(&over)).map(drop);
    let export = open(&options(&disk.device)).map_err(|error| error.to_string());
    let detached = Command::new("losetup").arg("--detach").arg(&over).status();
    assert!(detached.unwrap().success());
    alone.expect("its own way to the file is nobody else's");
    let refused = export.unwrap_err();
    assert!(refused.contains(&over.display().to_string()), "{refused}");
    // The other way round: who came later is refused.
    let export = opened(&options(&disk.device));
    let over = attach(&disk.device, &[]).unwrap();
    let refused = open(&options(&over)).map(drop).map_err(|error| error.to_string());
    let detached = Command::new("losetup").arg("--detach").arg(&over).status();
    assert!(detached.unwrap().success());
    drop(export);
    let refused = refused.unwrap_err();
    assert!(refused.contains("another export of this process"), "{refused}");
}

#[test]
fn swap_space_is_in_use() {
    let Some(disk) = Loop::new(65536) else { return };
    if !disk.run("mkswap", &["-q"]) || !disk.run("swapon", &[]) {
        return crate::skip("needs mkswap, swapon and a kernel with swap");
    }
    let messages = [&disk.device, &disk.file].map(|path| {
        let opened = open(&StoreOptions::new(StoreKind::Mmap, path)).map(drop);
        let foretold = conflict(path, 0..u64::MAX, true);
        let reading = conflict(path, 0..u64::MAX, false);
        (
            opened.map_err(|error| error.to_string()),
            foretold.map(|error| error.to_string()),
            reading.is_none(),
        )
    });
    assert!(disk.run("swapoff", &[]));
    let [of_device, of_file] = messages;
    let expected = format!("{}: in use by the kernel, as swap space", disk.device.display());
    assert_eq!(of_device, (Err(expected.clone()), Some(expected), true));
    let refused = of_file.0.unwrap_err();
    assert!(refused.contains(&disk.device.display().to_string()), "{refused}");
}

#[test]
fn part_of_a_block_can_be_trimmed() {
    let Some(disk) = Loop::with(8192, &["--sector-size", "4096"]) else {
        return;
    };
    for kind in [StoreKind::Mmap, StoreKind::Direct] {
        let store = opened(&StoreOptions::new(kind, &disk.device));
        if !store.traits().trim {
            return crate::skip("the loop device does not trim");
        }
        let mut driver = Driver::new(&store);
        let expected: Vec<u8> = (0..128).flat_map(|lba| stamp(lba, 1)).collect();
        // Inside one block, over a border, whole blocks with parts at both ends.
        for (lba, count) in [(3, 2), (14, 4), (21, 30), (64, 8)] {
            driver.write(0, &expected, Durability::WriteBack).unwrap();
            driver.trim(&[Extent { lba, count }]).unwrap();
            let data = driver.read(0, 128).unwrap();
            let (before, rest) = data.split_at(lba as usize * 512);
            let (trimmed, after) = rest.split_at(count as usize * 512);
            assert!(
                before == &expected[..before.len()],
                "{kind} {lba}+{count}: written before"
            );
            assert!(
                after == &expected[expected.len() - after.len()..],
                "{kind} {lba}+{count}: written after"
            );
            if store.traits().zeroes_after_trim {
                assert!(
                    trimmed.iter().all(|byte| *byte == 0),
                    "{kind} {lba}+{count}: not zeroed"
                );
            }
        }
        store.close().unwrap();
    }
}
