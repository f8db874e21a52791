//! One writer at a time, and the message says who it is.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::image;
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};

/// Set for the child process: the file to hold.
const HOLD: &str = "XBLADE_TEST_HOLD";

/// Not a test of its own: the other process of [`another_process_is_named`].
#[test]
fn holder() {
    let Some(path) = std::env::var_os(HOLD) else {
        return;
    };
    let _store = open(&StoreOptions::new(StoreKind::Mmap, path)).unwrap();
    println!("\nholding");
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn another_process_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 64);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["tests::locks::holder", "--exact", "--nocapture"])
        .env(HOLD, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap() == "holding"),
        "the child never held the file"
    );
    let options = StoreOptions::new(StoreKind::Mmap, &path);
    let message = open(&options).expect_err("held by the child").to_string();
    assert!(message.contains(&format!("(pid {})", child.id())), "{message}");
    let reading = StoreOptions {
        read_only: true,
        ..options.clone()
    };
    assert!(open(&reading).is_err(), "a reader beside a writer");
    // However the holder ends, the lock ends with it.
    child.kill().unwrap();
    child.wait().unwrap();
    open(&options).expect("free again");
}

#[test]
fn disjoint_ranges_go_side_by_side_overlapping_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 64);
    let range = |offset, length| StoreOptions {
        offset,
        length,
        ..StoreOptions::new(StoreKind::Mmap, &path)
    };
    let _first = open(&range(0, 32)).unwrap();
    let _second = open(&range(32, 16)).unwrap();
    let message = open(&range(31, 2)).expect_err("overlaps").to_string();
    assert!(message.contains("another export of this process"), "{message}");
    assert!(open(&range(40, 0)).is_err());
    let _third = open(&range(48, 0)).unwrap();
}

#[test]
fn readers_share() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 64);
    let writing = StoreOptions::new(StoreKind::Mmap, &path);
    let reading = StoreOptions {
        read_only: true,
        ..writing.clone()
    };
    let readers = (open(&reading).unwrap(), open(&reading).unwrap());
    assert!(open(&writing).is_err());
    drop(readers);
    open(&writing).unwrap();
}
