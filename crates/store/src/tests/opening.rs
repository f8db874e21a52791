//! What can be opened, and what the messages for the rest say.

use std::path::Path;
use std::sync::Arc;

use super::{Driver, image, stamp};
use crate::completion_queue::CompletionQueue;
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};
use engine::{Durability, Store};

fn options(path: &Path) -> StoreOptions {
    StoreOptions::new(StoreKind::Mmap, path)
}

fn refusal(options: &StoreOptions) -> String {
    open(options).expect_err("must be refused").to_string()
}

#[test]
fn bad_paths_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(&options(&dir.path().join("none"))).contains("none: no such file; `xblade create`"));
    for device in ["/dev/xblade-none", "/dev/disk/by-uuid/ABCD-1234"] {
        let told = refusal(&options(Path::new(device)));
        assert!(
            told.contains("no such device") && !told.contains("create"),
            "{told}"
        );
    }
    let in_memory = refusal(&options(Path::new("/dev/shm/xblade-none")));
    assert!(in_memory.contains("no such file"), "{in_memory}");
    assert!(refusal(&options(dir.path())).contains("is a directory"));
    assert!(refusal(&options(Path::new("/dev/null"))).contains("neither a regular file nor"));
    let path = dir.path().join("empty");
    image(&path, 0);
    assert!(refusal(&options(&path)).contains("is empty"));
    std::fs::write(&path, [0; 511]).unwrap();
    assert!(refusal(&options(&path)).contains("511 bytes, less than one sector"));
}

#[test]
fn ranges_beyond_the_end_name_what_is_possible() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 100);
    let range = |offset, length| StoreOptions {
        offset,
        length,
        ..options(&path)
    };
    assert!(refusal(&range(100, 0)).contains("offset 100 is beyond the end: 0 to 99 is possible"));
    assert!(refusal(&range(u64::MAX, 0)).contains("0 to 99"));
    assert!(refusal(&range(10, 91)).contains("length 91 at offset 10 is beyond the end: 1 to 90"));
    assert!(refusal(&range(10, u64::MAX)).contains("1 to 90"));
    assert_eq!(open(&range(10, 90)).unwrap().sectors(), 90);
    assert_eq!(open(&range(10, 0)).unwrap().sectors(), 90);
    assert_eq!(open(&range(99, 1)).unwrap().sectors(), 1);
}

#[test]
fn a_part_sector_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, vec![7; 3 * 512 + 100]).unwrap();
    let store = open(&options(&path)).unwrap();
    assert_eq!(store.sectors(), 3);
    let mut driver = Driver::new(&store);
    assert!(driver.read(2, 2).is_err());
    assert_eq!(driver.read(2, 1).unwrap(), vec![7; 512]);
}

#[test]
fn a_read_only_store_reads_and_never_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, vec![7; 4096]).unwrap();
    for kind in [StoreKind::Mmap, StoreKind::Direct, StoreKind::Ram] {
        let store = open(&StoreOptions {
            read_only: true,
            ..StoreOptions::new(kind, &path)
        })
        .unwrap();
        let mut driver = Driver::new(&store);
        assert_eq!(driver.read(0, 8).unwrap(), vec![7; 4096]);
        assert!(driver.write(0, &[0; 512], Durability::WriteBack).is_err());
        assert!(!store.traits().trim);
        driver.flush().unwrap();
        store.close().unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), vec![7; 4096]);
}

#[test]
fn growth_is_served_without_losing_readers() {
    growth(StoreKind::Mmap);
}

#[test]
fn growth_is_served_by_direct_io() {
    growth(StoreKind::Direct);
}

fn growth(kind: StoreKind) {
    let options = |path: &Path| StoreOptions::new(kind, path);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = image(&path, 16);
    let store = open(&options(&path)).unwrap();
    let mut driver = Driver::new(&store);
    driver.write(15, &stamp(15, 1), Durability::WriteBack).unwrap();
    for sectors in [17, 18, 5000, 1 << 20] {
        file.set_len(sectors * 512).unwrap();
        assert!(driver.read(sectors - 1, 1).is_err(), "not before the refresh");
        assert_eq!(store.refresh().unwrap(), sectors);
        assert_eq!(store.sectors(), sectors);
        driver
            .write(sectors - 1, &stamp(sectors, 2), Durability::WriteBack)
            .unwrap();
        assert_eq!(driver.read(sectors - 1, 1).unwrap(), stamp(sectors, 2));
        assert_eq!(driver.read(15, 1).unwrap(), stamp(15, 1));
    }
    // A configured length does not follow.
    store.close().unwrap();
    drop((driver, store));
    let store = open(&StoreOptions {
        length: 10,
        ..options(&path)
    })
    .unwrap();
    file.set_len(1 << 22).unwrap();
    assert_eq!(store.refresh().unwrap(), 10);
}

