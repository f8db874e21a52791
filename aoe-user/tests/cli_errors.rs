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
    let long_name = "a".repeat(128);
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
        (
            with(["--mode", "fast"]),
            "'fast'",
            "auto, native, zerocopy, copy, skb",
        ),
        (with(["--store", "tape"]), "'tape'", "mmap, direct, ram, null"),
        (
            with(["--serial", "123456789012345678901"]),
            "'123456789012345678901'",
            "1 to 20 printable ASCII",
        ),
        (with(["--rate-limit", "50kB"]), "'50kB'", "such as 50k/s"),
        (with(["--flush-interval", "1ms"]), "'1ms'", "from 10ms to 1h"),
        (
            with(["--cpus", "0,x"]),
            "'0,x'",
            "numbers and ranges such as 0-3,5; a CPU is a whole number from 0 to 1023",
        ),
        (
            vec!["serve", "1", "1", &long_name, image],
            "'aaaaaaaa",
            "1 to 127 characters",
        ),
        (
            vec!["create", "x", "1GB"],
            "'1GB'",
            "a size is a number with its unit",
        ),
        (
            vec!["create", "x", "-1G"],
            "'-1G'",
            "a size is a number with its unit",
        ),
        (
            vec!["bench", "eth0", "--duration", "0"],
            "'0'",
            "longer than nothing",
        ),
        (
            vec!["bench", "eth0", "--duration", "1x"],
            "'1x'",
            "a time is a number with its unit",
        ),
        (
            vec!["bench", "eth0", "--timeout", "0s"],
            "'0s'",
            "longer than nothing",
        ),
        (vec!["bench", "eth0", "--count", "0"], "'0'", "1.."),
        (
            vec!["bench", "eth0", "--span", "0"],
            "'0'",
            "a span is a whole number from 1",
        ),
        (vec!["bench", "eth0", "--depth", "0"], "'0'", "1.."),
        (vec!["bench", "eth0", "--first", "-1"], "-1", "--first"),
        (vec!["--log", "x=y=z", "check"], "'x=y=z'", "--log"),
    ] {
        let output = xblade(&args);
        refused(&output, 2, expected);
        refused(&output, 2, value);
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [&[][..], &["serve"], &["frobnicate"], &["serve", "-Z"]] {
        refused(&xblade(args), 2, "Usage");
    }
    for (args, missing) in [
        (&["serve", "1", "1", "eth0"][..], "<FILE>"),
        (&["serve", "1", "1"], "<NETIF[,NETIF…]>"),
        (&["serve", "-r", "1", "1", "eth0"], "<FILE>"),
    ] {
        let output = xblade(args);
        refused(&output, 2, missing);
        let first = String::from_utf8_lossy(&output.stderr)
            .lines()
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        assert!(
            first.contains(missing),
            "the first that is missing is {missing}, not {first}"
        );
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
        refused(&output, 1, "6 | slot = 255\n  |        ^^^");
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
    refused(
        &xblade(&["daemon", "-c", "/nonexistent/x.toml"]),
        1,
        "--config names another",
    );
}

/// What nobody means to give as a config file, but does.
#[test]
fn what_is_no_config_file_is_refused_in_a_moment() {
    let place = Place::new();
    let fifo = place.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let huge = place.path("huge.toml");
    fs::write(&huge, "[[export]]\n".repeat(1_000_000)).unwrap();
    let nested = place.file(
        "nested.toml",
        &format!("a = {}1{}", "[\n".repeat(500_000), "]".repeat(500_000)),
    );
    let deep = place.file("deep.toml", &"[a.a.a.a.a.a.a.a.a.a.a]\n".repeat(100_000));
    let text = place.file("text", &"x".repeat(200_000));
    let keys = place.file("keys", &"x y\n".repeat(200_000));
    let mut members: String = (0..70_000).map(|n| format!("\"0200000{n:05x}\", ")).collect();
    members.push_str("\"0200\"");
    let export = "[[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\ninterfaces = [\"lo\"]\n";
    let list = place.file("list.toml", &format!("{export}allow = [{members}]\n"));
    let serial = place.file(
        "serial.toml",
        &format!("{export}serial = \"{}\"\n", "7".repeat(100_000)),
    );
    let binary = XBLADE.to_owned();
    for (file, expected) in [
        (place.image.as_str(), "is it a disk image?"),
        (&binary, "more than 4 MiB"),
        (fifo.to_str().unwrap(), "nothing to serve"),
        (huge.to_str().unwrap(), "more than 4 MiB"),
        ("/dev/urandom", "no file with text"),
        ("/", "a folder"),
        (&nested, "not TOML"),
        (&deep, "problems"),
        (&text, "not TOML"),
        (&keys, "and "),
        (&list, "six two-digit hexadecimal numbers"),
        (&serial, "1 to 20 printable ASCII"),
    ] {
        let start = std::time::Instant::now();
        let output = xblade(&["check", "--config", file]);
        refused(&output, 1, expected);
        assert!(
            output.stderr.len() < 20_000,
            "{file}: {} bytes",
            output.stderr.len()
        );
        println!("{file}: {:?}", start.elapsed());
        assert!(start.elapsed().as_secs() < 30, "{file}: {:?}", start.elapsed());
    }
}

#[test]
fn one_mistake_of_the_defaults_is_one_problem() {
    let place = Place::new();
    let mut text = "[defaults]\ninterfaces = [\"nosuchif0\"]\n".to_owned();
    for slot in 0..40 {
        text += &format!("[[export]]\nshelf = 1\nslot = {slot}\npath = \"a.raw\"\nread_only = true\n");
    }
    let output = xblade(&["check", "--config", &place.file("x.toml", &text)]);
    refused(&output, 1, "x.toml:2:14: no interface nosuchif0 here");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.matches("nosuchif0 here").count(), 1, "{stderr}");
}

