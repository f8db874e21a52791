mod two_active;

use super::group::ANNOUNCE_EVERY_US;
use super::*;

const SECOND: u64 = 1_000_000;

fn group() -> Group {
    Group::new(GroupSettings::with_detect_us(1_500_000), 0)
}

fn known(name: &str) -> Holder {
    Holder::Known(name.to_owned())
}

/// Asks without an answer until there is something to do; the time then.
fn silence(group: &mut Group, mut now_us: u64) -> (GroupStep, u64) {
    for _ in 0..1000 {
        now_us += ASK_EVERY_US;
        group.asked(now_us);
        if let Some(step) = group.poll(now_us) {
            return (step, now_us);
        }
    }
    panic!("nothing is done about silence: {group:?}");
}

/// A group that took the locks from `holder` and answers.
fn active() -> (Group, u64) {
    let mut group = group();
    let (look, now) = silence(&mut group, 0);
    assert_eq!(look, GroupStep::Look);
    group.looked(Ok(known("a")), now);
    let (take, now) = silence(&mut group, now);
    assert_eq!(
        take,
        GroupStep::Take {
            from: Some(known("a"))
        }
    );
    group.taken(now);
    assert_eq!(group.poll(now + SECOND), Some(GroupStep::Serve));
    (group, now + SECOND)
}

#[test]
fn silence_is_taken_over_in_time_from_whom_had_the_locks() {
    let mut group = group();
    let (look, now) = silence(&mut group, 0);
    assert_eq!((look, now), (GroupStep::Look, 375_000));
    group.looked(Ok(known("a")), now);
    let (take, now) = silence(&mut group, now);
    // "a" may have taken the locks just before it was found: it was quiet until 1.375 s, and did not answer what was asked at 1.5 s.
    assert_eq!(
        (take, now),
        (
            GroupStep::Take {
                from: Some(known("a"))
            },
            1_625_000
        )
    );
    group.taken(now);
    assert_eq!(group.state(), &GroupState::Quiet);
    assert_eq!(group.poll(now + SECOND - 1), None);
    assert_eq!(group.next_us(), Some(now + SECOND));
    assert_eq!(group.poll(now + SECOND), Some(GroupStep::Serve));
    assert_eq!(group.state(), &GroupState::Active);
}

#[test]
fn who_has_just_taken_the_locks_is_given_the_time_to_answer() {
    // Of two gateways that start within a second one is quiet when the other finds that it has the locks.
    for detect_us in [500_000, 1_500_000, 5_000_000] {
        let mut group = Group::new(GroupSettings::with_detect_us(detect_us), 0);
        let (_, found) = silence(&mut group, 0);
        group.looked(Ok(known("a")), found);
        let (_, now) = silence(&mut group, found);
        assert!(now >= found + SECOND + 2 * ASK_EVERY_US, "{detect_us}: {now}");
    }
}

#[test]
fn storage_that_answers_late_has_silenced_whoever_has_the_locks() {
    let mut group = group();
    let (_, mut now) = silence(&mut group, 0);
    for _ in 0..40 {
        now += ASK_EVERY_US;
        group.asked(now);
        assert_eq!(group.poll(now), None);
    }
    // All answers of the storage come at once: so does the other gateway's, a moment later.
    group.looked(Ok(known("a")), now);
    assert_eq!(group.poll(now), None);
    now += ASK_EVERY_US;
    group.asked(now);
    assert_eq!(group.poll(now), None);
    group.heard(now);
    let (step, later) = silence(&mut group, now);
    assert_eq!((step, later), (GroupStep::Look, now + 3 * ASK_EVERY_US));
}

#[test]
fn locks_that_nobody_has_are_taken_when_two_more_questions_have_no_answer() {
    let mut group = group();
    let (_, now) = silence(&mut group, 0);
    group.looked(Ok(Holder::Nobody), now);
    let (take, later) = silence(&mut group.clone(), now);
    let from = Some(Holder::Nobody);
    assert_eq!((take, later), (GroupStep::Take { from }, now + 2 * ASK_EVERY_US));
    // Somebody had given them back to take them anew.
    group.asked(now + ASK_EVERY_US);
    group.heard(now + ASK_EVERY_US);
    let (step, _) = silence(&mut group, now + ASK_EVERY_US);
    assert_eq!(step, GroupStep::Look);
}

