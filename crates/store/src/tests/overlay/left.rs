//! What a process finds that opens an overlay again: after a restart of the host, with another image, with damage.

use super::*;

#[test]
fn an_overlay_of_an_earlier_boot_of_the_host_begins_anew() {
    use std::os::unix::fs::FileExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let golden = golden(StoreKind::Mmap, &path);
    let options = volatile_left_behind(dir.path(), &golden);
    // The boot id stands behind magic and six numbers.
    let map = std::fs::File::options()
        .write(true)
        .open(options.files.map())
        .unwrap();
    map.write_all_at(b"0", 56).unwrap();
    map.write_all_at(b"!", 57).unwrap();
    assert!(!options.files.are_of_this_boot().unwrap());
    let (_, mut driver) = super::overlay(&golden, &options);
    assert!(driver.read(5, 1).unwrap() == content[span(5, 1)]);
}

/// A volatile overlay with a sector of its own, closed.
fn volatile_left_behind(dir: &Path, golden: &Golden) -> OverlayOptions {
    let options = options(dir, "a");
    let (overlay, mut driver) = overlay(golden, &options);
    driver.write(5, &stamp(5, 1), Durability::WriteBack).unwrap();
    overlay.close().unwrap();
    overlay.unlock();
    options
}

/// A persistent overlay with a sector of its own, closed.
fn left_behind(dir: &Path, path: &Path) -> OverlayOptions {
    let options = persistent(dir, "p");
    let golden = golden(StoreKind::Mmap, path);
    let (overlay, mut driver) = overlay(&golden, &options);
    assert!(overlay.is_persistent() && options.files.are_persistent());
    driver.write(5, &stamp(5, 1), Durability::WriteBack).unwrap();
    driver.write(900, &stamp(900, 1), Durability::Durable).unwrap();
    overlay.close().unwrap();
    overlay.unlock();
    options
}

#[test]
fn a_persistent_overlay_is_there_after_a_restart_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let mut options = left_behind(dir.path(), &path);
    // A map of an earlier boot: nobody knows what a power cut left of it.
    let map = std::fs::File::options()
        .write(true)
        .open(options.files.map())
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&map, b"!!", 56).unwrap();
    assert!(!options.files.are_of_this_boot().unwrap() && options.files.are_left().unwrap());
    // Nor does it become volatile by itself.
    options.persistent = false;
    let (overlay, mut driver) = overlay(&golden(StoreKind::Mmap, &path), &options);
    assert!(overlay.is_persistent());
    assert_eq!(overlay.usage().written_sectors, 2);
    for lba in [5, 900] {
        assert!(driver.read(lba, 1).unwrap() == stamp(lba, 1));
    }
    assert!(driver.read(6, 1).unwrap() == content[span(6, 1)]);
}

#[test]
fn a_durable_write_is_in_the_records_and_a_flush_puts_the_others_there() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let mut options = persistent(dir.path(), "p");
    options.flush_interval = Duration::from_secs(3600);
    let (_overlay, mut driver) = overlay(&golden(StoreKind::Mmap, &path), &options);
    let on_medium = || {
        let file = std::fs::File::open(options.files.records()).unwrap();
        let header = crate::overlay::RecordsHeader::read(&file).unwrap();
        let words = header.words(&file, SECTORS.div_ceil(64)).unwrap();
        words.iter().map(|word| word.count_ones()).sum::<u32>()
    };
    driver.write(5, &stamp(5, 1), Durability::Durable).unwrap();
    assert_eq!(on_medium(), 1);
    driver.write(7, &stamp(7, 1), Durability::WriteBack).unwrap();
    driver.flush().unwrap();
    assert_eq!(on_medium(), 2);
    driver.trim(&[Extent { lba: 16, count: 8 }]).unwrap();
    assert_eq!(on_medium(), 10);
}