/// Runs a shell line in which `$x` is the binary; its exit code and what it said on standard error.
fn shell(line: &str) -> (Option<i32>, String) {
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", line])
        .env("x", XBLADE)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn closed_pipes_end_tools_quietly() {
    for line in [
        "$x completions bash | true",
        "$x man | true",
        "$x doctor lo | true",
        "$x --help | true",
        "$x bench lo --json 2>/dev/null | true",
        "$x check -c /nonexistent 2>&1 >/dev/null | true",
        "$x create /dev/null/x 1G 2>&1 | true",
    ] {
        for _ in 0..3 {
            let (code, stderr) = shell(line);
            assert!(matches!(code, Some(0 | 1)), "{line}: {code:?} {stderr}");
            assert!(
                !stderr.contains("panicked") && !stderr.contains("Broken pipe"),
                "{line}: {stderr}"
            );
        }
    }
    // A disk that is full is another matter.
    let (code, stderr) = shell("$x completions bash > /dev/full");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("cannot write to standard output"), "{stderr}");
    let (code, stderr) = shell("$x completions bash >&- 2>&-");
    assert!(code == Some(0) || code == Some(1), "{code:?} {stderr}");
}

#[test]
fn a_closed_or_full_standard_error_changes_no_exit_code() {
    assert_eq!(shell("$x check -c /nonexistent 2>/dev/full").0, Some(1));
    assert_eq!(shell("$x check -c /nonexistent 2>&-").0, Some(1));
    // A pipe that is full and that nobody reads.
    let (reader, writer) = std::io::pipe().unwrap();
    let full = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    (&writer).write_all(&vec![b'x'; full as usize]).unwrap();
    let status = Command::new(XBLADE)
        .args(["check", "-c", "/nonexistent"])
        .stderr(writer)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    drop(reader);
}

#[test]
fn variables_say_what_to_log_where_no_option_does() {
    let said = |variables: &[(&str, &str)], args: &[&str]| {
        let output = Command::new(XBLADE)
            .env_remove("RUST_LOG")
            .env_remove("XBLADE_LOG")
            .envs(variables.iter().copied())
            .args(args)
            .args(["completions", "bash"])
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(said(&[("RUST_LOG", "debug"), ("XBLADE_LOG", "off")], &[]), "");
    let wrong = said(&[("RUST_LOG", "x=y=z")], &[]);
    assert!(wrong.contains("WARN RUST_LOG is no log filter"), "{wrong}");
    assert_eq!(said(&[("RUST_LOG", "x=y=z")], &["--log", "info"]), "");
    let level = said(&[("RUST_LOG", "debug")], &[]);
    assert!(level.contains("DEBUG"), "{level}");
    assert_eq!(said(&[("RUST_LOG", "debug")], &["--log", "info"]), "");
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
    let links = "ip link add down0 numrxqueues 3 numtxqueues 2 type veth peer name up0 numrxqueues 1 numtxqueues 1 && ip link set up0 up";
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

/// The namespace's interfaces, although `/sys` still shows those of another one.
#[test]
fn the_doctor_sees_the_interfaces_of_its_namespace() {
    let Some(output) = in_namespace(&["doctor", "up0", "down0", "none0", "--json"]) else {
        return;
    };
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("down0: something must change"), "{stderr}");
    assert!(stderr.contains("none0: no such interface"), "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(json["schema"] == 1 && json["ok"] == false, "{stdout}");
    let down = &json["interfaces"][1];
    assert_eq!(
        (&down["rx_queues"], &down["tx_queues"]),
        (&3.into(), &2.into()),
        "{stdout}"
    );
    assert!(down["driver"] == "veth" && down["up"] == false, "{stdout}");
    let bad = &down["advice"][0];
    assert!(
        bad["bad"] == true && bad["commands"][0] == "ip link set down0 up",
        "{stdout}"
    );
    assert!(
        !stdout.contains("/threaded"),
        "sysfs is of another namespace: {stdout}"
    );
    assert!(json["interfaces"][2]["error"].is_string(), "{stdout}");

    let good = in_namespace(&["doctor", "up0"]).unwrap();
    let stdout = String::from_utf8_lossy(&good.stdout);
    assert!(
        good.status.success() && stdout.contains("1 receive, 1 transmit"),
        "{stdout}"
    );
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
