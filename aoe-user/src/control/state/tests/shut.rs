//! What keeps an export shut, and what opens it again.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::{FileType, Mode, mknodat};

use super::super::index::Index;
use super::*;

/// A directory that keeps a state for 1.1, and none for 1.2.
fn kept() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    open(temp.path(), &["1.1", "1.2"])
        .store(&key("1.1"), &state("kept"))
        .unwrap();
    let file = temp.path().join("1.1.state");
    (temp, file)
}

fn fifo(path: &Path) {
    mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
}

#[test]
fn whatever_happens_to_the_file_the_export_stays_shut_until_the_operator_clears_it() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 10] = [
        ("gone", |_| {}),
        ("damaged", |file| fs::write(file, "").unwrap()),
        ("damaged", |file| fs::write(file, "xblade").unwrap()),
        ("damaged", |file| fs::write(file, [0xff; 100]).unwrap()),
        ("more than", |file| fs::write(file, vec![b'x'; 200_000]).unwrap()),
        ("a directory", |file| fs::create_dir(file).unwrap()),
        ("a FIFO", fifo),
        ("a symbolic link", |file| symlink(file, file).unwrap()),
        ("a socket", |file| drop(UnixListener::bind(file).unwrap())),
        ("newer", |file| {
            fs::write(file, sealed::seal("state", 3, "{}")).unwrap();
        }),
    ];
    for (expected, damage) in damages {
        let (temp, file) = kept();
        let way_out = format!("`xblade state clear 1 1 --state-dir {}`", temp.path().display());
        fs::remove_file(&file).unwrap();
        damage(&file);
        for _ in 0..2 {
            let dir = open(temp.path(), &["1.1", "1.2"]);
            let reason = reason(&dir, "1.1");
            assert!(
                reason.contains(expected) && reason.contains(&way_out),
                "{expected}: {reason}"
            );
            assert_eq!(
                dir.load(&key("1.2")).unwrap(),
                Persistent::default(),
                "{expected}"
            );
        }
        let part = OperatorAction::Clear(Parts {
            string: true,
            mask: false,
            reserve: false,
        });
        decide(temp.path(), &key("1.1"), &part).unwrap_err();
        decide(temp.path(), &key("1.1"), &OperatorAction::Clear(Parts::ALL)).unwrap();
        let dir = open(temp.path(), &["1.1"]);
        assert_eq!(
            dir.load(&key("1.1")).unwrap(),
            Persistent::default(),
            "{expected}"
        );
        let aside = fs::read_dir(temp.path())
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with("1.1.damaged-")
            })
            .count();
        assert_eq!(aside, usize::from(expected != "gone"), "{expected}: it is kept");
    }
}

#[test]
fn another_exports_file_under_this_name_is_no_state() {
    let (temp, file) = kept();
    fs::rename(&file, temp.path().join("1.2.state")).unwrap();
    let dir = open(temp.path(), &["1.1", "1.2"]);
    assert!(reason(&dir, "1.2").contains("holds the state of 1.1"));
    assert!(reason(&dir, "1.1").contains("gone"));
}

#[test]
fn with_the_index_lost_only_exports_with_a_file_open() {
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |_| {},
        |index| fs::write(index, "junk").unwrap(),
        |index| fs::create_dir(index).unwrap(),
        fifo,
    ];
    for damage in damages {
        let (temp, _) = kept();
        let index = temp.path().join("index");
        fs::remove_file(&index).unwrap();
        damage(&index);
        for _ in 0..2 {
            let dir = open(temp.path(), &["1.1", "1.2"]);
            assert_eq!(dir.load(&key("1.1")).unwrap(), state("kept"));
            let reason = reason(&dir, "1.2");
            assert!(
                reason.contains("index") && reason.contains("clear 1 2"),
                "{reason}"
            );
        }
        decide(temp.path(), &key("1.2"), &OperatorAction::Clear(Parts::ALL)).unwrap();
        let dir = open(temp.path(), &["1.1", "1.2", "1.3"]);
        assert_eq!(dir.load(&key("1.2")).unwrap(), Persistent::default());
        reason(&dir, "1.3");
    }
}

#[test]
fn a_newer_index_and_odd_lock_files_are_refused_and_never_waited_for() {
    let (temp, _) = kept();
    fs::write(temp.path().join("index"), sealed::seal("index", 2, "{}")).unwrap();
    let error = StateDir::open(temp.path(), Before::Unknown)
        .unwrap_err()
        .to_string();
    assert!(error.contains("newer"), "{error}");

    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("lock")).unwrap();
    StateDir::open(temp.path(), Before::Unknown).unwrap_err();
}