#[test]
fn who_hears_an_answer_takes_nothing() {
    let mut group = group();
    for round in 1..200 {
        let now = round * ASK_EVERY_US;
        group.asked(now);
        // Three of four answers are lost.
        if round % 4 == 0 {
            group.heard(now);
        }
        assert!(!matches!(group.poll(now), Some(GroupStep::Take { .. })));
        group.looked(Ok(known("a")), now);
    }
    assert_eq!(group.state(), &GroupState::Standby);
}

#[test]
fn time_alone_is_no_silence() {
    // The process was stopped, or the interface was down: nothing was asked.
    let mut group = group();
    group.asked(0);
    group.asked(1800 * SECOND);
    group.asked(3600 * SECOND);
    // It may wonder, and does nothing.
    assert_eq!(group.poll(3600 * SECOND), Some(GroupStep::Look));
    group.looked(Ok(known("a")), 3600 * SECOND);
    group.asked(7200 * SECOND);
    assert_eq!(group.poll(7200 * SECOND), None);
}

#[test]
fn what_was_found_before_an_answer_was_heard_is_not_used() {
    let mut group = group();
    let (_, now) = silence(&mut group, 0);
    group.heard(now);
    group.looked(Ok(Holder::Nobody), now);
    assert_eq!(group.poll(now), None);
    let (step, _) = silence(&mut group, now);
    assert_eq!(step, GroupStep::Look);
}

#[test]
fn a_lock_that_is_lost_ends_in_silence_and_is_left_to_others_for_a_minute() {
    let (mut group, now) = active();
    group.fenced("another client has it".into(), now);
    assert_eq!(group.state(), &GroupState::Leaving);
    assert_eq!(group.poll(now), Some(GroupStep::Leave));
    assert_eq!(group.poll(now), None);
    group.left(now);
    assert_eq!(group.reason(), Some("another client has it"));
    let (step, again) = silence(&mut group, now);
    assert_eq!(step, GroupStep::Look);
    assert!(again >= now + 60 * SECOND);
}

#[test]
fn a_lock_that_is_lost_while_it_is_given_back_is_left_to_others_for_a_minute_too() {
    let (mut group, now) = active();
    assert!(group.release(now));
    assert_eq!(group.poll(now), Some(GroupStep::Leave));
    group.fenced("another client has it".into(), now + SECOND);
    // It is being left already.
    assert_eq!(group.poll(now + SECOND), None);
    group.left(now + 2 * SECOND);
    assert_eq!(group.state(), &GroupState::Standby);
    assert_eq!(group.reason(), Some("another client has it"));
    let (_, again) = silence(&mut group.clone(), now);
    assert!(again >= now + 61 * SECOND);
    // Whatever is told of it later was of a lock that is not there any more.
    group.fenced("nobody has it".into(), now + 50 * SECOND);
    assert_eq!(group.reason(), Some("another client has it"));
    let (_, again) = silence(&mut group, now);
    assert!((now + 61 * SECOND..now + 63 * SECOND).contains(&again));
}

#[test]
fn who_answers_says_so_again_and_again() {
    let (mut group, mut now) = active();
    for _ in 0..100 {
        assert_eq!(group.poll(now), None);
        assert_eq!(group.next_us(), Some(now + ANNOUNCE_EVERY_US));
        now += ANNOUNCE_EVERY_US;
        assert_eq!(group.poll(now), Some(GroupStep::Announce));
    }
    // What was missed is not made up for.
    assert_eq!(group.poll(now + 3600 * SECOND), Some(GroupStep::Announce));
    assert_eq!(group.poll(now + 3600 * SECOND), None);
}

