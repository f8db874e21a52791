//! Pages that are not in memory: fetched without a worker waiting, with io_uring and without.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, fadvise};

use super::driver::counter;
use super::{Driver, stamp};
use crate::completion_queue::CompletionQueue;
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};
use engine::{Durability, Event, Extent, FaultKind, Step};

/// A file full of stamps that is not in the page cache. Not on tmpfs, where everything is.
fn cold_image(dir: &std::path::Path, sectors: u64) -> (std::path::PathBuf, File) {
    let path = dir.join("image");
    let content: Vec<u8> = (0..sectors).flat_map(|lba| stamp(lba, 1)).collect();
    std::fs::write(&path, content).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    chill(&file);
    (path, file)
}

fn chill(file: &File) {
    rustix::fs::fdatasync(file).unwrap();
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
}

fn queues() -> [CompletionQueue; 2] {
    [
        CompletionQueue::new().unwrap(),
        CompletionQueue::without_uring().unwrap(),
    ]
}

#[test]
fn cold_reads_are_deferred_many_at_a_time_and_right() {
    const SECTORS: u64 = 8192;
    let dir = tempfile::tempdir_in(".").unwrap();
    let (path, file) = cold_image(dir.path(), SECTORS);
    for queue in queues() {
        chill(&file);
        let store = open(&StoreOptions::new(StoreKind::Mmap, &path)).unwrap();
        let mut driver = Driver::new(&store);
        driver.queue = queue;
        let mut waiting = Vec::new();
        let mut buffer = [0u8; 1024];
        for lba in (0..SECTORS).step_by(16).filter(|lba| lba % 3 == 0) {
            let token = driver.token();
            let extent = Extent { lba, count: 2 };
            match store
                .read(&mut driver.queue, token, extent, &mut [&mut buffer])
                .unwrap()
            {
                Step::Done => assert_eq!(buffer[..512], stamp(lba, 1)),
                Step::Later => waiting.push((lba, token)),
            }
        }
        for (lba, token) in waiting {
            let Event::Finished(Ok(Some(bytes))) = driver.wait(token) else {
                panic!("no bytes for {lba}")
            };
            assert_eq!((bytes.len(), &bytes[512..]), (1024, &stamp(lba + 1, 1)[..]));
        }
        assert!(
            counter(&store, "cold") > 100,
            "nothing was cold: {:?}",
            store.counters()
        );
        assert_eq!(counter(&store, "slow"), 0);
    }
}

#[test]
fn cold_writes_keep_the_rest_of_their_pages() {
    const SECTORS: u64 = 4096;
    let dir = tempfile::tempdir_in(".").unwrap();
    let (path, file) = cold_image(dir.path(), SECTORS);
    for (round, queue) in queues().into_iter().enumerate() {
        chill(&file);
        let store = open(&StoreOptions::new(StoreKind::Mmap, &path)).unwrap();
        let mut driver = Driver::new(&store);
        driver.queue = queue;
        let version = 2 + round as u64;
        for (lba, count) in [(3, 1), (20, 8), (24, 8), (100, 17), (4095, 1), (1000, 40)] {
            let data: Vec<u8> = (lba..lba + count).flat_map(|lba| stamp(lba, version)).collect();
            driver.write(lba, &data, Durability::WriteBack).unwrap();
            assert!(driver.read(lba, count).unwrap() == data);
        }
        assert_eq!(driver.read(2, 1).unwrap(), stamp(2, 1));
        assert_eq!(driver.read(99, 1).unwrap(), stamp(99, 1));
        assert_eq!(driver.read(117, 1).unwrap(), stamp(117, 1));
        assert_eq!(driver.read(4094, 1).unwrap(), stamp(4094, 1));
        assert!(counter(&store, "cold") >= 5, "{:?}", store.counters());
        store.close().unwrap();
    }
}

#[test]
fn verify_reads_all_and_finds_what_is_missing() {
    verify(StoreKind::Mmap);
}

#[test]
fn direct_verify_reads_all_and_finds_what_is_missing() {
    verify(StoreKind::Direct);
}

