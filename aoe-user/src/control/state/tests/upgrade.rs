//! Files of earlier releases: found, moved, and never given to somebody else.

use super::*;

/// Writes a file as an earlier release did.
fn plant(dir: &Path, name: &str, state: &Persistent) {
    let contents = Contents {
        export: None,
        state: state.clone(),
    };
    fs::write(dir.join(format!("{name}.state")), format::encode(&contents)).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let names = names_in(dir).unwrap().into_iter().map(|(_, name)| name);
    names.filter(|name| name.ends_with(".state")).collect()
}

#[test]
fn an_old_file_is_moved_to_its_only_possible_owner() {
    for (old, new) in [
        ("1.1", "1.1"),
        ("1.1", "1.1-vlan-5"),
        ("1.1", "1.1-vlan-any"),
        ("1.1@eth0", "1.1"),
        ("1.1@eth*", "1.1"),
        ("1.1@eth0-vlan-5", "1.1-vlan-5"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        plant(temp.path(), old, &state(old));
        for _ in 0..2 {
            let dir = open(temp.path(), &["1.2", new]);
            assert_eq!(dir.load(&key("1.2")).unwrap(), Persistent::default());
            assert_eq!(dir.load(&key(new)).unwrap(), state(old), "{old} for {new}");
            assert_eq!(names(temp.path()), [format!("{new}.state")], "{old} for {new}");
        }
        // It is this export's now; another whose it may have been stays shut.
        let dir = open(temp.path(), &[new, "1.1+b", "1.1-vlan-5+b"]);
        let other = if new.contains("vlan") {
            "1.1-vlan-5+b"
        } else {
            "1.1+b"
        };
        if new != "1.1-vlan-any" {
            assert!(reason(&dir, other).contains("taken over"), "{old} for {new}");
        }
    }
}

#[test]
fn several_files_or_several_owners_wait_for_the_operator() {
    let cases: [(&[&str], &[&str], &str); 4] = [
        (&["1.1", "1.1@eth0"], &["1.1"], "1.1"),
        (&["1.1@eth0", "1.1@eth1"], &["1.1"], "1.1"),
        (&["1.1"], &["1.1-vlan-5", "1.1"], "1.1"),
        (&["1.1@eth0"], &["1.1", "1.1+b"], "1.1+b"),
    ];
    for (files, exports, opened) in cases {
        let temp = tempfile::tempdir().unwrap();
        for file in files {
            plant(temp.path(), file, &state(file));
        }
        let dir = open(temp.path(), exports);
        for export in exports {
            let reason = reason(&dir, export);
            assert!(
                files.iter().all(|file| reason.contains(file)) && reason.contains("state adopt 1 1"),
                "{files:?} for {export}: {reason}"
            );
        }
        drop(dir);
        let last = files.last().unwrap();
        decide(
            temp.path(),
            &key(opened),
            &OperatorAction::Adopt((*last).to_string()),
        )
        .unwrap();
        let dir = open(temp.path(), exports);
        assert_eq!(dir.load(&key(opened)).unwrap(), state(last), "{files:?}");
    }
}

#[test]
fn clearing_one_possible_owner_leaves_the_file_to_the_other() {
    let temp = tempfile::tempdir().unwrap();
    plant(temp.path(), "1.1", &state("old"));
    let dir = open(temp.path(), &["1.1", "1.1-vlan-5"]);
    dir.perform(&key("1.1"), &OperatorAction::Clear(Parts::ALL))
        .unwrap();
    assert_eq!(dir.load(&key("1.1")).unwrap(), Persistent::default());
    assert_eq!(dir.load(&key("1.1-vlan-5")).unwrap(), state("old"));
}

#[test]
fn a_damaged_old_file_keeps_all_its_possible_owners_shut() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("1.1.state"), "junk").unwrap();
    let dir = open(temp.path(), &["1.1-vlan-5"]);
    assert!(reason(&dir, "1.1-vlan-5").contains("damaged"));
    let dir2 = dir;
    dir2.set_exports(vec![key("1.1"), key("1.1-vlan-5")]).unwrap();
    reason(&dir2, "1.1");
    reason(&dir2, "1.1-vlan-5");
}

#[test]
fn an_empty_directory_of_an_earlier_release_has_lost_nothing() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("lock"), "17\n").unwrap();
    plant(temp.path(), "2.2", &state("old"));
    let dir = open(temp.path(), &["1.1"]);
    assert_eq!(dir.load(&key("1.1")).unwrap(), Persistent::default());
}
