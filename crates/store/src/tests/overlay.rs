//! Overlays on one image against models, and what is left of them.

mod bits;
mod device;
mod left;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use rustix::fs::{Advice, fadvise};

use super::{Driver, stamp};
use crate::completion_queue::CompletionQueue;
use crate::options::{StoreKind, StoreOptions};
use crate::overlay::{
    Golden, MergedImage, OverlayError, OverlayFiles, OverlayOptions, OverlayStore, remove_unfinished_merge,
};
use crate::{Losses, StoreRegistry};
use engine::{Durability, Extent, FaultKind, Store};

const SECTORS: u64 = 1200;

/// A golden image in which each sector says which one it is.
pub(super) fn golden_file(dir: &Path) -> (Vec<u8>, std::path::PathBuf) {
    let content: Vec<u8> = (0..SECTORS).flat_map(|lba| stamp(lba, u64::MAX)).collect();
    let path = dir.join("golden");
    std::fs::write(&path, &content).unwrap();
    (content, path)
}

pub(super) fn golden(kind: StoreKind, path: &Path) -> Golden {
    opened_golden(&StoreOptions::new(kind, path))
}

fn opened_golden(options: &StoreOptions) -> Golden {
    Golden::open(options, &StoreRegistry::default(), &Losses::default()).unwrap()
}

pub(super) fn options(dir: &Path, name: &str) -> OverlayOptions {
    OverlayOptions {
        files: OverlayFiles::new(dir.join(name)),
        persistent: false,
        limit_bytes: 0,
        flush_interval: Duration::from_secs(1),
    }
}

pub(super) fn persistent(dir: &Path, name: &str) -> OverlayOptions {
    OverlayOptions {
        persistent: true,
        ..options(dir, name)
    }
}

/// An overlay, and the same as an ordinary store.
pub(super) fn overlay(golden: &Golden, options: &OverlayOptions) -> (Arc<OverlayStore>, Driver) {
    let overlay = Arc::new(OverlayStore::open(golden, options).unwrap());
    let store: Arc<dyn Store<CompletionQueue>> = overlay.clone();
    let driver = Driver::new(&store);
    (overlay, driver)
}

#[derive(Clone, Debug)]
enum Action {
    Read(usize, u64, u64),
    Write(usize, u64, u64, Durability),
    Trim(usize, u64, u64),
    Verify(usize, u64, u64),
    Flush(usize),
    /// What is clean leaves the page cache.
    Chill,
    /// All stores are opened anew.
    Restart,
    /// The same, and the persistent one has no more than what is on its medium.
    HostRestart,
}

fn action() -> impl Strategy<Value = Action> {
    let place = || {
        (0..2usize, 0..SECTORS, 1u64..40).prop_map(|(who, lba, count)| (who, lba, count.min(SECTORS - lba)))
    };
    prop_oneof![
        6 => place().prop_map(|(who, lba, count)| Action::Read(who, lba, count)),
        5 => place().prop_map(|(who, lba, count)| Action::Write(who, lba, count, Durability::WriteBack)),
        1 => place().prop_map(|(who, lba, count)| Action::Write(who, lba, count, Durability::Durable)),
        1 => place().prop_map(|(who, lba, count)| Action::Trim(who, lba, count)),
        1 => place().prop_map(|(who, lba, count)| Action::Verify(who, lba, count)),
        1 => (0..2usize).prop_map(Action::Flush),
        2 => Just(Action::Chill),
        1 => Just(Action::Restart),
        1 => Just(Action::HostRestart),
    ]
}

fn span(lba: u64, count: u64) -> std::ops::Range<usize> {
    lba as usize * 512..(lba + count) as usize * 512
}

fn apply(
    drivers: &mut [Driver],
    models: &mut [Vec<u8>; 2],
    action: &Action,
    version: u64,
) -> Result<(), TestCaseError> {
    match *action {
        Action::Read(who, lba, count) => {
            let data = drivers[who].read(lba, count).unwrap();
            prop_assert!(
                data == models[who][span(lba, count)],
                "{who}: read of {count} at {lba}"
            );
        }
        Action::Write(who, lba, count, durability) => {
            let data: Vec<u8> = (lba..lba + count).flat_map(|lba| stamp(lba, version)).collect();
            drivers[who].write(lba, &data, durability).unwrap();
            models[who][span(lba, count)].copy_from_slice(&data);
        }
        Action::Trim(who, lba, count) if drivers[who].store.traits().zeroes_after_trim => {
            drivers[who].trim(&[Extent { lba, count }]).unwrap();
            models[who][span(lba, count)].fill(0);
        }
        Action::Trim(..) | Action::Chill | Action::Restart | Action::HostRestart => {}
        Action::Verify(who, lba, count) => drivers[who].verify(lba, count).unwrap(),
        Action::Flush(who) => drivers[who].flush().unwrap(),
    }
    Ok(())
}