#[test]
fn a_persistent_overlay_refuses_another_image_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let options = left_behind(dir.path(), &path);
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let refused = || {
        let error = OverlayStore::open(&golden(StoreKind::Mmap, &path), &options).unwrap_err();
        assert!(matches!(error, OverlayError::OtherGolden { .. }), "{error}");
        error.to_string()
    };
    let image = |bytes: &[u8], modified| {
        // By rename: another inode.
        let next = dir.path().join("next");
        std::fs::write(&next, bytes).unwrap();
        let file = std::fs::File::options().write(true).open(&next).unwrap();
        file.set_modified(modified).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    let mut other = content.clone();
    other[1024] ^= 1;
    image(&other, modified);
    assert!(refused().contains("xblade overlay reset"), "the way out");
    image(&content[..content.len() - 512], modified);
    refused();
    image(&content, modified + Duration::from_nanos(1));
    assert!(refused().contains("touch -d"), "only the time");
    // A copy of it with its time is the same image.
    image(&content, modified);
    let (_, mut driver) = overlay(&golden(StoreKind::Mmap, &path), &options);
    assert!(driver.read(5, 1).unwrap() == stamp(5, 1));
}

#[test]
fn damage_ends_in_a_refusal_and_a_discard_in_a_new_overlay() {
    let dir = tempfile::tempdir().unwrap();
    let (content, path) = golden_file(dir.path());
    let harm: [&dyn Fn(&OverlayFiles); 5] = [
        &|files| flip(&files.records(), 40),
        &|files| flip(&files.records(), 4096 + 511),
        &|files| cut(&files.records(), 4096),
        &|files| cut(&files.delta(), 512 * 512),
        &|files| std::fs::remove_file(files.delta()).unwrap(),
    ];
    for (n, harm) in harm.iter().enumerate() {
        let options = left_behind(dir.path(), &path);
        harm(&options.files);
        let golden = golden(StoreKind::Mmap, &path);
        let error = OverlayStore::open(&golden, &options).unwrap_err();
        assert!(matches!(error, OverlayError::Damaged { .. }), "{n}: {error}");
        options.files.discard().unwrap();
        let (_, mut driver) = overlay(&golden, &options);
        assert!(driver.read(0, SECTORS).unwrap() == content, "{n}");
        drop(driver);
        options.files.discard().unwrap();
    }
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[test]
fn what_cannot_be_read_is_neither_gone_nor_of_an_earlier_boot() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let golden = golden(StoreKind::Mmap, &path);
    let options = volatile_left_behind(dir.path(), &golden);
    let files = &options.files;
    let (map, aside) = (files.map(), dir.path().join("aside"));
    std::fs::rename(&map, &aside).unwrap();
    assert!(!files.are_left().unwrap() && !files.ended_with_the_host().unwrap());
    // A link to itself can be neither read nor taken for none.
    std::os::unix::fs::symlink(&map, &map).unwrap();
    assert!(files.are_left().is_err() && files.are_pinned().is_err());
    assert!(files.ended_with_the_host().is_err());
    assert!(OverlayStore::open(&golden, &options).is_err());
    std::fs::rename(&aside, &map).unwrap();
    let (_, mut driver) = super::overlay(&golden, &options);
    assert!(driver.read(5, 1).unwrap() == stamp(5, 1));
}

/// Of a persistent copy, whose making was cut off, there is nothing that would have a machine begin on an image that was replaced since.
#[test]
fn a_persistent_copy_whose_making_failed_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden_file(dir.path());
    let options = left_behind(dir.path(), &path);
    let files = &options.files;
    assert!(files.are_left().unwrap());
    std::fs::remove_file(files.records()).unwrap();
    assert!(!files.are_left().unwrap() && files.have_any());
    // What is in the way is neither made nor removed.
    let new = files.records().with_extension("marks.new");
    std::fs::create_dir(&new).unwrap();
    let golden = golden(StoreKind::Mmap, &path);
    assert!(OverlayStore::open(&golden, &options).is_err());
    std::fs::remove_dir(&new).unwrap();
    assert!(!files.have_any());
    let (overlay, _) = overlay(&golden, &options);
    assert_eq!(overlay.usage().written_sectors, 0);
}
