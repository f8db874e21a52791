use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use aoe_common::Mac;

use super::operator::{OperatorAction, Parts, decide};
use super::*;
use crate::store::{Completion, CompletionQueue, Completions as _, Event, FaultKind};

mod model;
mod orders;
mod shut;
mod upgrade;

const ADDRESS: Address = Address { shelf: 1, slot: 1 };

fn key(name: &str) -> StateKey {
    name.parse().unwrap()
}

fn state(text: &str) -> Persistent {
    Persistent {
        string: text.into(),
        mask: vec![Mac([2, 0, 0, 0, 0, 1])],
        reserve: vec![Mac([2, 0, 0, 0, 0, 2])],
    }
}

/// The directory with these exports in the configuration.
fn open(path: &Path, exports: &[&str]) -> Arc<StateDir> {
    let dir = StateDir::open(path, Before::Unknown).unwrap();
    dir.set_exports(exports.iter().map(|name| key(name)).collect())
        .unwrap();
    dir
}

/// Why an export stays shut.
#[track_caller]
fn reason(dir: &StateDir, name: &str) -> String {
    match dir.load(&key(name)) {
        Err(shut) => shut.to_string(),
        Ok(state) => panic!("{name} opens with {state:?}"),
    }
}

fn next(completions: &mut CompletionQueue) -> Completion {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(completion) = completions.next() {
            return completion;
        }
        assert!(Instant::now() < deadline, "no completion arrived");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn done(completions: &mut CompletionQueue) -> Token {
    let completion = next(completions);
    assert!(
        matches!(completion.event, Event::Finished(Ok(None))),
        "{completion:?}"
    );
    completion.token
}

#[test]
fn what_was_saved_is_found_by_the_next_process() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("made-on-demand");
    let mut completions = CompletionQueue::new().unwrap();
    let dir = open(&path, &["1.1"]);
    assert_eq!(dir.load(&key("1.1")).unwrap(), Persistent::default());
    dir.keeper(&key("1.1"))
        .save(ADDRESS, &state("one"), completions.handle(), 7);
    assert_eq!(done(&mut completions), 7);
    drop(dir);

    // Whatever else is exported, on whatever interfaces, in whatever order.
    let dir = open(&path, &["1.1-vlan-5", "1.1+b", "1.2", "1.1"]);
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("one"));
    for other in ["1.2", "1.1+b", "1.1-vlan-5"] {
        assert_eq!(dir.load(&key(other)).unwrap(), Persistent::default(), "{other}");
    }
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn all_saves_are_told_and_the_last_is_kept_when_the_directory_closes() {
    let temp = tempfile::tempdir().unwrap();
    let mut completions = CompletionQueue::new().unwrap();
    let dir = open(temp.path(), &["1.1"]);
    let keeper = dir.keeper(&key("1.1"));
    for token in 0..50 {
        keeper.save(ADDRESS, &state(&token.to_string()), completions.handle(), token);
    }
    drop((dir, keeper));
    let tokens: Vec<Token> = (0..50).map(|_| done(&mut completions)).collect();
    assert_eq!(tokens, (0..50).collect::<Vec<Token>>());
    let dir = open(temp.path(), &["1.1"]);
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("49"));
}

#[test]
fn a_save_that_fails_says_so_and_leaves_the_old_state() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    let mut completions = CompletionQueue::new().unwrap();
    let dir = open(&path, &["1.1"]);
    let keeper = dir.keeper(&key("1.1"));
    keeper.save(ADDRESS, &state("old"), completions.handle(), 1);
    done(&mut completions);
    // A directory in the way of the new file: writing fails, for root too.
    fs::create_dir(path.join("1.1.state.new")).unwrap();
    keeper.save(ADDRESS, &state("new"), completions.handle(), 2);
    let completion = next(&mut completions);
    assert_eq!(completion.token, 2);
    match completion.event {
        Event::Finished(Err(fault)) => assert_eq!(fault.kind, FaultKind::Write),
        other => panic!("{other:?}"),
    }
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("old"));

    fs::remove_dir(path.join("1.1.state.new")).unwrap();
    keeper.save(ADDRESS, &state("new"), completions.handle(), 3);
    assert_eq!(done(&mut completions), 3);
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("new"));
}

#[test]
fn a_write_that_was_cut_short_leaves_the_old_state() {
    let temp = tempfile::tempdir().unwrap();
    let dir = open(temp.path(), &["1.1"]);
    dir.store(&key("1.1"), &state("old")).unwrap();
    fs::write(temp.path().join("1.1.state.new"), "xblade sta").unwrap();
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("old"));
    dir.store(&key("1.1"), &state("new")).unwrap();
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("new"));
}

#[test]
fn a_directory_has_one_user() {
    let temp = tempfile::tempdir().unwrap();
    let first = StateDir::open(temp.path(), Before::Unknown).unwrap();
    let message = StateDir::open(temp.path(), Before::Unknown)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains(&format!("in use by process {}", std::process::id())),
        "{message}"
    );
    drop(first);
    StateDir::open(temp.path(), Before::Unknown).unwrap();
}

#[test]
fn an_error_tells_its_cause_once() {
    let temp = tempfile::tempdir().unwrap();
    let error = anyhow::Error::new(list(&temp.path().join("none")).unwrap_err());
    let text = format!("{error:#}");
    assert_eq!(text.matches("No such file").count(), 1, "{text}");
}

#[test]
fn lists_tell_what_is_there_and_what_is_gone() {
    let temp = tempfile::tempdir().unwrap();
    let dir = open(temp.path(), &[]);
    dir.store(&key("2.1"), &state("b")).unwrap();
    dir.store(&key("1.1-vlan-5"), &state("a")).unwrap();
    dir.store(&key("4.1"), &state("c")).unwrap();
    fs::write(temp.path().join("3.1.state"), "junk").unwrap();
    fs::remove_file(temp.path().join("4.1.state")).unwrap();
    let found = list(temp.path()).unwrap();
    let names: Vec<&str> = found.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["1.1-vlan-5", "2.1", "3.1", "4.1"]);
    assert_eq!(found[0].state, Ok(state("a")));
    assert_eq!(found[1].state, Ok(state("b")));
    assert!(found[2].state.as_ref().unwrap_err().contains("damaged"));
    assert!(found[3].state.as_ref().unwrap_err().contains("gone"));
}
