//! The subcommands that work on files, through the real binary.

mod run;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use aoe_common::Mac;
use run::{done, xblade};
use xblade::control::state::{Before, StateDir, StateKey};
use xblade::target::Persistent;

#[track_caller]
fn failed(dir: &Path, line: &str, expected: &str) {
    let output = xblade(dir, line);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
    assert!(stderr.contains(expected), "{line}: {stderr}");
}

#[test]
fn images_are_made() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    assert_eq!(done(dir, "create a.raw 1G"), "a.raw: 1 GiB, sparse\n");
    assert_eq!(fs::metadata(dir.join("a.raw")).unwrap().len(), 1 << 30);
    done(dir, "create --prealloc b.raw 2048s");
    let found = fs::metadata(dir.join("b.raw")).unwrap();
    assert_eq!(found.len(), 1 << 20);
    assert!(found.blocks() * 512 >= 1 << 20);
}

#[test]
fn images_that_cannot_be_made_leave_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::write(dir.join("old.raw"), "precious").unwrap();
    failed(
        dir,
        "create old.raw 1M",
        "old.raw exists already, and create never overwrites",
    );
    assert_eq!(fs::read(dir.join("old.raw")).unwrap(), b"precious");
    failed(dir, "create no/a.raw 1M", "cannot make no/a.raw");
    failed(dir, "create --prealloc a.raw 200T", "are free there");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn ctrl_c_leaves_no_half_made_image() {
    let temp = tempfile::tempdir().unwrap();
    // Sent before it starts and blocked until it looks: the same moment in every run.
    let script = "kill -INT $$; exec \"$@\"";
    let output = Command::new("env")
        .args([
            "--block-signal=INT",
            "sh",
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_xblade"),
        ])
        .args(["create", "--prealloc", "a.raw", "1M"])
        .current_dir(temp.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}

fn state() -> Persistent {
    Persistent {
        string: b"vm\"01\xff".to_vec(),
        mask: vec![Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])],
        reserve: vec![Mac([2, 0, 0, 0, 0, 3])],
    }
}

fn key(name: &str) -> StateKey {
    name.parse().unwrap()
}

#[test]
fn kept_states_are_shown_and_cleared() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let kept = StateDir::open(&dir.join("s"), Before::Unknown).unwrap();
    kept.store(&key("1.1"), &state()).unwrap();
    kept.store(&key("1.11"), &state()).unwrap();
    kept.store(&key("1.2"), &Persistent::default()).unwrap();
    drop(kept);

    let list = done(dir, "state list --state-dir s");
    let rows: Vec<&str> = list.lines().collect();
    assert_eq!(rows.len(), 3, "an empty state is not worth a line: {list}");
    assert!(
        rows[1].starts_with("1.1 ") && rows[1].contains(r#""vm\"01\xff""#),
        "{list}"
    );
    assert!(
        rows[1].contains("2 addresses") && rows[1].ends_with("02:00:00:00:00:03"),
        "{list}"
    );

    let shown = done(dir, "state show 1 1 --state-dir s");
    assert!(
        shown.contains("MAC mask       02:00:00:00:00:01 02:00:00:00:00:02\n"),
        "{shown}"
    );

    done(dir, "state clear 1 1 --mask --state-dir s");
    let shown = done(dir, "state show 1 1 --state-dir s");
    assert!(shown.contains("MAC mask       everyone\n"), "{shown}");
    assert!(
        shown.contains("reserved for   02:00:00:00:00:03\n"),
        "only what was named: {shown}"
    );

    done(dir, "state clear 1 1 --state-dir s");
    let kept = StateDir::open(&dir.join("s"), Before::Unknown).unwrap();
    assert_eq!(kept.load(&key("1.1")).unwrap(), Persistent::default());
    assert_eq!(
        kept.load(&key("1.11")).unwrap(),
        state(),
        "another export's is untouched"
    );
}

