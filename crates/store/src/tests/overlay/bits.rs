//! Where an overlay's bits are, and what becomes of it when they are gone or cut.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use engine::Health;
use tempfile::TempDir;

use super::*;
use crate::overlay::{MergeError, RecordsHeader, lies_in_memory};

/// An overlay whose bits belong in memory. What a test leaves there goes with it.
struct InMemory(OverlayOptions, TempDir);

impl InMemory {
    fn new(dir: &Path, persistent: bool) -> Option<InMemory> {
        let memory = match tempfile::tempdir_in("/dev/shm") {
            Ok(memory) if lies_in_memory(memory.path()) => memory,
            _ => {
                crate::skip("no memory for bits: /dev/shm is no tmpfs");
                return None;
            }
        };
        let options = options(dir, "a");
        let mut files = OverlayFiles::in_memory(options.files.base());
        files.memory = Some(memory.path().to_owned());
        let options = OverlayOptions {
            files,
            persistent,
            ..options
        };
        Some(InMemory(options, memory))
    }

    /// Where they are.
    fn bits(&self) -> Option<PathBuf> {
        let map = std::fs::read(self.0.files.map()).unwrap();
        let length = u16::from_le_bytes(map[2048..2050].try_into().unwrap());
        let path = std::str::from_utf8(&map[2050..2050 + usize::from(length)]).unwrap();
        (!path.is_empty()).then(|| path.into())
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = self.0.files.discard();
    }
}

/// Ends without a word, as by a kill.
fn end(overlay: Arc<OverlayStore>, driver: Driver) {
    overlay.unlock();
    drop((driver, overlay));
}

fn stop(overlay: Arc<OverlayStore>, driver: Driver) {
    overlay.close().unwrap();
    end(overlay, driver);
}

#[test]
fn bits_are_in_memory_from_the_beginning_to_the_discard() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let Some(copy) = InMemory::new(dir.path(), false) else {
        return;
    };
    let golden = golden(StoreKind::Mmap, &path);
    let (first, mut driver) = overlay(&golden, &copy.0);
    let bits = copy.bits().expect("a path");
    assert!(bits.starts_with(copy.1.path()));
    assert_eq!(std::fs::metadata(copy.0.files.map()).unwrap().len(), 4096);
    driver.write(5, &stamp(5, 1), Durability::WriteBack).unwrap();
    end(first, driver);
    let changed = || std::fs::metadata(copy.0.files.map()).unwrap().modified().unwrap();
    let before = changed();
    let (second, mut driver) = overlay(&golden, &copy.0);
    assert_eq!(copy.bits().as_ref(), Some(&bits), "the same file");
    assert_eq!(changed(), before, "there is nothing to be written down");
    assert!(driver.read(5, 1).unwrap() == stamp(5, 1) && driver.read(6, 1).unwrap() == content[span(6, 1)]);
    end(second, driver);
    // Another file with its name, a copy of the map: these bits are not its.
    std::fs::copy(copy.0.files.map(), dir.path().join("b.map")).unwrap();
    std::fs::copy(copy.0.files.delta(), dir.path().join("b.delta")).unwrap();
    let other = options(dir.path(), "b");
    let error = OverlayStore::open(&golden, &other).unwrap_err();
    assert!(matches!(error, OverlayError::Lost { .. }), "{error}");
    other.files.discard().unwrap();
    assert!(bits.exists(), "they are another overlay's");
    copy.0.files.discard().unwrap();
    assert!(!bits.exists());
}

#[test]
fn bits_of_an_earlier_release_are_moved_to_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let Some(copy) = InMemory::new(dir.path(), false) else {
        return;
    };
    let golden = golden(StoreKind::Mmap, &path);
    // As it made them: in the map, and nothing about another place.
    let (elder, mut driver) = overlay(&golden, &options(dir.path(), "a"));
    driver.write(5, &stamp(5, 1), Durability::WriteBack).unwrap();
    driver
        .write(1199, &stamp(1199, 1), Durability::WriteBack)
        .unwrap();
    stop(elder, driver);
    assert_eq!(copy.bits(), None);
    let (moved, mut driver) = overlay(&golden, &copy.0);
    assert!(copy.bits().is_some_and(|bits| bits.exists()));
    assert_eq!(moved.usage().written_sectors, 2);
    for lba in [5, 1199] {
        assert!(driver.read(lba, 1).unwrap() == stamp(lba, 1));
    }
    assert!(driver.read(6, 1).unwrap() == content[span(6, 1)]);
}

#[test]
fn after_a_stop_bits_outlive_the_memory_and_after_a_kill_nothing_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let Some(copy) = InMemory::new(dir.path(), false) else {
        return;
    };
    let golden = golden(StoreKind::Mmap, &path);
    let (first, mut driver) = overlay(&golden, &copy.0);
    driver.write(5, &stamp(5, 1), Durability::WriteBack).unwrap();
    stop(first, driver);
    std::fs::remove_file(copy.bits().unwrap()).unwrap();
    let (second, mut driver) = overlay(&golden, &copy.0);
    assert!(driver.read(5, 1).unwrap() == stamp(5, 1));
    driver.write(7, &stamp(7, 1), Durability::WriteBack).unwrap();
    end(second, driver);
    // What was saved before is old.
    std::fs::remove_file(copy.bits().unwrap()).unwrap();
    let error = OverlayStore::open(&golden, &copy.0).unwrap_err();
    assert!(
        matches!(error, OverlayError::Lost { .. }) && error.to_string().contains("boot the machine anew"),
        "{error}"
    );
    assert!(copy.0.files.are_left().unwrap(), "nobody takes it for none");
}

