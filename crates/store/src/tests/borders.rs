//! Exports of one file whose ranges meet inside a block.

use std::path::Path;
use std::sync::Arc;

use super::{Driver, image, open_beside, stamp};
use crate::Losses;
use crate::completion_queue::CompletionQueue;
use crate::direct::DirectStore;
use crate::options::{StoreError, StoreKind, StoreOptions};
use crate::registry::StoreRegistry;
use engine::{Durability, Store};

const BLOCK: u64 = 4096;

fn part(kind: StoreKind, path: &Path, offset: u64, length: u64) -> StoreOptions {
    StoreOptions {
        offset,
        length,
        ..StoreOptions::new(kind, path)
    }
}

/// Sectors 0 to 11 and 12 to 23 of a file, by blocks of 8: both write to the block of sectors 8 to 15.
#[test]
fn two_direct_exports_that_share_a_block_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 24);
    let registry = StoreRegistry::default();
    let direct = |offset| -> Arc<dyn Store<CompletionQueue>> {
        let options = part(StoreKind::Direct, &path, offset, 12);
        Arc::new(DirectStore::open_with_block(&options, &registry, Losses::default(), BLOCK).unwrap())
    };
    let (left, right) = (direct(0), direct(12));
    std::thread::scope(|scope| {
        for (store, sectors) in [(&left, 8..12), (&right, 0..4)] {
            scope.spawn(move || {
                let mut driver = Driver::new(store);
                for round in 0..400 {
                    for lba in sectors.clone() {
                        driver
                            .write(lba, &stamp(lba, round), Durability::WriteBack)
                            .unwrap();
                        assert!(driver.read(lba, 1).unwrap() == stamp(lba, round), "sector {lba}");
                    }
                }
            });
        }
    });
    left.close().unwrap();
    right.close().unwrap();
}

#[test]
fn a_block_is_not_written_both_through_the_page_cache_and_past_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 64);
    let registry = StoreRegistry::default();
    let open = |options: &StoreOptions| open_beside(&registry, options);
    for (first, second) in [
        (StoreKind::Mmap, StoreKind::Direct),
        (StoreKind::Direct, StoreKind::Mmap),
    ] {
        let left = open(&part(first, &path, 0, 12)).unwrap();
        let refused = open(&part(second, &path, 12, 12)).expect_err("they share sectors 8 to 15");
        assert!(
            matches!(refused, StoreError::SharedBlock { block: BLOCK, .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("multiples of 4096"), "{refused}");
        open(&part(first, &path, 12, 12))
            .expect("of the same kind")
            .close()
            .unwrap();
        open(&part(second, &path, 16, 8))
            .expect("from the next block on")
            .close()
            .unwrap();
        left.close().unwrap();
        drop(left);
        open(&part(second, &path, 12, 12))
            .expect("the other is gone")
            .close()
            .unwrap();
    }
}
