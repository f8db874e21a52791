//! What the operator asks of a process that holds the directory.

use super::super::operator::ask_within;
use super::super::operator_error::OperatorError;
use super::*;
use crate::store::{Extent, LostWrites};

const CLEAR: OperatorAction = OperatorAction::Clear(Parts::ALL);
const TIMEOUT: Duration = Duration::from_secs(60);

fn kept() -> (tempfile::TempDir, Arc<StateDir>) {
    let temp = tempfile::tempdir().unwrap();
    let dir = open(temp.path(), &["1.1"]);
    dir.store(&key("1.1"), &state("kept")).unwrap();
    (temp, dir)
}

/// Somebody asks, and has left the request when this returns.
fn asking(
    temp: &tempfile::TempDir,
    dir: &StateDir,
    action: OperatorAction,
) -> std::thread::JoinHandle<Result<(), OperatorError>> {
    let path = temp.path().to_owned();
    let asking =
        std::thread::spawn(move || ask_within(TIMEOUT, &path, &key("1.1"), &action, "a test".into()));
    let deadline = Instant::now() + TIMEOUT;
    while dir.requests().is_empty() {
        assert!(Instant::now() < deadline, "no request");
        std::thread::sleep(Duration::from_millis(1));
    }
    asking
}

/// Lets the request look as if whoever left it had gone.
fn age(path: &Path) {
    let old = std::time::SystemTime::now() - 2 * TIMEOUT;
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(old).unwrap();
}

#[test]
fn what_nobody_waits_for_any_more_is_not_carried_out() {
    let (temp, dir) = kept();
    let asked = ask_within(Duration::ZERO, temp.path(), &key("1.1"), &CLEAR, "a test".into());
    let reason = asked.unwrap_err().to_string();
    assert!(reason.contains("nothing was changed"), "{reason}");
    assert!(dir.requests().is_empty());
    dir.obey_request(&key("1.1"));
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("kept"));
}

#[test]
fn a_request_of_somebody_who_was_killed_is_dropped_in_time() {
    let (temp, dir) = kept();
    // Left by a process that could not take it back, and found when the export is opened long after.
    let body = serde_json::to_string(&CLEAR).unwrap();
    let request = temp.path().join("1.1.request");
    fs::write(&request, sealed::seal("request", 1, &body)).unwrap();
    assert_eq!(dir.requests().len(), 1, "it is one that would be carried out");
    age(&request);
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("kept"));
    assert!(!request.exists());
}

#[test]
fn two_who_decide_about_one_export_do_not_take_each_other_s_answer() {
    let (temp, dir) = kept();
    let first = asking(&temp, &dir, CLEAR);
    let second = ask_within(TIMEOUT, temp.path(), &key("1.1"), &CLEAR, "a test".into());
    assert!(matches!(second, Err(OperatorError::Busy(_))), "{second:?}");
    dir.obey_request(&key("1.1"));
    first.join().unwrap().unwrap();
    assert_eq!(dir.load(&key("1.1")).unwrap(), Persistent::default());
}

#[test]
fn a_loss_is_not_accepted_for_a_store_that_has_been_opened_with_it() {
    let (temp, dir) = kept();
    let lost = LostWrites {
        extent: Extent { lba: 0, count: 8 },
        cause: "a test".into(),
        stopped: true,
    };
    dir.mark_lost(&key("1.1"), &lost).unwrap();
    let asked = asking(&temp, &dir, OperatorAction::AcceptLostWrites);
    dir.load(&key("1.1")).unwrap();
    assert_eq!(dir.requests().len(), 1, "it is for the export in service");
    assert!(dir.lost_writes(&key("1.1"), true).is_some());
    dir.obey_request(&key("1.1"));
    asked.join().unwrap().unwrap();
    assert!(dir.lost_writes(&key("1.1"), true).is_none());
}

#[test]
fn what_has_begun_is_not_called_undone() {
    let (temp, dir) = kept();
    let taken = temp.path().join("1.1.taken");
    let path = temp.path().to_owned();
    // Long enough for the request to be found, and over while it is carried out.
    let timeout = Duration::from_secs(3);
    let asking = std::thread::spawn(move || ask_within(timeout, &path, &key("1.1"), &CLEAR, "a test".into()));
    let deadline = Instant::now() + TIMEOUT;
    while fs::rename(temp.path().join("1.1.request"), &taken).is_err() {
        assert!(Instant::now() < deadline, "no request");
        std::thread::sleep(Duration::from_millis(1));
    }
    let reason = asking.join().unwrap().unwrap_err().to_string();
    assert!(reason.contains("has begun"), "{reason}");
    assert!(!reason.contains("nothing was changed"), "{reason}");
    drop(dir);
    // Whoever had it is gone, too.
    let _next = open(temp.path(), &["1.1"]);
    assert!(!taken.exists());
}

#[test]
fn what_is_being_carried_out_is_not_carried_out_again() {
    let (temp, dir) = kept();
    let asked = asking(&temp, &dir, CLEAR);
    let (claim, action) = dir.claim(&key("1.1"), |_| true).unwrap();
    assert_eq!(action, CLEAR);
    assert!(dir.requests().is_empty());
    assert!(dir.claim(&key("1.1"), |_| true).is_none());
    assert_eq!(dir.obey_request(&key("1.1")), None);
    dir.refuse(&key("1.1"), "a second answer".into());
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("kept"), "by somebody else");
    let second = ask_within(TIMEOUT, temp.path(), &key("1.1"), &CLEAR, "a test".into());
    assert!(matches!(second, Err(OperatorError::Busy(_))), "{second:?}");
    claim.answer(Ok(()));
    asked.join().unwrap().unwrap();
    assert!(!temp.path().join("1.1.taken").exists());
}

#[test]
fn what_could_not_begin_waits_again() {
    let (temp, dir) = kept();
    let asked = asking(&temp, &dir, CLEAR);
    drop(dir.claim(&key("1.1"), |_| true).unwrap());
    assert_eq!(dir.requests(), [(key("1.1"), CLEAR)]);
    assert_eq!(dir.obey_request(&key("1.1")), Some(CLEAR));
    asked.join().unwrap().unwrap();
    assert_eq!(dir.load(&key("1.1")).unwrap(), Persistent::default());
}

#[test]
fn an_answer_that_nobody_waits_for_keeps_nobody_from_asking() {
    let (temp, dir) = kept();
    let body = serde_json::to_string(&CLEAR).unwrap();
    fs::write(temp.path().join("1.1.request"), sealed::seal("request", 1, &body)).unwrap();
    let (claim, _) = dir.claim(&key("1.1"), |_| true).unwrap();
    // It takes longer than anybody waits.
    age(&temp.path().join("1.1.taken"));
    claim.answer(Ok(()));
    assert!(!temp.path().join("1.1.answer").exists());
    let asked = asking(&temp, &dir, CLEAR);
    dir.obey_request(&key("1.1"));
    asked.join().unwrap().unwrap();
}