fn chill(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    rustix::fs::fdatasync(&file).unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

fn check(kind: StoreKind, actions: &[Action]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let options = [persistent(dir.path(), "a"), options(dir.path(), "b")];
    let open = || -> Vec<Driver> {
        let golden = golden(kind, &path);
        options
            .iter()
            .map(|options| overlay(&golden, options).1)
            .collect()
    };
    let mut drivers = open();
    let mut models = [content.clone(), content.clone()];
    for (version, action) in actions.iter().enumerate() {
        match action {
            Action::Chill => {
                chill(&path);
                options.iter().for_each(|options| chill(&options.files.delta()));
            }
            Action::Restart | Action::HostRestart => {
                drivers.iter().for_each(|driver| driver.store.close().unwrap());
                drivers.clear();
                if matches!(action, Action::HostRestart) {
                    std::fs::remove_file(options[0].files.map()).unwrap();
                }
                drivers = open();
            }
            action => apply(&mut drivers, &mut models, action, version as u64)?,
        }
    }
    for (driver, model) in drivers.iter_mut().zip(&models) {
        prop_assert!(
            driver.read(0, SECTORS).unwrap() == *model,
            "the whole disk at the end"
        );
    }
    prop_assert!(std::fs::read(&path).unwrap() == content, "the golden image");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn overlays_on_a_mapped_image_are_disks_of_their_own(actions in prop::collection::vec(action(), 1..60)) {
        check(StoreKind::Mmap, &actions)?;
    }

    #[test]
    fn overlays_on_a_direct_image_are_disks_of_their_own(actions in prop::collection::vec(action(), 1..60)) {
        check(StoreKind::Direct, &actions)?;
    }
}

#[test]
fn the_limit_is_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let mut options = options(dir.path(), "a");
    options.limit_bytes = 2 * 4096;
    let (overlay, mut driver) = overlay(&golden(StoreKind::Mmap, &path), &options);
    for lba in [0, 16] {
        driver.write(lba, &stamp(lba, 1), Durability::WriteBack).unwrap();
    }
    let fault = driver
        .write(32, &stamp(32, 1), Durability::WriteBack)
        .unwrap_err();
    assert_eq!((fault.kind, fault.lba), (FaultKind::Write, 32));
    assert_eq!(fault.source.raw_os_error(), Some(libc::ENOSPC));
    assert!(driver.read(32, 1).unwrap() == content[span(32, 1)], "as it was");
    // What has its space is written again.
    driver.write(1, &stamp(1, 2), Durability::WriteBack).unwrap();
    assert_eq!(overlay.usage().allocated_bytes, 2 * 4096);
    assert_eq!(overlay.usage().written_sectors, 3);
    assert_eq!(overlay.usage().refused_writes, 1);
    // What is given back can be taken again.
    driver.trim(&[Extent { lba: 0, count: 8 }]).unwrap();
    driver.write(32, &stamp(32, 3), Durability::WriteBack).unwrap();
    overlay.set_limit(0);
    driver.write(64, &stamp(64, 3), Durability::WriteBack).unwrap();
}

#[test]
fn an_overlay_stays_with_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let options = options(dir.path(), "a");
    let first = golden(StoreKind::Mmap, &path);
    let (overlay, mut driver) = overlay(&first, &options);
    driver.write(5, &stamp(5, 1), Durability::WriteBack).unwrap();

    // Another image in its place: who has the old one keeps it.
    let next = dir.path().join("next");
    std::fs::write(&next, vec![7; content.len()]).unwrap();
    std::fs::rename(&next, &path).unwrap();
    assert!(!first.is_current() && first.check_unchanged());
    assert!(driver.read(4, 3).unwrap()[..512] == content[span(4, 1)]);
    overlay.close().unwrap();
    overlay.unlock();
    drop((driver, overlay));

    let second = golden(StoreKind::Mmap, &path);
    let error = OverlayStore::open(&second, &options).unwrap_err();
    assert!(matches!(error, OverlayError::OtherGolden { .. }), "{error}");
    assert!(options.files.are_of_this_boot().unwrap());
    options.files.discard().unwrap();
    let (_, mut driver) = super::overlay::overlay(&second, &options);
    assert!(
        driver.read(4, 3).unwrap() == [7; 3 * 512],
        "anew, on the new image"
    );
}

