//! Golden images that are block devices, which have no time of change.

use std::os::unix::fs::FileExt as _;

use engine::Health;

use super::*;
use crate::overlay::OverlayError;
use crate::tests::devices::Loop;

const BYTES: u64 = 1 << 20;

/// Somebody writes to a sector that is none of the samples.
fn written_by_somebody(device: &Loop) {
    let file = std::fs::File::options().write(true).open(&device.device).unwrap();
    file.write_all_at(&[9; 512], 700 * 512).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_device_that_is_written_to_is_told_and_a_volatile_copy_on_it_is_not_opened_again() {
    let Some(device) = Loop::new(BYTES / 512) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (copy, kept) = (options(dir.path(), "a"), persistent(dir.path(), "b"));
    {
        let golden = golden(StoreKind::Mmap, &device.device);
        let (volatile, mut driver) = overlay(&golden, &copy);
        let (persistent, _driver) = overlay(&golden, &kept);
        driver.write(5, &stamp(5, 1), Durability::WriteBack).unwrap();
        assert!(golden.check_unchanged() && driver.read(6, 1).is_ok());
        // A child of another test has their files open for a moment.
        volatile.unlock();
        persistent.unlock();
    }
    {
        let golden = golden(StoreKind::Mmap, &device.device);
        assert!(golden.check_unchanged());
        let (_again, mut driver) = overlay(&golden, &copy);
        assert!(
            driver.read(5, 1).unwrap() == stamp(5, 1),
            "nobody wrote to the image"
        );
        written_by_somebody(&device);
        assert!(!golden.check_unchanged());
        let Health::Degraded(said) = golden.health() else {
            panic!("{:?}", golden.health())
        };
        assert!(
            said.contains("changed in place (8 sectors were written"),
            "{said}"
        );
    }
    let golden = golden(StoreKind::Mmap, &device.device);
    let error = OverlayStore::open(&golden, &copy).unwrap_err();
    assert!(
        matches!(error, OverlayError::OtherGolden { .. })
            && error.to_string().contains("was written to since"),
        "{error}"
    );
    overlay(&golden, &kept);
}

#[test]
fn a_device_that_grows_is_told() {
    let Some(device) = Loop::new(BYTES / 512) else {
        return;
    };
    let golden = golden(StoreKind::Mmap, &device.device);
    assert!(golden.check_unchanged());
    let file = std::fs::File::options().write(true).open(&device.file).unwrap();
    file.set_len(2 * BYTES).unwrap();
    assert!(device.run("losetup", &["--set-capacity"]));
    assert!(!golden.check_unchanged());
    assert!(matches!(golden.health(), Health::Degraded(said) if said.contains("it had 1048576 bytes")));
}

/// Their maps say nothing of what was written to the image.
#[test]
fn a_copy_on_a_device_is_taken_over_from_the_release_before() {
    let Some(device) = Loop::new(BYTES / 512) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let copy = options(dir.path(), "a");
    let golden = golden(StoreKind::Mmap, &device.device);
    {
        let (elder, mut driver) = overlay(&golden, &copy);
        driver.write(5, &stamp(5, 1), Durability::WriteBack).unwrap();
        elder.unlock();
    }
    let map = std::fs::File::options()
        .write(true)
        .open(copy.files.map())
        .unwrap();
    // Behind magic, six numbers, the boot's id, the copy and the pin.
    map.write_all_at(&[0; 8], 8 + 48 + 36 + 8 + 1).unwrap();
    let (_new, mut driver) = overlay(&golden, &copy);
    assert!(driver.read(5, 1).unwrap() == stamp(5, 1));
}
