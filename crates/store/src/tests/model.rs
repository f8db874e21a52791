//! Random operations on a store and on a vector of bytes must give the same.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use tempfile::TempDir;

use super::{Driver, image, stamp};
use crate::completion_queue::CompletionQueue;
use crate::direct::DirectStore;
use crate::nbd::server::{Server, ServerBehaviour};
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};
use engine::{Durability, Extent, Store};

const SECTORS: u64 = 1200;

/// A kind of store, as it is tested.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Mmap,
    /// The same on a file system in memory.
    MmapInMemory,
    Ram,
    Direct,
    /// On a medium whose block is 4 KiB.
    DirectLargeBlocks,
    Nbd,
}

impl Subject {
    /// Where its image lies.
    fn directory(self) -> TempDir {
        match self {
            Subject::MmapInMemory => tempfile::tempdir_in("/dev/shm"),
            _ => tempfile::tempdir(),
        }
        .unwrap()
    }

    /// Whether others may use the file at the same time.
    fn is_shared(self) -> bool {
        matches!(self, Subject::Mmap | Subject::MmapInMemory)
    }

    fn open(self, path: &Path, offset: u64) -> Arc<dyn Store<CompletionQueue>> {
        let kind = match self {
            Subject::Mmap | Subject::MmapInMemory => StoreKind::Mmap,
            Subject::Ram => StoreKind::Ram,
            Subject::Direct | Subject::DirectLargeBlocks => StoreKind::Direct,
            Subject::Nbd => StoreKind::Nbd,
        };
        let options = StoreOptions {
            offset,
            ..StoreOptions::new(kind, path)
        };
        match self {
            Subject::DirectLargeBlocks => Arc::new(
                DirectStore::open_with_block(
                    &options,
                    &crate::StoreRegistry::default(),
                    crate::Losses::default(),
                    4096,
                )
                .unwrap(),
            ),
            _ => open(&options).unwrap(),
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Read(u64, u64),
    Write(u64, u64, Durability),
    Trim(u64, u64),
    Verify(u64, u64),
    Flush,
    /// Everything that is clean leaves the page cache.
    Chill,
    /// Another program writes to the file, if it may be shared.
    Others(u64, u64),
    /// Another program makes holes in it.
    OthersPunch(u64, u64),
}

fn action() -> impl Strategy<Value = Action> {
    let place = || (0..SECTORS, 1u64..40).prop_map(|(lba, count)| (lba, count.min(SECTORS - lba)));
    prop_oneof![
        6 => place().prop_map(|(lba, count)| Action::Read(lba, count)),
        5 => place().prop_map(|(lba, count)| Action::Write(lba, count, Durability::WriteBack)),
        2 => place().prop_map(|(lba, count)| Action::Write(lba, count, Durability::Durable)),
        1 => place().prop_map(|(lba, count)| Action::Trim(lba, count)),
        1 => place().prop_map(|(lba, count)| Action::Verify(lba, count)),
        1 => Just(Action::Flush),
        1 => Just(Action::Chill),
        1 => place().prop_map(|(lba, count)| Action::Others(lba, count)),
        1 => place().prop_map(|(lba, count)| Action::OthersPunch(lba, count)),
    ]
}

fn check(subject: Subject, offset: u64, actions: &[Action]) -> Result<(), TestCaseError> {
    let dir = subject.directory();
    let path = dir.path().join("image");
    let file = image(&path, SECTORS + offset);
    let server =
        matches!(subject, Subject::Nbd).then(|| Server::start(ServerBehaviour::new(SECTORS + offset)));
    let address = server.as_ref().map(Server::address);
    let store = subject.open(address.as_ref().unwrap_or(&path), offset);
    let mut model = vec![0u8; SECTORS as usize * 512];
    let mut driver = Driver::new(&store);
    for (version, action) in actions.iter().enumerate() {
        let others = subject.is_shared().then_some(offset);
        apply(&mut driver, &mut model, (&file, others), action, version as u64)?;
    }
    let all = driver.read(0, SECTORS).unwrap();
    prop_assert!(all == model, "the whole disk at the end");
    store.close().unwrap();
    if !matches!(subject, Subject::Ram) {
        let bytes = server.map_or_else(|| std::fs::read(&path).unwrap(), |server| server.all());
        prop_assert!(bytes[offset as usize * 512..] == model, "the file at the end");
        prop_assert!(
            bytes[..offset as usize * 512].iter().all(|byte| *byte == 0),
            "before the offset"
        );
    }
    Ok(())
}

fn apply(
    driver: &mut Driver,
    model: &mut [u8],
    (file, others): (&File, Option<u64>),
    action: &Action,
    version: u64,
) -> Result<(), TestCaseError> {
    let span = |lba: u64, count: u64| lba as usize * 512..(lba + count) as usize * 512;
    match *action {
        Action::Read(lba, count) => {
            let data = driver.read(lba, count).unwrap();
            prop_assert!(data == model[span(lba, count)], "read of {count} at {lba}");
        }
        Action::Write(lba, count, durability) => {
            let data: Vec<u8> = (lba..lba + count).flat_map(|lba| stamp(lba, version)).collect();
            driver.write(lba, &data, durability).unwrap();
            model[span(lba, count)].copy_from_slice(&data);
        }
        Action::Trim(lba, count) if driver.store.traits().zeroes_after_trim => {
            driver.trim(&[Extent { lba, count }]).unwrap();
            model[span(lba, count)].fill(0);
        }
        Action::Trim(..) => {}
        Action::Verify(lba, count) => driver.verify(lba, count).unwrap(),
        Action::Flush => driver.flush().unwrap(),
        Action::Chill => {
            rustix::fs::fdatasync(file).unwrap();
            fadvise(file, 0, None, Advice::DontNeed).unwrap();
        }
        Action::Others(lba, count) | Action::OthersPunch(lba, count) => {
            let Some(offset) = others else { return Ok(()) };
            let (at, bytes) = ((offset + lba) * 512, count * 512);
            if matches!(action, Action::Others(..)) {
                let data: Vec<u8> = (lba..lba + count).flat_map(|lba| stamp(lba, version)).collect();
                file.write_all_at(&data, at).unwrap();
                model[span(lba, count)].copy_from_slice(&data);
            } else {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file, flags, at, bytes).unwrap();
                model[span(lba, count)].fill(0);
            }
        }
    }
    Ok(())
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0u64), 1u64..20]
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mmap_is_a_disk(offset in offset(), actions in actions()) {
        check(Subject::Mmap, offset, &actions)?;
    }

    #[test]
    fn mmap_in_memory_is_a_disk(offset in offset(), actions in actions()) {
        check(Subject::MmapInMemory, offset, &actions)?;
    }

    #[test]
    fn ram_is_a_disk(offset in offset(), actions in actions()) {
        check(Subject::Ram, offset, &actions)?;
    }

    #[test]
    fn direct_is_a_disk(offset in offset(), actions in actions()) {
        check(Subject::Direct, offset, &actions)?;
    }

    #[test]
    fn nbd_is_a_disk(offset in offset(), actions in actions()) {
        check(Subject::Nbd, offset, &actions)?;
    }

    #[test]
    fn direct_with_large_blocks_is_a_disk(offset in offset(), actions in actions()) {
        check(Subject::DirectLargeBlocks, offset, &actions)?;
    }
}

