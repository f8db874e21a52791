//! Replacement of the rules while frames come in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::filter::tables::Room;

#[test]
fn no_frame_sees_a_gap_while_rules_are_replaced() {
    // Alice may use 1.1 and Bob may not by either set of rules; neither has 9.9. The list ids and everything else
    // change places from one to the other.
    let other = Mac([2, 0, 0, 0, 0, 9]);
    let one = rules([
        listed(1, 1, &[ALICE]),
        listed(1, 2, &[BOB]),
        listed(1, 3, &[other]),
    ]);
    let two = rules([
        listed(1, 3, &[BOB]),
        listed(1, 2, &[other, BOB]),
        listed(1, 1, &[ALICE, CAROL]),
    ]);
    let Some(mut filter) = load(&one) else { return };

    let done = AtomicBool::new(false);
    let Filter {
        ebpf,
        rules: installed,
        ..
    } = &mut *filter;
    let replaced = std::thread::scope(|scope| {
        let ebpf = &*ebpf;
        for (frame, verdict) in [
            (Frame::to(1, 1, ALICE), Verdict::Redirect),
            (Frame::to(1, 1, BOB), Verdict::Drop),
            (Frame::broadcast(0xffff, 0xff, ALICE), Verdict::Redirect),
            (Frame::to(9, 9, ALICE), Verdict::Pass),
        ] {
            let done = &done;
            scope.spawn(move || {
                let bytes = frame.bytes();
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(run(ebpf, &bytes, 1).0, verdict, "{frame:?}");
                }
            });
        }
        let tables = [compile(&two).unwrap(), compile(&one).unwrap()];
        let start = Instant::now();
        let mut replaced = 0;
        // A panic in a thread that runs frames is reported when the scope ends.
        while start.elapsed() < Duration::from_secs(2) {
            installed.replace(&tables[replaced % 2]).unwrap();
            replaced += 1;
        }
        done.store(true, Ordering::Relaxed);
        replaced
    });
    println!("{replaced} replacements in 2 s");
    assert!(replaced > 10, "{replaced}");
    let counters = filter.counters().unwrap();
    let frames: u64 = counters.iter().map(|(_, count)| count).sum();
    assert!(counters.iter().all(|(counter, count)| count > 0
        || !matches!(counter, Counter::Redirected | Counter::Denied | Counter::NotOurs)));
    println!("{frames} frames judged");
}

#[test]
fn nothing_of_old_rules_is_left() {
    let Some(mut filter) = load(&rules([listed(1, 1, &[ALICE, BOB]), open(1, 2)])) else {
        return;
    };
    for _ in 0..3 {
        filter.set_rules(&rules([listed(1, 1, &[BOB])])).unwrap();
        expect(&filter, Counter::Denied, &Frame::to(1, 1, ALICE));
        expect(&filter, Counter::NotOurs, &Frame::to(1, 2, BOB));
        expect(&filter, Counter::Redirected, &Frame::to(1, 1, BOB));
        filter.set_rules(&rules([])).unwrap();
        expect(&filter, Counter::NotOurs, &Frame::to(1, 1, BOB));
        expect(&filter, Counter::NotOurs, &Frame::broadcast(0xffff, 0xff, BOB));
        filter
            .set_rules(&rules([listed(1, 1, &[ALICE]), open(1, 2)]))
            .unwrap();
        expect(&filter, Counter::Redirected, &Frame::to(1, 1, ALICE));
        expect(&filter, Counter::Denied, &Frame::to(1, 1, BOB));
    }
    assert_eq!(filter.rules.entries_not_in_force(), 0);
}

#[test]
fn rules_beyond_the_maps_are_refused_and_the_old_ones_stay() {
    let Some(mut filter) = load(&rules([listed(1, 1, &[ALICE])])) else {
        return;
    };
    let room = Room::for_growth_of(&compile(&rules([open(1, 1)])).unwrap());
    let many: AllowList = (0..=room.sources as u64)
        .map(|i| (Mac::from_u64(0x0200_0000_0000 + i), None))
        .collect();
    let error = filter
        .set_rules(&rules([ExportRule {
            allow: Some(many),
            ..open(1, 2)
        }]))
        .unwrap_err();
    assert!(error.to_string().contains("room for 32768"), "{error}");
    let many: Vec<_> = (0..room.exports / 100 + 1)
        .flat_map(|i| (0..100).map(move |j| open(i as u16, j)))
        .collect();
    let error = filter.set_rules(&rules(many)).unwrap_err();
    assert!(error.to_string().contains("exports"), "{error}");
    expect(&filter, Counter::Redirected, &Frame::to(1, 1, ALICE));
    expect(&filter, Counter::NotOurs, &Frame::to(1, 2, ALICE));

    let error = filter.set_rules(&rules([open(1, 2), open(1, 2)])).unwrap_err();
    assert!(error.to_string().contains("1.2"), "{error}");
    expect(&filter, Counter::NotOurs, &Frame::to(1, 2, ALICE));
}

#[test]
fn a_filter_may_be_kept_by_any_thread() {
    fn sendable<T: Send>() {}
    sendable::<Filter>();
}
