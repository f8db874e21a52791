//! Two gateways with locks of different storage.

use super::*;

const LATE: u64 = 2_500_000;

fn standing(since_ms: u64, last: u8) -> Standing {
    Standing {
        since_ms,
        mac: [2, 0, 0, 0, 0, last],
    }
}

/// Is told of another one in each round, until it leaves or so many rounds are over; the time then.
fn rounds(group: &mut Group, [own, other]: [Standing; 2], count: u32, mut now: u64) -> (bool, u64) {
    for _ in 0..count {
        now += ASK_RIVALS_EVERY_US;
        if group.heard_rival(own, other, now, |leaves| format!("leaves: {leaves}")) {
            return (true, now);
        }
    }
    (false, now)
}

#[test]
fn of_two_that_are_active_the_one_that_came_later_leaves_and_stays_away() {
    let [first, second] = [standing(1000, 9), standing(5000, 1)];
    let (mut older, began) = active();
    let (mut younger, _) = active();
    assert_eq!(
        rounds(&mut older, [first, second], 60, began),
        (false, began + 60 * SECOND)
    );
    assert_eq!(older.state(), &GroupState::Active);
    assert_eq!(older.reason(), Some("leaves: false"));

    let (left, now) = rounds(&mut younger, [second, first], 60, began);
    assert!(left && (began + LATE..=began + LATE + 2 * SECOND).contains(&now));
    assert_eq!(younger.poll(now), Some(GroupStep::Leave));
    younger.left(now);
    younger.heard(now);
    assert_eq!(younger.reason(), Some("leaves: true"));
    // What it has is not what initiators had: it does not serve that by itself, whatever becomes of the other one.
    let mut later = now;
    for _ in 0..8 * 600 {
        later += ASK_EVERY_US;
        younger.asked(later);
        assert_eq!(younger.poll(later), None);
    }
    // The operator may say so, or mend the configuration.
    let mut mended = younger.clone();
    mended.set_settings(GroupSettings::with_detect_us(1_500_000));
    assert_eq!(silence(&mut mended, later).0, GroupStep::Look);
    assert!(younger.take(later));
    assert_eq!(younger.poll(later), Some(GroupStep::Take { from: None }));
    assert_eq!(younger.reason(), None);
    // The other one is rid of it.
    let now = began + 70 * SECOND;
    assert_eq!(older.poll(now), Some(GroupStep::Announce));
    assert_eq!(older.reason(), None);
}

#[test]
fn who_kept_the_group_takes_part_again_after_it_lost_it() {
    let [first, second] = [standing(1000, 9), standing(5000, 1)];
    let (mut older, began) = active();
    let now = rounds(&mut older, [first, second], 10, began).1;
    assert_eq!(older.reason(), Some("leaves: false"));
    // The operator has the other one's configuration mended, and wants the group there.
    older.fenced("it is in use by another client".to_owned(), now);
    assert_eq!(older.poll(now), Some(GroupStep::Leave));
    older.left(now);
    assert_eq!(older.reason(), Some("it is in use by another client"));
    assert_eq!(silence(&mut older, now + 61 * SECOND).0, GroupStep::Look);
}

#[test]
fn who_left_stays_out_also_where_its_locks_are_lost_on_the_way() {
    let [first, second] = [standing(1000, 9), standing(5000, 1)];
    let (mut younger, began) = active();
    let (left, now) = rounds(&mut younger, [second, first], 10, began);
    assert!(left);
    assert_eq!(younger.poll(now), Some(GroupStep::Leave));
    younger.fenced("it is in use by another client".to_owned(), now);
    younger.left(now);
    assert_eq!(younger.reason(), Some("leaves: true"));
}

#[test]
fn exactly_one_of_two_leaves_whatever_their_clocks_and_addresses_are() {
    let all = [
        standing(1, 1),
        standing(1, 2),
        standing(7, 1),
        standing(7, 2),
        standing(0, 3),
    ];
    for one in all {
        for other in all.into_iter().filter(|other| *other != one) {
            let leaves = [[one, other], [other, one]].map(|pair| {
                let (mut group, now) = active();
                rounds(&mut group, pair, 10, now).0
            });
            assert_ne!(leaves[0], leaves[1], "{one:?} {other:?}");
        }
    }
}