#[test]
fn a_persistent_overlay_without_its_memory_is_as_its_last_commit_left_it() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let Some(mut copy) = InMemory::new(dir.path(), true) else {
        return;
    };
    copy.0.flush_interval = Duration::from_secs(3600);
    let golden = golden(StoreKind::Mmap, &path);
    let (first, mut driver) = overlay(&golden, &copy.0);
    driver.write(5, &stamp(5, 1), Durability::Durable).unwrap();
    let committed = std::fs::read(copy.0.files.records()).unwrap();
    driver.write(7, &stamp(7, 1), Durability::WriteBack).unwrap();
    end(first, driver);
    // It ended without its last commit.
    std::fs::write(copy.0.files.records(), committed).unwrap();
    std::fs::remove_file(copy.bits().unwrap()).unwrap();
    let (_second, mut driver) = overlay(&golden, &copy.0);
    assert!(driver.read(5, 1).unwrap() == stamp(5, 1));
    assert!(driver.read(7, 1).unwrap() == content[span(7, 1)]);
}

/// Cuts the file with the bits of an overlay that is served; then as said.
fn with_cut_bits(
    in_memory: bool,
    is_persistent: bool,
    check: impl FnOnce(&OverlayStore, &mut Driver, &OverlayOptions),
) {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let Some(copy) = InMemory::new(dir.path(), is_persistent) else {
        return;
    };
    let mut given = copy.0.clone();
    if !in_memory {
        given.files = OverlayFiles::new(copy.0.files.base());
    }
    given.flush_interval = Duration::from_secs(3600);
    let (overlay, mut driver) = overlay(&golden(StoreKind::Mmap, &path), &given);
    driver.write(5, &stamp(5, 1), Durability::Durable).unwrap();
    driver.flush().unwrap();
    driver.write(7, &stamp(7, 1), Durability::WriteBack).unwrap();
    cut(&copy.bits().unwrap_or_else(|| given.files.map()), 4096);
    check(&overlay, &mut driver, &given);
    drop((driver, overlay));
}

#[test]
fn cut_bits_show_nobody_the_image_in_place_of_what_was_written() {
    for in_memory in [true, false] {
        with_cut_bits(in_memory, false, |overlay, driver, _| {
            for (lba, count) in [(5, 1), (4, 4), (900, 1)] {
                let fault = driver.read(lba, count).unwrap_err();
                assert_eq!(fault.kind, FaultKind::Read, "{fault:?}");
            }
            assert!(driver.verify(5, 1).is_err());
            let fault = driver.write(9, &stamp(9, 1), Durability::WriteBack).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Write);
            assert!(
                matches!(overlay.health(), Health::LostWrites(_)),
                "{:?}",
                overlay.health()
            );
        });
        // Nobody reads.
        with_cut_bits(in_memory, false, |overlay, driver, _| {
            overlay.look_at_backing();
            assert!(
                matches!(overlay.health(), Health::LostWrites(_)),
                "{:?}",
                overlay.health()
            );
            assert!(driver.read(900, 1).is_err());
        });
    }
}

#[test]
fn cut_bits_end_in_no_commit_and_no_merge() {
    with_cut_bits(true, true, |overlay, driver, options| {
        let before = std::fs::read(options.files.records()).unwrap();
        assert!(driver.flush().is_err());
        assert!(overlay.close().is_err());
        assert!(
            std::fs::read(options.files.records()).unwrap() == before,
            "what is on the medium stays"
        );
        let file = std::fs::File::open(options.files.records()).unwrap();
        let header = RecordsHeader::read(&file).unwrap();
        assert_eq!(header.words(&file, SECTORS.div_ceil(64)).unwrap()[0], 1 << 5);
    });
    with_cut_bits(true, false, |overlay, _, options| {
        let golden = std::fs::metadata(overlay.golden().path()).unwrap().ino();
        let error = overlay.merge(&options.files).unwrap_err();
        assert!(matches!(error, MergeError::Unwell { .. }), "{error}");
        assert_eq!(std::fs::metadata(overlay.golden().path()).unwrap().ino(), golden);
    });
}

/// An image of 1 TiB needs 256 MiB of bits. A machine that wrote in two places has two pages of them.
#[test]
fn memory_for_bits_is_bounded_by_what_was_written() {
    const MACHINES: usize = 64;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("golden");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let golden = golden(StoreKind::Mmap, &path);
    let copies: Vec<InMemory> = (0..MACHINES)
        .map_while(|n| InMemory::new(&dir.path().join(n.to_string()), false))
        .collect();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = resident();
    let mut open: Vec<_> = copies
        .iter()
        .map(|copy| {
            std::fs::create_dir(copy.0.files.base().parent().unwrap()).unwrap();
            overlay(&golden, &copy.0)
        })
        .collect();
    for (_, driver) in &mut open {
        for lba in [1 << 20, (1 << 31) - 8] {
            driver.write(lba, &stamp(lba, 1), Durability::WriteBack).unwrap();
            assert!(driver.read(lba, 1).unwrap() == stamp(lba, 1));
        }
        // As good as all of it.
        for lba in (0..1u64 << 31).step_by(1 << 24) {
            assert!(driver.read(lba + 1, 1).unwrap() == [0; 512]);
        }
    }
    for copy in &copies {
        let blocks = std::fs::metadata(copy.bits().unwrap()).unwrap().blocks() * 512;
        assert_eq!(blocks, 3 * 4096, "a header and two leaves");
    }
    let each = resident().saturating_sub(before) / MACHINES as u64;
    println!("memory for each of {MACHINES} machines, 1 TiB: {each} KiB");
    // Other tests run beside this one.
    assert!(each < 32 << 10, "{each} KiB for each machine");
}
