//! Exports that cannot be, and missing rights.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use super::place::{Place, XBLADE, refused, xblade};

#[test]
fn exports_that_cannot_be_are_refused() {
    let place = Place::new();
    let image = place.image.as_str();
    let empty = place.file("empty", "");
    let small = place.file("small", "less than a sector");
    let missing = place.path("missing").to_str().unwrap().to_owned();
    let dir = place.dir.path().to_str().unwrap();
    for (args, expected) in [
        (
            vec!["4095", "1", "lo", image],
            "shelf 4095 is refused by Linux initiators; take one from 0 to 4094",
        ),
        (
            vec!["1", "1", "lo", image, "-o", "8"],
            "offset 8 is beyond the end",
        ),
        (vec!["1", "1", "lo", image, "-o", "8"], "8 sectors: 0 to 7"),
        (
            vec!["1", "1", "lo", image, "-o", "2", "-l", "7"],
            "from sector 2 there are 1 to 6",
        ),
        (
            vec!["1", "1", "lo", &empty],
            "it is empty; at least one sector of 512 bytes",
        ),
        (vec!["1", "1", "lo", &small], "it has only 18 bytes"),
        (vec!["1", "1", "lo", &missing], "no such file or block device"),
        (vec!["1", "1", "lo", dir], "it is a directory"),
        (
            vec!["1", "1", "lo", "/dev/null"],
            "neither a regular file nor a block device",
        ),
        (
            vec!["1", "1", "nosuchif0", image],
            "no interface nosuchif0 here; there are:",
        ),
        (vec!["1", "1", "nosuch*", image], "no interface matches nosuch*"),
        (vec!["1", "1", "lo", image], "lo carries no Ethernet frames"),
        (
            vec!["1", "1", "lo", image, "--shared"],
            "--shared: a backing object with other writers must not be cached",
        ),
        (vec!["1", "1", "lo", image, "--shared"], "add --direct"),
        (
            vec!["1", "1", "lo", image, "--prealloc", "--store", "null"],
            "--prealloc reserves space in a file",
        ),
        (
            vec!["1", "1", "lo", image, "-r", "--prealloc"],
            "the export is read-only",
        ),
    ] {
        let output = xblade(&[&["serve"], args.as_slice()].concat());
        refused(&output, 1, expected);
    }
}

/// Runs the binary as somebody who is not root.
fn as_nobody(place: &Place, args: &[&str]) -> Output {
    let mut command = Command::new(XBLADE);
    if rustix::process::geteuid().is_root() {
        // The build directory may be closed to others. Copied by a process of its own: a descriptor of ours, open for
        // writing, would be inherited by whatever another test starts meanwhile, and the copy be too busy to run.
        let copy = place.path("xblade");
        assert!(
            Command::new("cp")
                .arg(XBLADE)
                .arg(&copy)
                .status()
                .unwrap()
                .success()
        );
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        command = Command::new(copy);
        command.uid(65534).gid(65534);
    }
    command.args(args).current_dir("/").output().unwrap()
}

#[test]
fn missing_rights_are_named() {
    let place = Place::new();
    fs::set_permissions(&place.image, fs::Permissions::from_mode(0o000)).unwrap();
    let closed = as_nobody(&place, &["serve", "1", "1", "lo", &place.image]);
    refused(&closed, 1, "it may not be read");
    refused(
        &closed,
        1,
        "missing capability: CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_PERFMON;",
    );

    fs::set_permissions(&place.image, fs::Permissions::from_mode(0o444)).unwrap();
    let read_only = as_nobody(&place, &["serve", "1", "1", "lo", &place.image]);
    refused(&read_only, 1, "it may not be written");
}