#[test]
fn the_operator_decides() {
    let (mut group, now) = active();
    assert!(!group.take(now));
    assert!(group.release(now));
    assert_eq!(group.poll(now), Some(GroupStep::Leave));
    group.left(now);
    assert!(!group.release(now));
    // Where no other gateway takes it, it is here again in time.
    let (step, again) = silence(&mut group.clone(), now);
    assert_eq!(step, GroupStep::Look);
    assert!((now + 10 * SECOND..now + 12 * SECOND).contains(&again));
    assert!(group.take(now + SECOND));
    assert_eq!(group.poll(now + SECOND), Some(GroupStep::Take { from: None }));
}

#[test]
fn a_take_over_that_fails_is_tried_again_later_and_later() {
    let mut group = group();
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let before = now;
        let (_, found) = silence(&mut group, now);
        group.looked(Ok(Holder::Nobody), found);
        let (take, found) = silence(&mut group, found);
        assert!(matches!(take, GroupStep::Take { .. }));
        group.refused("the image is not there".into(), found);
        assert_eq!(group.poll(found), Some(GroupStep::Leave));
        group.left(found);
        now = found;
        pauses.push(now - before);
    }
    assert!(pauses.is_sorted() && pauses[7] > 4 * pauses[0], "{pauses:?}");
    assert!(pauses[7] < 40 * SECOND);
}

#[test]
fn storage_that_does_not_answer_is_asked_again_and_nothing_is_taken() {
    let mut group = group();
    let (_, now) = silence(&mut group, 0);
    group.looked(Err("no monitor answers".into()), now);
    assert_eq!(group.reason(), Some("no monitor answers"));
    let (step, _) = silence(&mut group, now);
    assert_eq!(step, GroupStep::Look);
}

#[test]
fn a_lock_lost_while_taking_or_quiet_is_given_up() {
    let mut group = group();
    let (_, now) = silence(&mut group, 0);
    group.looked(Ok(Holder::Nobody), now);
    let (_take, now) = silence(&mut group, now);
    group.fenced("gone".into(), now);
    assert_eq!(group.state(), &GroupState::Leaving);
    // What comes of the take-over changes nothing any more.
    group.taken(now);
    assert_eq!(group.state(), &GroupState::Leaving);
}

/// Asks, and each time the gateway that has the group says that it does not hear its storage, until there is something to do.
fn unavailable(group: &mut Group, mut now_us: u64) -> (GroupStep, u64) {
    for _ in 0..1000 {
        now_us += ASK_EVERY_US;
        group.asked(now_us);
        assert_eq!(group.poll(now_us), None);
        group.heard_unavailable(now_us + ASK_EVERY_US);
        if let Some(step) = group.poll(now_us + ASK_EVERY_US) {
            return (step, now_us + ASK_EVERY_US);
        }
    }
    panic!("nothing is done: {group:?}");
}

#[test]
fn who_says_that_its_storage_is_not_heard_is_taken_over_from_sooner() {
    let mut group = group();
    let (look, now) = unavailable(&mut group, 0);
    assert_eq!((look, now), (GroupStep::Look, 2 * ASK_EVERY_US));
    group.looked(Ok(known("a")), now);
    let (take, later) = unavailable(&mut group, now);
    let from = Some(known("a"));
    assert_eq!(take, GroupStep::Take { from });
    assert!(
        (now + SECOND / 4..=now + 3 * SECOND / 4).contains(&later),
        "{}",
        later - now
    );
}

#[test]
fn who_hears_its_storage_again_keeps_the_group() {
    let mut group = group();
    let (_, mut now) = unavailable(&mut group, 0);
    group.looked(Ok(known("a")), now);
    // The storage was slow for both: the other one has its answer a moment later, too.
    for _ in 0..2 {
        now += ASK_EVERY_US;
        group.asked(now);
        group.heard_unavailable(now);
        assert_eq!(group.poll(now), None);
    }
    group.heard(now);
    let (step, _) = silence(&mut group, now);
    assert_eq!(step, GroupStep::Look);
}

#[test]
fn a_group_that_is_left_to_others_is_not_taken_whatever_they_say() {
    let (mut group, now) = active();
    group.fenced("another client has it".into(), now);
    assert_eq!(group.poll(now), Some(GroupStep::Leave));
    group.left(now);
    let (step, again) = unavailable(&mut group, now);
    assert_eq!(step, GroupStep::Look);
    assert!(again >= now + 60 * SECOND);
}
