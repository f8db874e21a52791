//! What operators get wrong, through the real binary: each mistake has a message that names the value and what it may
//! be, and an exit code that scripts can rely on (1 failed, 2 wrong usage). Nothing here needs root, though root sees
//! more.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const XBLADE: &str = env!("CARGO_BIN_EXE_xblade");

/// A directory with an image of 8 sectors.
struct Place {
    dir: tempfile::TempDir,
    image: String,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.raw");
        fs::File::create(&image).unwrap().set_len(8 * 512).unwrap();
        let image = image.to_str().unwrap().to_owned();
        Place { dir, image }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn xblade(args: &[&str]) -> Output {
    Command::new(XBLADE).args(args).output().unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(expected), "expected {expected:?} in:\n{stderr}");
    assert!(output.stdout.is_empty(), "nothing goes to standard output");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn wrong_arguments_name_the_value_and_the_range() {
    let image = Place::new().image;
    let image = image.as_str();
    let with = |option: [&'static str; 2]| vec!["serve", "1", "1", "eth0", image, option[0], option[1]];
    for (args, value, expected) in [
        (
            vec!["serve", "65535", "1", "eth0", image],
            "'65535'",
            "a shelf is a whole number from 0 to 65534",
        ),
        (
            vec!["serve", "70000", "1", "eth0", image],
            "'70000'",
            "from 0 to 65534",
        ),
        (vec!["serve", "-1", "1", "eth0", image], "'-1'", "from 0 to 65534"),
        (
            vec!["serve", "1.5", "1", "eth0", image],
            "'1.5'",
            "from 0 to 65534",
        ),
        (
            vec!["serve", "one", "1", "eth0", image],
            "'one'",
            "from 0 to 65534",
        ),
        (
            vec!["serve", "1", "255", "eth0", image],
            "'255'",
            "a slot is a whole number from 0 to 254",
        ),
        (vec!["serve", "1", "300", "eth0", image], "'300'", "from 0 to 254"),
        (vec!["serve", "1", "x", "eth0", image], "'x'", "from 0 to 254"),
        (
            with(["-o", "-8"]),
            "'-8'",
            "an offset is a whole number from 0 to 281474976710655 sectors",
        ),
        (with(["-o", "1.5"]), "'1.5'", "an offset is a whole number"),
        (
            with(["-l", "-8"]),
            "'-8'",
            "a length is a whole number from 0 to 281474976710655 sectors",
        ),
        (
            with(["-b", "1"]),
            "'1'",
            "a buffer count is a whole number from 2 to 65535",
        ),
        (
            with(["--spin-us", "1000001"]),
            "'1000001'",
            "from 0 to 1000000 microseconds",
        ),
        (
            with(["-m", "02:00"]),
            "'02:00'",
            "six two-digit hexadecimal numbers",
        ),
        (
            with(["-m", "020000000001,01:00:5e:00:00:01"]),
            "'01:00:5e:00:00:01'",
            "a group address",
        ),
        (
            with(["--vlan", "4095"]),
            "'4095'",
            "a VLAN is a whole number from 1 to 4094, or \"any\"",
        ),
        (with(["--vlan", "0"]), "'0'", "from 1 to 4094"),
        (with(["--mode", "fast"]), "'fast'", "auto, zerocopy, copy, skb"),
        (with(["--store", "tape"]), "'tape'", "mmap, direct, ram, null"),
        (
            with(["--serial", "123456789012345678901"]),
            "'123456789012345678901'",
            "1 to 20 printable ASCII",
        ),
        (with(["--rate-limit", "50k"]), "'50k'", "such as 50k/s"),
        (with(["--flush-interval", "1"]), "'1'", "from 10ms to 3600s"),
        (
            with(["--cpus", "0,x"]),
            "'x'",
            "a CPU is a whole number from 0 to 1023",
        ),
        (
            vec!["serve", "1", "1", "an-interface-of-16", image],
            "'an-interface-of-16'",
            "1 to 15 characters",
        ),
        (
            vec!["create", "x", "1024"],
            "'1024'",
            "a size is a whole number with its unit",
        ),
        (vec!["--log", "x=y=z", "check"], "'x=y=z'", "--log"),
    ] {
        let output = xblade(&args);
        refused(&output, 2, expected);
        refused(&output, 2, value);
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        &[][..],
        &["serve"],
        &["serve", "1", "1", "eth0"],
        &["frobnicate"],
        &["serve", "-Z"],
    ] {
        refused(&xblade(args), 2, "Usage");
    }
    let both = xblade(&["serve", "1", "1", "eth0", "/f", "-d", "--store", "ram"]);
    refused(&both, 2, "cannot be used with");
}

#[test]
fn help_and_version_are_no_failures() {
    for args in [["--help"], ["--version"]] {
        let output = xblade(&args);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("xblade"));
    }
}

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
        (vec!["1", "1", "lo", image, "--shared"], "use store = \"direct\""),
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

#[test]
fn a_config_file_is_refused_with_line_and_column() {
    let place = Place::new();
    let file = place.file(
        "x.toml",
        "[defaults]\ninterfaces = [\"lo\"]\n\n[[export]]\nshelf = 1\nslot = 255\npath = \"a.raw\"\nreadonly = true\n",
    );
    for command in ["check", "daemon"] {
        let output = xblade(&[command, "--config", &file]);
        refused(&output, 1, "2 problems");
        refused(
            &output,
            1,
            "x.toml:6:8: slot = 255: a slot is a whole number from 0 to 254",
        );
        refused(&output, 1, "6 | slot = 255\n    |        ^^^");
        refused(
            &output,
            1,
            "x.toml:8:1: unknown key `readonly`; did you mean `read_only`?",
        );
    }
}

#[test]
fn contradictions_are_refused_with_line_and_column() {
    let place = Place::new();
    let file = place.file(
        "x.toml",
        "[[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\ninterfaces = [\"lo\"]\n\n\
         [[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\ninterfaces = [\"lo\"]\nmode = \"skb\"\n",
    );
    let output = xblade(&["check", "-c", &file]);
    refused(&output, 1, "x.toml:9:8: 1.1 is exported on lo already");
    refused(&output, 1, "x.toml:10:8: ");
    refused(&output, 1, "is exported for writing by 1.1 too");
    refused(
        &output,
        1,
        "x.toml:12:8: mode \"skb\" on lo, where 1.1 wants \"auto\"",
    );
}

#[test]
fn a_missing_config_file_is_named() {
    refused(
        &xblade(&["check", "--config", "/nonexistent/x.toml"]),
        1,
        "/nonexistent/x.toml: No such file",
    );
}

/// Runs the binary in a network namespace of its own that has the veth pair `down0` (down) and `up0` (up).
/// `None` where this user may make none.
fn in_namespace(args: &[&str]) -> Option<Output> {
    let root = rustix::process::geteuid().is_root();
    let user = if root {
        &[][..]
    } else {
        &["--user", "--map-root-user"]
    };
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(user).arg("--net");
        command
    };
    let links = "ip link add down0 type veth peer name up0 && ip link set up0 up";
    if !unshare()
        .args(["sh", "-c", links])
        .status()
        .is_ok_and(|status| status.success())
    {
        // Past the harness, which keeps what a test that passes prints; `cargo xtask test` counts these lines.
        let test = std::thread::current();
        let line = format!(
            "skipped cli_errors::{}: needs a network namespace (unshare, ip)\n",
            test.name().unwrap_or("?")
        );
        let _ = std::io::stderr().write_all(line.as_bytes());
        return None;
    }
    let script = format!("{links} && exec \"$@\"");
    Some(
        unshare()
            .args(["sh", "-c", &script, "sh", XBLADE])
            .args(args)
            .output()
            .unwrap(),
    )
}

