//! Holes of mapped images: reading them takes no space, and nobody's write is missed.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::{Driver, image, stamp};
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};
use engine::{Durability, Extent};

const SECTORS: u64 = 16 << 11;
/// Sectors of a page.
const PAGE: u64 = 8;

/// A file system in memory, and whatever the tests lie on.
fn places() -> [tempfile::TempDir; 2] {
    ["/dev/shm", "."].map(|place| tempfile::tempdir_in(place).unwrap())
}

/// A driver of the image at `path`.
fn driver(path: &Path, read_only: bool) -> Driver {
    let options = StoreOptions {
        read_only,
        ..StoreOptions::new(StoreKind::Mmap, path)
    };
    Driver::new(&open(&options).unwrap())
}

/// Reads the sectors in pieces of `count`, all of which must be zeros.
fn read_zeros(driver: &mut Driver, lba: u64, end: u64, count: u64) {
    for lba in (lba..end).step_by(count as usize) {
        let data = driver.read(lba, count.min(end - lba)).unwrap();
        assert!(data.iter().all(|byte| *byte == 0), "{count} sectors at {lba}");
    }
}

fn blocks(file: &File) -> u64 {
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks()
}

#[test]
fn reading_holes_takes_no_space() {
    for place in places() {
        let path = place.path().join("image");
        let file = image(&path, SECTORS);
        file.write_all_at(&stamp(5, 0), 5 * 512).unwrap();
        file.write_all_at(&stamp(SECTORS - 1, 0), (SECTORS - 1) * 512)
            .unwrap();
        let before = blocks(&file);
        for read_only in [true, false] {
            let mut driver = driver(&path, read_only);
            for round in 0..2 {
                for count in [1, 2, 17, 256] {
                    read_zeros(&mut driver, PAGE, SECTORS - PAGE, count);
                }
                // Half a hole.
                assert_eq!(driver.read(5, 1).unwrap(), stamp(5, 0), "round {round}");
                assert_eq!(driver.read(PAGE - 3, 17).unwrap()[..512], stamp(5, 0));
                let end = driver.read(SECTORS - 17, 17).unwrap();
                assert_eq!(end[16 * 512..], stamp(SECTORS - 1, 0));
            }
            driver.verify(0, SECTORS).unwrap();
            driver.store.close().unwrap();
        }
        assert_eq!(blocks(&file), before, "in {}", path.display());
    }
}

#[test]
fn what_is_given_back_stays_a_hole() {
    for place in places() {
        let path = place.path().join("image");
        let file = image(&path, SECTORS);
        let mut driver = driver(&path, false);
        let before = blocks(&file);
        let data: Vec<u8> = (0..SECTORS / 2).flat_map(|lba| stamp(lba, 1)).collect();
        for (at, bytes) in data.chunks(64 * 512).enumerate() {
            driver
                .write(at as u64 * 64, bytes, Durability::WriteBack)
                .unwrap();
        }
        assert_eq!(driver.read(100, 1).unwrap(), stamp(100, 1));
        // All but the first and last sector: those pages stay.
        let count = SECTORS / 2 - 2;
        driver.trim(&[Extent { lba: 1, count }]).unwrap();
        let left = blocks(&file) - before;
        assert!((1..=128).contains(&left), "{left} in {}", path.display());
        for count in [1, 17, 64] {
            read_zeros(&mut driver, 1, SECTORS / 2 - 1, count);
        }
        assert_eq!(driver.read(0, 1).unwrap(), stamp(0, 1));
        assert_eq!(
            driver.read(SECTORS / 2 - 1, 1).unwrap(),
            stamp(SECTORS / 2 - 1, 1)
        );
        assert_eq!(blocks(&file) - before, left, "in {}", path.display());
        driver.store.close().unwrap();
    }
}

#[test]
fn what_others_do_to_the_file_is_seen_at_once() {
    for place in places() {
        let path = place.path().join("image");
        let file = image(&path, SECTORS);
        let mut driver = driver(&path, true);
        for lba in (0..SECTORS).step_by(250) {
            read_zeros(&mut driver, lba, lba + 2, 2);
            file.write_all_at(&stamp(lba, 1), lba * 512).unwrap();
            assert_eq!(driver.read(lba, 1).unwrap(), stamp(lba, 1));
            read_zeros(&mut driver, lba + 1, lba + 2, 1);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, flags, lba / PAGE * PAGE * 512, PAGE * 512).unwrap();
            read_zeros(&mut driver, lba, lba + 2, 2);
            // Zeros that are written are no hole, and look like one.
            file.write_all_at(&[0; 512], lba * 512).unwrap();
            read_zeros(&mut driver, lba, lba + 2, 1);
            file.write_all_at(&stamp(lba, 2), lba * 512).unwrap();
            assert_eq!(driver.read(lba, 1).unwrap(), stamp(lba, 2));
        }
    }
}

#[test]
fn what_a_file_grows_by_is_a_hole_too() {
    for place in places() {
        let path = place.path().join("image");
        let file = image(&path, SECTORS);
        let mut driver = driver(&path, false);
        driver.write(3, &stamp(3, 1), Durability::WriteBack).unwrap();
        read_zeros(&mut driver, PAGE, SECTORS, 16);
        file.set_len(3 * SECTORS * 512).unwrap();
        let before = blocks(&file);
        assert_eq!(driver.store.refresh().unwrap(), 3 * SECTORS);
        read_zeros(&mut driver, PAGE, 3 * SECTORS, 17);
        assert_eq!(driver.read(3, 1).unwrap(), stamp(3, 1));
        assert_eq!(blocks(&file), before, "in {}", path.display());
        driver
            .write(2 * SECTORS, &stamp(2, 1), Durability::Durable)
            .unwrap();
        assert_eq!(driver.read(2 * SECTORS, 1).unwrap(), stamp(2, 1));
        driver.store.close().unwrap();
    }
}

#[test]
fn a_hole_beyond_a_cut_is_an_error_and_not_zeros() {
    let [memory, _] = places();
    let path = memory.path().join("image");
    let file = image(&path, SECTORS);
    let mut driver = driver(&path, true);
    read_zeros(&mut driver, 0, SECTORS, 256);
    file.set_len(1000 * 512).unwrap();
    read_zeros(&mut driver, 0, 1000, 10);
    assert!(driver.read(1000, 1).is_err() && driver.read(999, 2).is_err());
    file.set_len(SECTORS * 512).unwrap();
    assert!(driver.store.refresh().is_ok());
}
