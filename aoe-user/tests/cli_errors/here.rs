//! A config held against this machine, and what the doctor sees of it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::place::{Place, XBLADE};

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

    let report = in_namespace(&["doctor", "up0", "--report"]).unwrap();
    let stdout = String::from_utf8_lossy(&report.stdout);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(json["cards"]["up0"]["ethtool"].is_object(), "{stdout}");
    assert!(!stdout.contains("ff:ff:ff:ff:ff:ff"), "{stdout}");
    assert_eq!(json["doctor"]["interfaces"][0]["driver"], "veth");
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