#[test]
fn a_change_in_place_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let golden = golden(StoreKind::Mmap, &path);
    assert!(golden.check_unchanged());
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(!golden.check_unchanged() && golden.is_current());
}

#[test]
fn an_overlay_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let golden = golden(StoreKind::Mmap, &path);
    let options = options(dir.path(), "a");
    let _kept = overlay(&golden, &options);
    let error = OverlayStore::open(&golden, &options).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
}

#[test]
fn a_merge_is_a_new_image_in_the_old_one_s_place() {
    let dir = tempfile::tempdir().unwrap();
    let (mut content, path) = golden_file(dir.path());
    // A part of the file is served.
    let store_options = StoreOptions {
        offset: 8,
        length: SECTORS - 16,
        ..StoreOptions::new(StoreKind::Mmap, &path)
    };
    let golden = opened_golden(&store_options);
    let options = options(dir.path(), "a");
    let (overlay, mut driver) = overlay(&golden, &options);
    let data: Vec<u8> = (3..400).flat_map(|lba| stamp(lba, 1)).collect();
    driver.write(3, &data, Durability::WriteBack).unwrap();
    driver.trim(&[Extent { lba: 500, count: 100 }]).unwrap();
    driver.write(550, &stamp(550, 2), Durability::WriteBack).unwrap();
    content[span(8 + 3, 397)].copy_from_slice(&data);
    content[span(8 + 500, 100)].fill(0);
    content[span(8 + 550, 1)].copy_from_slice(&stamp(550, 2));
    // It belongs to somebody, and a merge was interrupted once.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    }
    std::os::unix::fs::symlink("elsewhere", dir.path().join("golden.merging")).unwrap();
    let old = std::fs::File::open(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    merge(&overlay, &options.files).unwrap();
    assert!(std::fs::read(&path).unwrap() == content, "the new image");
    let mut kept = Vec::new();
    std::io::Read::read_to_end(&mut &old, &mut kept).unwrap();
    assert!(kept == before, "who has the old image keeps it");
    assert!(!dir.path().join("golden.merging").exists() && !dir.path().join("elsewhere").exists());
    let new = std::fs::metadata(&path).unwrap();
    assert_eq!(new.mode() & 0o7777, 0o640);
    assert!(!is_root || (new.uid(), new.gid()) == (1234, 4321));
    // The copy lies on the old image, and cannot be merged into the new one.
    let again = merge(&overlay, &options.files).unwrap_err();
    assert!(again.contains("replaced"), "{again}");
    assert!(std::fs::read(&path).unwrap() == content);
}

#[test]
fn cold_reads_are_counted_once_as_those_of_whom_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    for kind in [StoreKind::Mmap, StoreKind::Direct] {
        let options = options(dir.path(), &format!("{kind:?}"));
        let (overlay, mut driver) = overlay(&golden(kind, &path), &options);
        driver.write(0, &[1; 80 * 512], Durability::WriteBack).unwrap();
        for _ in 0..2 {
            overlay.count_anew();
            driver.read(900, 40).unwrap();
            driver.read(0, 40).unwrap();
            driver.read(60, 40).unwrap();
            let totals = overlay.totals();
            assert_eq!(
                (totals.golden_sectors, totals.delta_sectors),
                (60, 60),
                "{kind:?}"
            );
            chill(&path);
            chill(&options.files.delta());
        }
    }
}

