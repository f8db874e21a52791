use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use aoe_common::Mac;

use super::*;
use crate::config::ExportConfig;
use crate::store::{Completions as _, Lane};

const ADDRESS: Address = Address { shelf: 1, slot: 1 };

fn state(text: &str) -> Persistent {
    Persistent {
        string: text.into(),
        mask: vec![Mac([2, 0, 0, 0, 0, 1])],
        reserve: vec![Mac([2, 0, 0, 0, 0, 2])],
    }
}

fn next(lane: &mut Lane) -> Completion {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(completion) = lane.next() {
            return completion;
        }
        assert!(Instant::now() < deadline, "no completion arrived");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn done(lane: &mut Lane) -> Token {
    let completion = next(lane);
    assert!(
        matches!(completion.event, Event::Finished(Ok(None))),
        "{completion:?}"
    );
    completion.token
}

#[test]
fn what_was_saved_is_found_by_the_next_process() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("made/on/demand");
    let mut lane = Lane::new().unwrap();
    let dir = StateDir::open(&path).unwrap();
    assert_eq!(dir.load("1.1").unwrap(), Loaded::default());
    dir.keeper("1.1").save(ADDRESS, &state("one"), lane.handle(), 7);
    assert_eq!(done(&mut lane), 7);
    drop(dir);

    let dir = StateDir::open(&path).unwrap();
    assert_eq!(
        dir.load("1.1").unwrap(),
        Loaded {
            state: state("one"),
            damaged: None
        }
    );
    assert_eq!(dir.load("1.2").unwrap(), Loaded::default());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn saves_are_done_in_order_and_before_the_directory_closes() {
    let temp = tempfile::tempdir().unwrap();
    let mut lane = Lane::new().unwrap();
    let dir = StateDir::open(temp.path()).unwrap();
    let keeper = dir.keeper("1.1");
    for token in 0..50 {
        keeper.save(ADDRESS, &state(&token.to_string()), lane.handle(), token);
    }
    drop((dir, keeper));
    let tokens: Vec<Token> = (0..50).map(|_| done(&mut lane)).collect();
    assert_eq!(tokens, (0..50).collect::<Vec<Token>>());
    let dir = StateDir::open(temp.path()).unwrap();
    assert_eq!(dir.load("1.1").unwrap().state, state("49"));
}

#[test]
fn a_save_that_fails_says_so_and_leaves_the_old_state() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    let mut lane = Lane::new().unwrap();
    let dir = StateDir::open(&path).unwrap();
    let keeper = dir.keeper("1.1");
    keeper.save(ADDRESS, &state("old"), lane.handle(), 1);
    done(&mut lane);
    // A directory in the way of the new file: writing fails, for root too.
    fs::create_dir(path.join("1.1.new")).unwrap();
    keeper.save(ADDRESS, &state("new"), lane.handle(), 2);
    let completion = next(&mut lane);
    assert_eq!(completion.token, 2);
    match completion.event {
        Event::Finished(Err(fault)) => assert_eq!(fault.kind, FaultKind::Write),
        other => panic!("{other:?}"),
    }
    assert_eq!(dir.load("1.1").unwrap().state, state("old"));

    fs::remove_dir(path.join("1.1.new")).unwrap();
    keeper.save(ADDRESS, &state("new"), lane.handle(), 3);
    assert_eq!(done(&mut lane), 3);
    assert_eq!(dir.load("1.1").unwrap().state, state("new"));
}

#[test]
fn a_write_that_was_cut_short_leaves_the_old_state() {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temp.path()).unwrap();
    dir.store("1.1", &state("old")).unwrap();
    fs::write(temp.path().join("1.1.new"), &format::encode(&state("new"))[..20]).unwrap();
    assert_eq!(dir.load("1.1").unwrap().state, state("old"));
    dir.store("1.1", &state("new")).unwrap();
    assert_eq!(dir.load("1.1").unwrap().state, state("new"));
}

#[test]
fn a_damaged_file_is_moved_aside_and_told() {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temp.path()).unwrap();
    let file = temp.path().join("1.1.state");
    for damage in [&b""[..], b"xblade", &[0xff; 100], &vec![b'x'; 200_000]] {
        fs::write(&file, damage).unwrap();
        let loaded = dir.load("1.1").unwrap();
        assert_eq!(loaded.state, Persistent::default());
        let message = loaded.damaged.unwrap();
        assert!(
            message.contains("1.1.state is damaged") && message.contains("reservation of 1.1"),
            "{message}"
        );
        assert!(!file.exists());
    }
    let mut kept: Vec<u64> = fs::read_dir(temp.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("1.1.damaged-"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, [0, 6, 100, 200_000], "every one is kept");
}

#[test]
fn a_file_that_cannot_be_read_is_no_empty_state() {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temp.path()).unwrap();
    fs::create_dir(temp.path().join("1.1.state")).unwrap();
    let message = dir.load("1.1").unwrap_err().to_string();
    assert!(message.contains("1.1.state"), "{message}");
}

#[test]
fn a_directory_has_one_user() {
    let temp = tempfile::tempdir().unwrap();
    let first = StateDir::open(temp.path()).unwrap();
    let message = StateDir::open(temp.path()).unwrap_err().to_string();
    assert!(
        message.contains(&format!("in use by process {}", std::process::id())),
        "{message}"
    );
    drop(first);
    StateDir::open(temp.path()).unwrap();
}

#[test]
fn lists_tell_what_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temp.path()).unwrap();
    dir.store("2.1", &state("b")).unwrap();
    dir.store("1.1@eth0-vlan-5", &state("a")).unwrap();
    fs::write(temp.path().join("3.1.state"), "junk").unwrap();
    let found = list(temp.path()).unwrap();
    let names: Vec<&str> = found.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["1.1@eth0-vlan-5", "2.1", "3.1"]);
    assert_eq!(found[0].state, Ok(state("a")));
    assert_eq!(found[1].state, Ok(state("b")));
    assert!(found[2].state.as_ref().unwrap_err().contains("damaged"));
}

#[test]
fn names_are_addresses_unless_two_exports_share_one() {
    let export = |slot, interface: &str, vlan| ExportConfig {
        interfaces: vec![interface.into()],
        vlan,
        ..ExportConfig::new(1, slot, "/d".into())
    };
    let config = Config {
        exports: vec![
            export(1, "eth0", Vlan::Untagged),
            export(2, "eth0", Vlan::Id(5)),
            export(2, "eth0", Vlan::Untagged),
            export(2, "eth1", Vlan::Any),
        ],
        state_dir: None,
        cpus: vec![],
        force: false,
    };
    assert_eq!(
        names(&config),
        ["1.1", "1.2@eth0-vlan-5", "1.2@eth0", "1.2@eth1-vlan-any"]
    );
}
