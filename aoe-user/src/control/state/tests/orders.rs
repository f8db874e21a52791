//! What the operator asks of a process that holds the directory.

use super::super::operator::{OperatorError, ask_within};
use super::*;
use crate::store::{Extent, LostWrites};

const CLEAR: Action = Action::Clear(Parts::ALL);
const PATIENCE: Duration = Duration::from_secs(60);

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
    action: Action,
) -> std::thread::JoinHandle<Result<(), OperatorError>> {
    let path = temp.path().to_owned();
    let asking =
        std::thread::spawn(move || ask_within(PATIENCE, &path, &key("1.1"), &action, "a test".into()));
    let deadline = Instant::now() + PATIENCE;
    while dir.requests().is_empty() {
        assert!(Instant::now() < deadline, "no request");
        std::thread::sleep(Duration::from_millis(1));
    }
    asking
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
    let old = std::time::SystemTime::now() - 2 * PATIENCE;
    fs::File::options()
        .write(true)
        .open(&request)
        .unwrap()
        .set_modified(old)
        .unwrap();
    assert_eq!(dir.load(&key("1.1")).unwrap(), state("kept"));
    assert!(!request.exists());
}

#[test]
fn two_who_decide_about_one_export_do_not_take_each_other_s_answer() {
    let (temp, dir) = kept();
    let first = asking(&temp, &dir, CLEAR);
    let second = ask_within(PATIENCE, temp.path(), &key("1.1"), &CLEAR, "a test".into());
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
    let asked = asking(&temp, &dir, Action::AcceptLostWrites);
    dir.load(&key("1.1")).unwrap();
    assert_eq!(dir.requests().len(), 1, "it is for the export in service");
    assert!(dir.lost_writes(&key("1.1"), true).is_some());
    dir.obey_request(&key("1.1"));
    asked.join().unwrap().unwrap();
    assert!(dir.lost_writes(&key("1.1"), true).is_none());
}