#[test]
fn of_two_merges_into_one_image_one_is_refused_and_the_other_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (sectors, path) = (96 << 11, dir.path().join("golden"));
    std::fs::write(&path, vec![7; sectors * 512]).unwrap();
    // Each with an opening of its own, as two exports have.
    let copies: Vec<_> = [("a", 1), ("b", 2)]
        .into_iter()
        .map(|(name, byte)| {
            let options = options(dir.path(), name);
            let (overlay, mut driver) = overlay(&golden(StoreKind::Mmap, &path), &options);
            driver
                .write(byte, &[byte as u8; 512], Durability::WriteBack)
                .unwrap();
            (overlay, options.files, driver)
        })
        .collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let merges: Vec<_> = copies
            .iter()
            .map(|(overlay, files, _)| {
                let merge = scope.spawn(|| merge(overlay, files));
                // The second one while the first is at work.
                while !merge.is_finished() && std::fs::read_dir(dir.path()).unwrap().count() < 6 {
                    std::thread::yield_now();
                }
                merge
            })
            .collect();
        merges.into_iter().map(|merge| merge.join().unwrap()).collect()
    });
    assert_eq!(
        results.iter().filter(|result| result.is_ok()).count(),
        1,
        "{results:?}"
    );
    let image = std::fs::read(&path).unwrap();
    assert_eq!(image.len(), sectors * 512);
    for (byte, result) in [1u8, 2].iter().zip(&results) {
        let own = if result.is_ok() { *byte } else { 7 };
        assert!(image[span((*byte).into(), 1)] == [own; 512], "{results:?}");
    }
    assert!(
        image[span(3, sectors as u64 - 3)].iter().all(|byte| *byte == 7),
        "half made"
    );
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 5, "{left:?}");
}

/// The whole of it.
fn merge(overlay: &OverlayStore, files: &OverlayFiles) -> Result<(), String> {
    let merged = overlay.merge(files).and_then(MergedImage::put_in_place);
    merged.map_err(|error| error.to_string())
}

#[test]
fn a_merge_that_is_at_work_is_left_alone_and_what_a_killed_one_left_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let golden = golden(StoreKind::Mmap, &path);
    let (one, other) = (options(dir.path(), "a"), options(dir.path(), "b"));
    let unfinished = dir.path().join("golden.merging");
    std::fs::write(&unfinished, [1; 4096]).unwrap();
    assert!(!golden.is_being_replaced());
    let (overlay_a, mut driver) = overlay(&golden, &one);
    let (overlay_b, _) = overlay(&golden, &other);
    driver.write(3, &stamp(3, 1), Durability::WriteBack).unwrap();
    let new = overlay_a.merge(&one.files).unwrap();
    let whole = std::fs::read(&unfinished).unwrap();
    assert_eq!(whole.len() as u64, SECTORS * 512);
    assert!(golden.is_being_replaced());
    let refused = merge(&overlay_b, &other.files).unwrap_err();
    assert!(refused.contains("another `xblade overlay commit`"), "{refused}");
    assert_eq!(remove_unfinished_merge(&path).unwrap(), None);
    assert!(std::fs::read(&unfinished).unwrap() == whole);
    drop(new);
    assert!(!unfinished.exists() && !golden.is_being_replaced());

    // What somebody else has put in its way is nobody's image.
    let new = overlay_a.merge(&one.files).unwrap();
    std::fs::remove_file(&unfinished).unwrap();
    std::fs::write(&unfinished, "half").unwrap();
    let before = std::fs::read(&path).unwrap();
    new.put_in_place().unwrap_err();
    assert!(std::fs::read(&path).unwrap() == before);

    std::fs::write(&unfinished, [1; 4096]).unwrap();
    let removed = remove_unfinished_merge(&path).unwrap();
    assert_eq!(removed.unwrap().file_name(), unfinished.file_name());
    assert!(!unfinished.exists());
    merge(&overlay_a, &one.files).unwrap();
}

pub(super) fn cut(path: &Path, bytes: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
}

/// Pages of a file that are in memory.
fn resident_pages(path: &Path) -> usize {
    let file = std::fs::File::open(path).unwrap();
    let bytes = file.metadata().unwrap().len() as usize;
    let mapping = crate::mapped::mmap::Mapping::of_file(Arc::new(file), 0, bytes, false).unwrap();
    let mut pages = vec![0; mapping.pages()];
    mapping.residency(0, &mut pages).unwrap();
    pages.iter().filter(|page| **page & 1 == 1).count()
}

#[test]
fn however_many_machines_read_an_image_it_is_in_memory_once() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let golden = golden(StoreKind::Mmap, &path);
    let options: Vec<OverlayOptions> = (0..50).map(|n| options(dir.path(), &n.to_string())).collect();
    let mut machines: Vec<_> = options.iter().map(|options| overlay(&golden, options)).collect();
    for (_, driver) in &mut machines {
        for lba in (0..SECTORS).step_by(40) {
            let count = 40.min(SECTORS - lba);
            assert!(driver.read(lba, count).unwrap() == content[span(lba, count)]);
        }
    }
    assert_eq!(resident_pages(&path), content.len() / 4096);
    for options in &options {
        assert_eq!(resident_pages(&options.files.delta()), 0);
    }
}
