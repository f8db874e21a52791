//! Slips: names that are none, files that are no configuration, output that is lost.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::place::{Place, XBLADE, refused, xblade};

/// Runs a shell line in which `$x` is the binary; its exit code and what it said on standard error.
fn shell(line: &str) -> (Option<i32>, String) {
    let mut command = Command::new("bash");
    let output = command.args(["-c", line]).env("x", XBLADE).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

#[test]
fn output_that_is_lost_is_a_failure_of_every_command() {
    for command in [
        "--help",
        "help",
        "serve --help",
        "--version",
        "check --version",
        "man",
    ] {
        let (code, stderr) = shell(&format!("$x {command} >/dev/full"));
        assert_eq!(code, Some(1), "{command}: {stderr}");
        let told = stderr.contains("cannot write to standard output") && stderr.contains("No space left");
        assert!(told, "{command}: {stderr}");
        let (code, stderr) = shell(&format!("$x {command} >/dev/null"));
        assert_eq!((code, &*stderr), (Some(0), ""), "{command}");
    }
}

#[test]
fn directories_are_not_made_of_a_mistyped_path() {
    let place = Place::new();
    let dir = place.path("no/such/dir");
    refused(
        &xblade(&["man", dir.to_str().unwrap()]),
        1,
        "cannot make the directory",
    );
    assert!(!place.path("no").exists());
    let dir = place.path("man");
    for _ in 0..2 {
        assert!(xblade(&["man", dir.to_str().unwrap()]).status.success());
    }
    assert!(dir.join("xblade.8").exists());
    assert!(!xblade(&["man", &place.image]).status.success(), "it is a file");
}

#[test]
fn only_levels_are_log_filters() {
    for wrong in [
        "inf",
        "xblade",
        "bogus",
        "",
        "info,",
        "xblade::port",
        "xblade=verbose",
        "info,store",
    ] {
        let output = xblade(&["--log", wrong, "completions", "bash"]);
        refused(&output, 2, "there are error, warn, info, debug, trace and off");
    }
    for right in ["info", "off", "WARN", "info,xblade::port=debug", "store=trace"] {
        assert!(
            xblade(&["--log", right, "completions", "bash"]).status.success(),
            "{right}"
        );
    }
}

#[test]
fn what_is_no_configuration_is_not_read_without_end() {
    let place = Place::new();
    let begin = Instant::now();
    for format in ["vblade", "ggaoed", "qaoed"] {
        refused(
            &xblade(&["import", format, "/dev/zero"]),
            1,
            "it is no file with text in it",
        );
        refused(&xblade(&["import", format, &place.image]), 1, "is no text");
        let missing = xblade(&["import", format, "/nonexistent"]);
        refused(&missing, 1, "No such file");
        assert!(!String::from_utf8_lossy(&missing.stderr).contains("--config"));
        let large = place.path("large.conf");
        fs::write(&large, " ".repeat(32 << 20)).unwrap();
        refused(
            &xblade(&["import", format, large.to_str().unwrap()]),
            1,
            "is it another file?",
        );
    }
    let fifo = |name: &str| {
        let path = place.path(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path.to_str().unwrap().to_owned()
    };
    refused(
        &xblade(&["check", "-c", &fifo("fifo")]),
        1,
        "a pipe that nobody writes to",
    );
    fs::create_dir(place.path("good.d")).unwrap();
    let part = fifo("good.d/part.toml");
    let good = place.file(
        "good.toml",
        "[[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\ninterfaces = [\"*\"]\n",
    );
    let output = xblade(&["check", "-c", &good]);
    refused(&output, 1, "a pipe that nobody writes to");
    refused(&output, 1, &part);
    assert!(begin.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_program_that_cannot_be_run_is_found_by_check() {
    let place = Place::new();
    let config = |program: &str| {
        place.file(
            "x.toml",
            &format!(
                "[[failover]]\nname = \"g\"\nmac = \"02:78:62:00:00:01\"\npeers = [\"02:00:00:00:00:0a\"]\ncommand = \"{program} x\"\n\
                 [[export]]\nshelf = 1\nslot = 1\npath = \"a.raw\"\ninterfaces = [\"eth9\"]\nfailover = \"g\"\n"
            ),
        )
    };
    refused(
        &xblade(&["check", "-c", &config("/no/lock")]),
        1,
        "/no/lock, the `command` of the failover group g: no such file",
    );
    let text = place.file("lock", "#!/bin/sh\n");
    refused(
        &xblade(&["check", "-c", &config(&text)]),
        1,
        "it may not be executed",
    );
    refused(&xblade(&["check", "-c", &config("/usr")]), 1, "it is no file");
    let good = xblade(&["check", "-c", &config("/bin/true")]);
    assert!(!String::from_utf8_lossy(&good.stderr).contains("command"));
}

#[test]
fn usage_says_what_is_meant() {
    for line in ["create -s f 1G", "create -1G", "bench i0 -1"] {
        let output = xblade(&line.split(' ').collect::<Vec<_>>());
        refused(&output, 2, "Usage");
        assert!(
            !String::from_utf8_lossy(&output.stderr).contains("-- -"),
            "{line}"
        );
    }
    // A slip of the keyboard still has its tip.
    refused(&xblade(&["serve", "--snyc"]), 2, "--sync");
    refused(&xblade(&["create", "f", "1GB"]), 2, "write G or GiB");
    refused(&xblade(&["export", "add", "1", "1", "t0"]), 2, "<FILE>");
    assert!(
        !String::from_utf8_lossy(&xblade(&["export", "add", "1", "1", "t0"]).stderr)
            .contains("<NETIF[,NETIF…]>\n")
    );
}

#[test]
fn kept_states_are_named_as_they_are() {
    let place = Place::new();
    let dir = place.path("s");
    fs::create_dir(&dir).unwrap();
    let state = |args: &[&str]| xblade(&[&["state"], args, &["--state-dir", dir.to_str().unwrap()]].concat());
    fs::write(dir.join("1.1.lost-writes"), "a mark").unwrap();
    refused(
        &state(&["clear", "1", "1"]),
        1,
        &format!(
            "xblade state clear 1 1 --state-dir {} --lost-writes",
            dir.display()
        ),
    );
    refused(&state(&["adopt", "1", "1", "--from", "nope"]), 1, "there is no");
    let other = place.file("other.state", "precious");
    for outside in ["../other", "/tmp/x", "", "..", &other] {
        refused(
            &state(&["adopt", "1", "1", "--from", outside]),
            1,
            "without a path",
        );
    }
    assert_eq!(fs::read(other).unwrap(), b"precious");
}

#[test]
fn what_failed_is_told_with_its_cause_once() {
    let place = Place::new();
    let dir = place.path("s");
    fs::create_dir_all(dir.join("lock")).unwrap();
    let output = xblade(&["state", "clear", "1", "1", "--state-dir", dir.to_str().unwrap()]);
    refused(&output, 1, "s/lock: Is a directory");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.matches("Is a directory").count(), 1, "{stderr}");
}
