//! What a look at the backing finds: files that were deleted, replaced or cut short behind a store.

use std::path::Path;
use std::sync::Arc;

use super::driver::counter;
use super::faults::patiently;
use super::overlay::{cut, golden, golden_file, options, overlay, persistent};
use super::{Driver, image, stamp};
use crate::completion_queue::CompletionQueue;
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};
use crate::overlay::CurrentGolden;
use engine::{Durability, Health, Store};

/// Why it is degraded after another look.
fn degraded(store: &dyn Store<CompletionQueue>) -> Option<String> {
    store.look_at_backing();
    match store.health() {
        Health::Healthy => None,
        Health::Degraded(why) => Some(why),
        other => panic!("{other:?}"),
    }
}

fn is_lost(store: &dyn Store<CompletionQueue>) -> bool {
    store.look_at_backing();
    matches!(store.health(), Health::LostWrites(lost) if lost.cause.contains("cut short"))
}

fn mentions(found: Option<String>, path: &Path, what: &str) {
    let found = found.expect("it is degraded");
    let path = path.to_str().unwrap();
    assert!(found.contains(path) && found.contains(what), "{found}");
}

#[test]
fn a_deleted_or_replaced_file_is_served_and_told_about_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (path, aside) = (dir.path().join("image"), dir.path().join("aside"));
    for kind in [StoreKind::Mmap, StoreKind::Direct] {
        image(&path, 64);
        let store = open(&StoreOptions::new(kind, &path)).unwrap();
        let mut driver = Driver::new(&store);
        driver.write(5, &stamp(5, 1), Durability::WriteBack).unwrap();
        assert_eq!(degraded(&*store), None);
        std::fs::rename(&path, &aside).unwrap();
        mentions(degraded(&*store), &path, "deleted");
        assert_eq!(counter(&store, "replaced"), 1);
        image(&path, 128);
        mentions(degraded(&*store), &path, "replaced");
        assert_eq!(store.refresh().unwrap(), 64);
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(degraded(&*store), None, "the file is back");
        std::fs::remove_file(&path).unwrap();
        mentions(degraded(&*store), &path, "deleted");
        assert_eq!(driver.read(5, 1).unwrap(), stamp(5, 1));
        driver.flush().unwrap();
        store.close().unwrap();
    }
}

/// Nobody writes, and nobody reads what is gone.
#[test]
fn a_file_cut_short_is_a_loss_without_any_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    for kind in [StoreKind::Mmap, StoreKind::Direct] {
        let file = image(&path, 4096);
        let store = open(&StoreOptions::new(kind, &path)).unwrap();
        let mut driver = Driver::new(&store);
        assert_eq!(degraded(&*store), None);
        file.set_len(2000 * 512).unwrap();
        patiently("the loss", || is_lost(&*store));
        let commits = counter(&store, "commits");
        (0..5).for_each(|_| store.look_at_backing());
        assert!(driver.read(5, 1).is_ok());
        assert!(
            counter(&store, "commits") <= commits + 1,
            "it is found once, not at each look"
        );
        assert!(driver.write(5, &stamp(5, 3), Durability::WriteBack).is_err());
        file.set_len(4096 * 512).unwrap();
        store.accept_lost_writes();
        driver.write(5, &stamp(5, 4), Durability::Durable).unwrap();
        assert_eq!(degraded(&*store), None);
        store.close().unwrap();
    }
}

#[test]
fn a_read_only_file_cut_short_is_degraded_while_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = image(&path, 4096);
    let options = StoreOptions {
        read_only: true,
        ..StoreOptions::new(StoreKind::Mmap, &path)
    };
    let store = open(&options).unwrap();
    assert_eq!(degraded(&*store), None);
    file.set_len(1000 * 512).unwrap();
    mentions(degraded(&*store), &path, "shorter than the export");
    file.set_len(4096 * 512).unwrap();
    assert_eq!(degraded(&*store), None);
}

#[test]
fn a_delta_cut_short_is_a_lost_write_of_its_machine() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let golden = golden(StoreKind::Mmap, &path);
    for (options, delta) in [
        (persistent(dir.path(), "kept"), dir.path().join("kept.delta")),
        (options(dir.path(), "volatile"), dir.path().join("volatile.delta")),
    ] {
        let current = CurrentGolden::new(golden.clone());
        let (store, mut driver) = overlay(&golden, &options);
        current.watch("pc17".into(), &store);
        driver.write(700, &stamp(700, 1), Durability::WriteBack).unwrap();
        driver.flush().unwrap();
        cut(&delta, 500 * 512);
        patiently("the loss", || is_lost(&current));
        let Health::LostWrites(lost) = current.health() else {
            panic!("{:?}", current.health());
        };
        assert!(lost.cause.contains("pc17"), "{lost}");
        assert!(driver.flush().is_err(), "a flush says that all is there");
        assert!(driver.write(5, &stamp(5, 1), Durability::Durable).is_err());
    }
}

/// Nobody looks: the commit itself finds it.
#[test]
fn a_flush_notices_that_a_delta_was_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let golden = golden(StoreKind::Mmap, &path);
    let (store, mut driver) = overlay(&golden, &persistent(dir.path(), "kept"));
    driver.write(700, &stamp(700, 1), Durability::WriteBack).unwrap();
    driver.flush().unwrap();
    cut(&dir.path().join("kept.delta"), 500 * 512);
    assert!(driver.flush().is_err());
    assert!(matches!(store.health(), Health::LostWrites(_)));
}

#[test]
fn a_copy_whose_files_are_gone_is_told_of_with_its_machine() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let golden = golden(StoreKind::Mmap, &path);
    for (name, suffix) in [("a", "delta"), ("b", "marks"), ("c", "map")] {
        let current = CurrentGolden::new(golden.clone());
        let (store, _driver) = overlay(&golden, &persistent(dir.path(), name));
        current.watch("pc17".into(), &store);
        assert_eq!(degraded(&current), None);
        let gone = dir.path().join(format!("{name}.{suffix}"));
        std::fs::remove_file(&gone).unwrap();
        mentions(degraded(&current), &gone, "pc17");
    }
}

/// A new image is put in place by rename: nothing is wrong then. Without one there is none for whoever boots.
#[test]
fn a_golden_image_may_be_replaced_and_must_not_be_deleted_or_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let current = CurrentGolden::new(golden(StoreKind::Mmap, &path));
    assert_eq!(degraded(&current), None);
    std::fs::remove_file(&path).unwrap();
    mentions(degraded(&current), &path, "deleted");
    std::fs::write(&path, &content).unwrap();
    assert_eq!(degraded(&current), None);
    current.set(golden(StoreKind::Mmap, &path));
    std::fs::write(&path, &content[..512 * 100]).unwrap();
    assert!(degraded(&current).is_some());
    let again = Arc::new(CurrentGolden::new(golden(StoreKind::Mmap, &path)));
    assert_eq!(degraded(&*again), None);
}