fn good_config(place: &Place) -> String {
    place.file(
        "x.toml",
        "[defaults]\ninterfaces = [\"*0\"]\n\n\
         [[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\nlength = 4\n\n\
         [[export]]\nshelf = 1\nslot = 2\npath = \"a.raw\"\noffset = 4\ninterfaces = [\"down0\"]\nvlan = 7\nmax_sectors = 8\n\
         allow = [{ mac = \"020000000001\", access = \"ro\" }]\n",
    )
}

#[test]
fn a_good_config_is_shown_as_it_would_be_served() {
    let place = Place::new();
    let Some(output) = in_namespace(&["check", "--config", &good_config(&place)]) else {
        return;
    };
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stderr}");
    let rows: Vec<Vec<&str>> = stdout
        .lines()
        .map(|line| {
            line.split("  ")
                .filter(|c| !c.is_empty())
                .map(str::trim)
                .collect()
        })
        .collect();
    let image = place.image.as_str();
    assert_eq!(
        rows[0],
        [
            "ADDRESS",
            "INTERFACES",
            "VLAN",
            "SIZE",
            "SECTORS/FRAME",
            "RIGHTS",
            "STORE",
            "FILE"
        ]
    );
    assert_eq!(
        rows[1],
        [
            "1.1",
            "down0,up0",
            "untagged",
            "2 KiB",
            "by MTU",
            "rw for everyone",
            "mmap",
            image
        ]
    );
    assert_eq!(
        rows[2],
        [
            "1.2",
            "down0",
            "7",
            "2 KiB",
            "at most 8",
            "ro for 1",
            "mmap",
            image
        ]
    );
    assert!(stderr.contains("down0 is down"), "{stderr}");
}

#[test]
fn checking_changes_nothing() {
    let place = Place::new();
    let config = good_config(&place);
    let before = snapshot(place.dir.path());
    let Some(output) = in_namespace(&["check", "--config", &config]) else {
        return;
    };
    assert!(output.status.success());
    assert_eq!(snapshot(place.dir.path()), before);
}

/// Names, contents and times of change of a directory's files.
fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
    let entry = |path: PathBuf| {
        (
            path.clone(),
            fs::read(&path).unwrap(),
            fs::metadata(&path).unwrap().modified().unwrap(),
        )
    };
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|found| entry(found.unwrap().path()))
        .collect();
    files.sort();
    files
}