#[test]
fn three_tebibytes_cost_nothing_until_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let sectors = 3 << 31;
    image(&path, sectors);
    let before = resident_kib();
    let store = open(&options(&path)).unwrap();
    let mut driver = Driver::new(&store);
    for lba in [0, (1 << 28) - 1, 1 << 28, (1 << 32) - 1, 1 << 32, sectors - 1] {
        driver.write(lba, &stamp(lba, 3), Durability::WriteBack).unwrap();
        assert_eq!(driver.read(lba, 1).unwrap(), stamp(lba, 3));
    }
    assert!(driver.read(sectors, 1).is_err());
    // Tests beside this one take some, too; a bit for each sector would be 768 MiB.
    assert!(
        resident_kib() < before + 65536,
        "{before} KiB before, {} KiB now",
        resident_kib()
    );
    store.close().unwrap();
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn prealloc_reserves_or_refuses() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 2048);
    let store = open(&StoreOptions {
        prealloc: true,
        ..options(&path)
    })
    .unwrap();
    assert!(std::fs::metadata(&path).unwrap().blocks() >= 2048);
    drop(store);
    // More than any disk here has.
    image(&path, 1 << 33);
    let free = || rustix::fs::statvfs(&path).unwrap().f_bavail;
    let before = free();
    let message = refusal(&StoreOptions {
        prealloc: true,
        ..options(&path)
    });
    assert!(
        message.contains("cannot reserve 4398046511104 bytes"),
        "{message}"
    );
    assert!(free() > before / 2, "the attempt filled the disk");
}

#[test]
fn ram_and_null_need_a_file_or_a_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    for kind in [StoreKind::Ram, StoreKind::Null] {
        let missing = StoreOptions::new(kind, dir.path().join("none"));
        assert!(refusal(&missing).contains("needs a length in sectors"));
        assert_eq!(
            open(&StoreOptions {
                length: 77,
                ..missing
            })
            .unwrap()
            .sectors(),
            77
        );
    }
    let mut content = vec![0; 3 << 20];
    content[(2 << 20) + 512..].fill(9);
    std::fs::write(&path, &content).unwrap();
    let store = open(&StoreOptions::new(StoreKind::Ram, &path)).unwrap();
    let mut driver = Driver::new(&store);
    assert!(driver.read(0, store.sectors()).unwrap() == content);
    driver.write(0, &[1; 512], Durability::Durable).unwrap();
    assert!(
        std::fs::read(&path).unwrap() == content,
        "the file stays as it was"
    );
}

#[test]
fn shared_is_for_the_direct_store_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 8);
    let message = refusal(&StoreOptions {
        shared: true,
        ..options(&path)
    });
    assert!(
        message.contains("a shared backend needs the direct store, not mmap"),
        "{message}"
    );
}

#[test]
fn stores_outlive_their_queues() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 64);
    let store: Arc<dyn Store<CompletionQueue>> = open(&options(&path)).unwrap();
    for round in 0..3 {
        let mut driver = Driver::new(&store);
        driver
            .write(round, &stamp(round, round), Durability::Durable)
            .unwrap();
    }
    assert_eq!(Driver::new(&store).read(2, 1).unwrap(), stamp(2, 2));
}

#[test]
fn images_in_other_formats_are_refused_with_the_command_that_helps() {
    use crate::ImageFormat;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut content = vec![0; 65536];
    content[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    std::fs::write(&path, &content).unwrap();
    for kind in [StoreKind::Mmap, StoreKind::Direct, StoreKind::Ram] {
        let message = refusal(&StoreOptions::new(kind, &path));
        for word in ["qcow2", "qemu-img convert -f qcow2 -O raw", "format = \"raw\""] {
            assert!(message.contains(word), "{kind}: {message}");
        }
        let options = StoreOptions {
            format: ImageFormat::Raw,
            ..StoreOptions::new(kind, &path)
        };
        assert_eq!(open(&options).unwrap().sectors(), 128);
    }
    let range = StoreOptions {
        offset: 8,
        ..options(&path)
    };
    assert_eq!(
        open(&range).unwrap().sectors(),
        120,
        "who names a range knows what is in it"
    );
}

#[test]
fn what_cannot_be_mapped_is_for_the_direct_store() {
    let dir = tempfile::Builder::new()
        .prefix("xblade-")
        .tempdir_in("/dev/shm")
        .unwrap();
    let path = dir.path().join("image");
    // More than a process has addresses.
    let file = std::fs::File::create(&path).unwrap();
    if file.set_len(200 << 40).is_err() {
        return crate::skip("no file of 200 TiB here");
    }
    let message = refusal(&options(&path));
    assert!(message.contains("use store = \"direct\""), "{message}");
}
