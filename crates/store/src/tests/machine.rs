//! What the committer's machine decides, in a time of the test's own.

use std::time::Duration;

use crate::commit::machine::{CommitAction, CommitMachine, Failed, Failure, Member, OnLostWrite, Wish};
use engine::Extent;

const INTERVAL: Duration = Duration::from_millis(1000);

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn machine() -> CommitMachine<u32> {
    CommitMachine::new(INTERVAL, OnLostWrite::Stop, None)
}

/// The commit that is to begin now.
fn begins(machine: &mut CommitMachine<u32>, now: Duration) -> Vec<Member<u32>> {
    match machine.poll(now) {
        CommitAction::Commit(group) => group,
        other => panic!("{other:?}"),
    }
}

fn lost(lba: u64, count: u64) -> Result<(), Failed> {
    Err(Failed {
        cause: None,
        errno: libc::EIO,
        lost: Some(Extent { lba, count }),
    })
}

#[test]
fn a_commit_begins_after_half_of_the_interval_and_writers_wait_after_all_of_it() {
    let mut machine = machine();
    assert!(machine.is_idle() && machine.late_at().is_none());
    machine.acknowledged(at(100));
    assert!(
        !machine.is_idle(),
        "something will be due: whoever polls must not go away"
    );
    assert!(matches!(machine.poll(at(599)), CommitAction::Wait(Some(due)) if due == at(600)));
    let group = begins(&mut machine, at(600));
    machine.acknowledged(at(700));
    assert_eq!(
        machine.late_at(),
        Some(at(1100)),
        "the oldest counts, also while it is committed"
    );
    assert!(
        matches!(machine.poll(at(5000)), CommitAction::Wait(None)),
        "one at a time"
    );
    assert!(machine.done(group, Ok(())).is_empty());
    assert_eq!(machine.late_at(), Some(at(1700)));
}

#[test]
fn losses_add_up_and_flushes_hear_of_them_until_they_are_accepted() {
    let mut machine = machine();
    for (lba, count) in [(100, 8), (40, 4)] {
        let group = match machine.begin() {
            CommitAction::Commit(group) => group,
            other => panic!("{other:?}"),
        };
        machine.done(group, lost(lba, count));
    }
    assert_eq!(machine.lost().unwrap().extent, Extent { lba: 40, count: 68 });
    for wish in [
        Wish::Flush,
        Wish::Unmade,
        Wish::Made(machine.epoch()),
        Wish::Flush,
    ] {
        let refused = machine.join(1, wish).expect("refused");
        assert!(matches!(refused.result, Err(Failure::Lost(_))), "{wish:?}");
    }
    machine.accept();
    assert!(machine.join(1, Wish::Flush).is_none());
    let group = begins(&mut machine, at(0));
    assert!(machine.done(group, Ok(()))[0].result.is_ok());
}

#[test]
fn a_failure_reaches_into_the_group_that_waits() {
    let mut machine = machine();
    let before = machine.epoch();
    assert!(machine.join(1, Wish::Made(before)).is_none());
    let group = begins(&mut machine, at(0));
    // These come while the commit runs: one is in the cache, the others are not made yet, or cover only what has an answer.
    for (who, wish) in [(2, Wish::Made(before)), (3, Wish::Unmade), (4, Wish::Flush)] {
        assert!(machine.join(who, wish).is_none());
    }
    let failed = Err(Failed {
        cause: None,
        errno: libc::EIO,
        lost: None,
    });
    let answers = machine.done(group, failed);
    let told: Vec<(u32, bool)> = answers
        .iter()
        .map(|answer| (answer.who, answer.result.is_ok()))
        .collect();
    assert_eq!(told, [(1, false), (2, false)]);
    let group = begins(&mut machine, at(0));
    let answers = machine.done(group, Ok(()));
    assert!(answers.len() == 2 && answers.iter().all(|answer| answer.result.is_ok()));
}