#[test]
fn states_that_are_not_there_are_told_and_looking_moves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    for action in ["list", "show 1 1", "clear 1 1", "adopt 1 1 --from x"] {
        let line = format!("state {action} --state-dir none");
        failed(dir, &line, "there is no directory none");
        assert!(!dir.join("none").exists(), "{action}");
    }

    let kept = StateDir::open(&dir.join("s"), Before::Unknown).unwrap();
    kept.store(&key("1.1"), &state()).unwrap();
    done(dir, "state show 1 1 --state-dir s");
    failed(
        dir,
        "state show 2 2 --state-dir s",
        "nothing is kept for 2.2 in s",
    );
    fs::write(dir.join("s/3.3.state"), "junk").unwrap();
    assert!(done(dir, "state list --state-dir s").contains("damaged"));
    failed(dir, "state show 3 3 --state-dir s", "3.3: damaged");
    assert_eq!(fs::read(dir.join("s/3.3.state")).unwrap(), b"junk");
}

#[test]
fn a_daemon_carries_out_what_is_decided_about_its_states() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let kept = StateDir::open(&dir.join("s"), Before::Unknown).unwrap();
    kept.store(&key("1.1"), &state()).unwrap();
    fs::remove_file(dir.join("s/1.1.state")).unwrap();
    assert!(done(dir, "state list --state-dir s").contains("its file is gone"));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| done(dir, "state clear 1 1 --state-dir s"));
        while kept.load(&key("1.1")).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        asked.join().unwrap();
    });
    assert_eq!(kept.load(&key("1.1")).unwrap(), Persistent::default());
}

/// The shapes of Debian's vblade package, of ggaoed's example and of qaoed's.
const OTHERS: [(&str, &str, &str); 3] = [
    (
        "vblade",
        "vblade.conf.d/demo.conf",
        "shelf=1\nslot=3\nnetif=em3\nfilename=/dev/mapper/export\noptions='-m 10:22:33:44:55:66 -o 8'\n",
    ),
    (
        "ggaoed",
        "ggaoed.conf",
        "[defaults]\ninterfaces = eth0\n[testdev]\npath = /dev/sdb\nshelf = 1\nslot = 2\n#read-only = true\n",
    ),
    (
        "qaoed",
        "qaoed.conf",
        "device {\n  shelf = 0;\n  slot = 2;\n  target = /root/data;\n  interface = eth0;\n}\n",
    ),
];

#[test]
fn what_is_imported_is_a_config_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("vblade.conf.d")).unwrap();
    for (format, name, text) in OTHERS {
        fs::write(dir.path().join(name), text).unwrap();
        let path = name.strip_suffix("/demo.conf").unwrap_or(name);
        let made = done(dir.path(), &format!("import {format} {path}"));
        fs::write(dir.path().join("xblade.toml"), made).unwrap();
        done(dir.path(), "check --file-only --config xblade.toml");
    }
    // What is not taken over is told by the exit code, and the rest is there.
    let touched = dir.path().join("touched");
    let bad = format!(
        "shelf=1\nslot=4\nnetif=em3\nfilename=$(touch {})\n",
        touched.display()
    );
    fs::write(dir.path().join("vblade.conf.d/bad.conf"), bad).unwrap();
    let output = xblade(dir.path(), "import vblade vblade.conf.d");
    assert_eq!(output.status.code(), Some(3));
    let made = String::from_utf8(output.stdout).unwrap();
    assert!(
        made.contains("\nslot = 3\n") && made.contains("\n# slot = 4\n"),
        "{made}"
    );
    assert!(!touched.exists(), "nothing is executed");
    failed(
        dir.path(),
        "import qaoed missing.conf",
        "cannot read missing.conf",
    );
}

/// What the packages install for scripts that call vblade.
#[test]
fn a_line_of_vblade_reaches_serve() {
    let script = |line: &str| {
        let folder = Path::new(env!("CARGO_BIN_EXE_xblade")).parent().unwrap();
        let mut shell = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/xblade-vblade"));
        shell.env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
        shell.args(line.split(' ')).output().unwrap()
    };
    let refused = script("-b 32 -d -s -r -m 020000000001 1 2 nosuch0 /nonexistent/a.raw");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("/nonexistent/a.raw"), "{said}");
    let wrong = script("1 2 eth0");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(wrong.status.code() == Some(2) && said.contains("FILE"), "{said}");
}