#[test]
fn a_crash_between_file_and_index_opens_nothing_and_loses_nothing() {
    let (temp, file) = kept();
    // As if the process had ended before the index was written.
    let index = Index {
        complete: true,
        exports: Default::default(),
        taken_over: Default::default(),
    };
    index::write(temp.path(), &index).unwrap();
    let dir = open(temp.path(), &["1.1"]);
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("kept"));
    drop(dir);
    fs::remove_file(file).unwrap();
    assert!(
        reason(&open(temp.path(), &["1.1"]), "1.1").contains("gone"),
        "it is listed now"
    );
}

#[test]
fn the_operator_decides_while_a_daemon_holds_the_directory() {
    let (temp, file) = kept();
    fs::write(&file, "junk").unwrap();
    let dir = open(temp.path(), &["1.1"]);
    reason(&dir, "1.1");
    let path = temp.path().to_owned();
    let asking = std::thread::spawn(move || decide(&path, &key("1.1"), &OperatorAction::Clear(Parts::ALL)));
    // The daemon tries again from time to time.
    let deadline = Instant::now() + Duration::from_secs(20);
    let opened = loop {
        match dir.load(&key("1.1")) {
            Ok(state) => break state,
            Err(shut) => assert!(Instant::now() < deadline, "{shut}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(opened, Persistent::default());
    asking.join().unwrap().unwrap();
    assert!(dir.requests().is_empty());
}

#[test]
fn nothing_is_cleared_where_nothing_is_kept() {
    let (temp, _) = kept();
    let all = OperatorAction::Clear(Parts::ALL);
    let error = decide(temp.path(), &key("2.2"), &all).unwrap_err().to_string();
    assert!(error.starts_with("nothing is kept for 2.2 in "), "{error}");
    let error = decide(temp.path(), &key("1.1-vlan-5"), &all)
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("there is 1.1 (`1 1`)"), "{error}");
}

/// A directory that was deleted, or whose disk is not mounted, looks like a new one.
#[test]
fn a_directory_that_must_have_been_used_is_waited_for_while_it_is_empty() {
    let (temp, _) = kept();
    let dir = temp.path();
    StateDir::open(dir, Before::Used).unwrap();
    let away = dir.with_extension("away");
    fs::rename(dir, &away).unwrap();
    for is_there in [false, true] {
        if is_there {
            // As systemd makes it anew, and as an empty disk looks.
            fs::create_dir(dir).unwrap();
            fs::create_dir(dir.join("lost+found")).unwrap();
        }
        for _ in 0..2 {
            let error = StateDir::open(dir, Before::Used).unwrap_err().to_string();
            assert!(error.contains("is empty, and --state-required"), "{error}");
        }
    }
    fs::remove_dir_all(dir).unwrap();
    fs::rename(&away, dir).unwrap();
    let opened = StateDir::open(dir, Before::Used).unwrap();
    assert_eq!(opened.load(&key("1.1")).unwrap(), state("kept"));
}

#[test]
fn a_directory_of_an_earlier_release_has_been_used() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("1.1@eth0.state"), "anything").unwrap();
    StateDir::open(temp.path(), Before::Used).unwrap();
}

/// One that is mistyped, or whose disk is not mounted, would begin without masks and reservations.
#[test]
fn no_directory_above_a_state_directory_is_made() {
    let temp = tempfile::tempdir().unwrap();
    let above = temp.path().join("disk");
    let dir = above.join("state");
    let error = StateDir::open(&dir, Before::Unknown).unwrap_err().to_string();
    assert!(
        error.contains(&format!("there is no directory {} ", above.display()))
            && error.contains("--state-dir"),
        "{error}"
    );
    assert!(!above.exists());
    fs::create_dir(&above).unwrap();
    for _ in 0..2 {
        StateDir::open(&dir, Before::Unknown).unwrap();
    }
}

/// A state in the usual place is found there.
#[test]
fn the_way_out_names_a_directory_that_is_not_the_usual_one() {
    let key = key("1.1-vlan-5");
    assert_eq!(key.arguments_in(Path::new(STATE_DIR)), "1 1 --vlan 5");
    assert_eq!(
        key.arguments_in(Path::new("/srv/s")),
        "1 1 --vlan 5 --state-dir /srv/s"
    );
}

#[test]
fn what_is_no_directory_is_called_so() {
    let temp = tempfile::tempdir().unwrap();
    let (file, link) = (temp.path().join("file"), temp.path().join("link"));
    fs::write(&file, "").unwrap();
    symlink(&link, &link).unwrap();
    for path in [&file, &link, Path::new("/dev/null")] {
        let error = StateDir::open(path, Before::Unknown).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{} is no directory", path.display())),
            "{error}"
        );
    }
}