/// Several workers with a queue each, every one on its own pieces of `unit` sectors, which share pages with the others' if they
/// are smaller than those.
fn many_queues(subject: Subject, unit: u64) {
    const WORKERS: u64 = 4;
    const ROUNDS: u64 = 400;
    let dir = subject.directory();
    let path = dir.path().join("image");
    let file = image(&path, SECTORS);
    let store = subject.open(&path, 0);
    let left = AtomicU64::new(WORKERS);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (store, left) = (Arc::clone(&store), &left);
            scope.spawn(move || {
                work(&store, (worker, WORKERS), unit, ROUNDS);
                left.fetch_sub(1, Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            while left.load(Ordering::Relaxed) > 0 {
                let _ = fadvise(&file, 0, None, Advice::DontNeed);
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
    });
    store.close().unwrap();
}

fn work(store: &Arc<dyn Store<CompletionQueue>>, (worker, workers): (u64, u64), unit: u64, rounds: u64) {
    let mut driver = Driver::new(store);
    let pieces = SECTORS / unit / workers;
    let mut versions = vec![None; pieces as usize];
    let mut random = worker + 1;
    for round in 0..rounds {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let index = (random >> 33) % pieces;
        let lba = (index * workers + worker) * unit;
        let content = |round| {
            (lba..lba + unit)
                .flat_map(|lba| stamp(lba, round))
                .collect::<Vec<u8>>()
        };
        if random >> 62 == 0 {
            let durability = if round % 8 == 0 {
                Durability::Durable
            } else {
                Durability::WriteBack
            };
            driver.write(lba, &content(round), durability).unwrap();
            versions[index as usize] = Some(round);
        } else if random >> 59 == 7 && store.traits().zeroes_after_trim {
            driver.trim(&[Extent { lba, count: unit }]).unwrap();
            versions[index as usize] = None;
        }
        let expected = versions[index as usize].map_or(vec![0; unit as usize * 512], content);
        assert!(
            driver.read(lba, unit).unwrap() == expected,
            "worker {worker}, sector {lba}, round {round}"
        );
    }
}

#[test]
fn mmap_serves_many_queues() {
    many_queues(Subject::Mmap, 1);
}

#[test]
fn mmap_in_memory_serves_many_queues() {
    many_queues(Subject::MmapInMemory, 1);
}

#[test]
fn whole_pages_come_and_go_in_many_queues() {
    many_queues(Subject::Mmap, 8);
    many_queues(Subject::MmapInMemory, 8);
}

#[test]
fn ram_serves_many_queues() {
    many_queues(Subject::Ram, 1);
}

#[test]
fn direct_serves_many_queues() {
    many_queues(Subject::Direct, 1);
}

#[test]
fn neighbours_in_a_large_block_do_not_undo_each_other() {
    many_queues(Subject::DirectLargeBlocks, 1);
}