fn verify(kind: StoreKind) {
    let dir = tempfile::tempdir_in(".").unwrap();
    let (path, file) = cold_image(dir.path(), 20_000);
    let store = open(&StoreOptions::new(kind, &path)).unwrap();
    for queue in queues() {
        let mut driver = Driver::new(&store);
        driver.queue = queue;
        file.set_len(20_000 * 512).unwrap();
        driver.verify(0, 20_000).unwrap();
        driver.verify(19_999, 1).unwrap();
        assert!(driver.verify(19_999, 2).is_err(), "outside");
        file.set_len(15_001 * 512).unwrap();
        driver.verify(0, 15_001).unwrap();
        let fault = driver.verify(3, 19_000).expect_err("cut short");
        assert_eq!((fault.kind, fault.lba), (FaultKind::Read, 15_001));
    }
}

#[test]
fn a_cold_sequential_reader_is_read_ahead_of() {
    const SECTORS: u64 = 32 << 11;
    let dir = tempfile::tempdir_in(".").unwrap();
    let (path, _file) = cold_image(dir.path(), SECTORS);
    let store = open(&StoreOptions::new(StoreKind::Mmap, &path)).unwrap();
    let mut driver = Driver::new(&store);
    for lba in (0..SECTORS).step_by(16) {
        let data = driver.read(lba, 16).unwrap();
        assert!(data[..512] == stamp(lba, 1), "sector {lba}");
    }
    let cold = counter(&store, "cold");
    assert!(
        cold < SECTORS / 16 / 4,
        "{cold} of {} requests had to wait",
        SECTORS / 16
    );
}

/// Read with the kernel's read-ahead before the store opens it, the file lies in large folios.
#[test]
fn blocks_in_large_folios_are_changed_over_before_the_first_write() {
    const SECTORS: u64 = 16 << 11;
    const BASE: u64 = 12 << 11;
    let dir = tempfile::tempdir_in(".").unwrap();
    let (path, file) = cold_image(dir.path(), SECTORS);
    for queue in queues() {
        chill(&file);
        // As a copy or a backup reads: read-ahead grows, and the folios with it.
        let reader = File::open(&path).unwrap();
        for position in (0..SECTORS * 512).step_by(128 << 10) {
            reader.read_exact_at(&mut [0; 128 << 10], position).unwrap();
        }
        let store = open(&StoreOptions::new(StoreKind::Mmap, &path)).unwrap();
        let mut driver = Driver::new(&store);
        driver.queue = queue;
        // The same block from several requests at once. The first waits until it is changed over, and so do those that
        // come before it is: how many that are is up to the scheduler.
        let lbas = [1, 17, 33, 65].map(|lba| BASE + lba);
        let mut waiting = Vec::new();
        for lba in lbas {
            let token = driver.token();
            let extent = Extent { lba, count: 1 };
            let step = store.write(
                &mut driver.queue,
                token,
                extent,
                &[&stamp(lba, 2)],
                Durability::WriteBack,
            );
            match step.unwrap() {
                Step::Later => waiting.push((lba, token)),
                Step::Done => assert_ne!(lba, lbas[0], "written into a large folio"),
            }
        }
        for (lba, token) in waiting {
            match driver.wait(token) {
                Event::Again => driver.write(lba, &stamp(lba, 2), Durability::WriteBack).unwrap(),
                Event::Finished(result) => {
                    assert_ne!(lba, lbas[0], "written into a large folio");
                    result.unwrap();
                }
            }
        }
        for lba in (0..SECTORS).step_by(512) {
            driver.write(lba, &stamp(lba, 3), Durability::WriteBack).unwrap();
        }
        for lba in lbas {
            assert_eq!(driver.read(lba, 1).unwrap(), stamp(lba, 2));
            assert_eq!(driver.read(lba + 1, 1).unwrap(), stamp(lba + 1, 1));
        }
        let changed = counter(&store, "folios_changed");
        assert!((1..=8).contains(&changed), "{changed} of 8 blocks");
        store.close().unwrap();
        let content = std::fs::read(&path).unwrap();
        assert!(
            (0..SECTORS as usize)
                .step_by(512)
                .all(|lba| content[lba * 512..][..512] == stamp(lba as u64, 3))
        );
    }
}