#[test]
fn who_has_lost_its_locks_and_says_so_late_moves_nobody() {
    let [own, other] = [standing(5000, 1), standing(1000, 9)];
    // It has not noticed yet: for no longer than a lease.
    let (mut group, now) = active();
    assert!(!rounds(&mut group, [own, other], 2, now).0);
    // It stood still, and all its answers come in one round; and again a minute later, from one that was started anew.
    for minute in 1..20 {
        let now = now + minute * 60 * SECOND;
        assert!(!group.heard_rival(own, other, now, |_| String::new()));
    }
    // Another time is another taking.
    for round in 0..20 {
        let other = standing(1000 + round, 9);
        assert!(!rounds(&mut group, [own, other], 1, now + (3000 + round) * SECOND).0);
    }
    // Its own storage was not heard in between: then the other one may have taken the group.
    for round in 0..20 {
        assert!(!rounds(&mut group, [own, other], 2, now + (4000 + 2 * round) * SECOND).0);
        group.forget_rivals();
    }
    assert_eq!((group.state(), group.reason()), (&GroupState::Active, None));
    // Most questions are lost, and it is heard all the same.
    let mut left = false;
    for round in 0..10 {
        left |= rounds(&mut group, [own, other], 1, now + (5000 + 4 * round) * SECOND).0;
    }
    assert!(left);
}

#[test]
fn who_is_not_active_is_moved_by_nobody() {
    let mut group = group();
    assert!(!rounds(&mut group, [standing(5, 1), standing(1, 2)], 10, 0).0);
    assert_eq!(group.reason(), None);
}

/// The operator wants it here, and it has taken the locks.
fn quiet() -> Group {
    let mut group = group();
    assert!(group.take(0));
    assert_eq!(group.poll(0), Some(GroupStep::Take { from: None }));
    assert!(group.is_asking());
    group.taken(0);
    group
}

#[test]
fn who_has_the_locks_and_hears_another_one_answer_does_not_become_active() {
    let mut group = quiet();
    let mut now = 0;
    let step = loop {
        now += ASK_EVERY_US;
        group.asked(now);
        group.heard(now);
        if let Some(step) = group.poll(now) {
            break step;
        }
        assert!(group.next_us().is_some_and(|next| next >= now));
    };
    assert_eq!((step, now), (GroupStep::Leave, SECOND + LATE));
    assert!(group.refusal().unwrap().contains("different images"));
    group.left(now);
    assert_eq!(group.state(), &GroupState::Standby);
    // It does not try again by itself, when the other one is silent for a moment.
    for _ in 0..8 * 600 {
        now += ASK_EVERY_US;
        group.asked(now);
        assert_eq!(group.poll(now), None);
    }
    assert!(group.reason().unwrap().contains("different images"));
    // The operator releases it elsewhere, and wants it here at once.
    assert!(group.take(now));
    assert_eq!(group.poll(now), Some(GroupStep::Take { from: None }));
    group.taken(now);
    group.asked(now);
    assert_eq!(group.poll(now + SECOND), Some(GroupStep::Serve));
}

#[test]
fn who_stood_still_in_its_quiet_time_blames_nobody() {
    let mut group = quiet();
    group.asked(ASK_EVERY_US);
    group.heard(ASK_EVERY_US);
    // SIGSTOP, and much later SIGCONT.
    assert_eq!(group.poll(60 * SECOND), Some(GroupStep::Leave));
    group.left(60 * SECOND);
    assert!(!group.reason().unwrap().contains("different images"));
    assert_eq!(silence(&mut group, 60 * SECOND).0, GroupStep::Look);
}

#[test]
fn who_has_just_lost_the_locks_is_given_the_time_to_notice() {
    for late in [1, 7, 9, 16] {
        let mut group = quiet();
        let mut now = 0;
        let step = loop {
            now += ASK_EVERY_US;
            group.asked(now);
            if now <= late * ASK_EVERY_US {
                group.heard(now);
            }
            if let Some(step) = group.poll(now) {
                break step;
            }
        };
        assert_eq!(step, GroupStep::Serve, "{late}");
        assert!(
            now >= SECOND.max((late + 4) * ASK_EVERY_US) && now <= SECOND + 12 * ASK_EVERY_US,
            "{late}: {now}"
        );
    }
}
