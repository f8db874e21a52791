//! Wildcards, against a plain statement of the rule: a source sees one when it may see an export it stands for.

use super::*;
use aoe_common::rules::{ExportEntry, Target, VlanClass, interval_ns};

use super::compile::{Tables, compile};

#[test]
fn wildcards_reach_who_may_see_something() {
    let Some(mut filter) = load(&rules([
        listed(1, 1, &[ALICE]),
        listed(1, 2, &[BOB]),
        listed(2, 1, &[BOB]),
    ])) else {
        return;
    };
    for (shelf, slot, alice, bob) in [
        (1, 0xff, true, true),
        (2, 0xff, false, true),
        (0xffff, 1, true, true),
        (0xffff, 2, false, true),
        (0xffff, 0xff, true, true),
    ] {
        let row = |sees| {
            if sees {
                Counter::Redirected
            } else {
                Counter::Denied
            }
        };
        expect(&filter, row(alice), &Frame::broadcast(shelf, slot, ALICE));
        expect(&filter, row(bob), &Frame::broadcast(shelf, slot, BOB));
        expect(&filter, Counter::Denied, &Frame::broadcast(shelf, slot, CAROL));
        // Also when it is sent to the port alone.
        expect(&filter, row(alice), &Frame::to(shelf, slot, ALICE));
    }
    for (shelf, slot) in [(3, 0xff), (0xffff, 3)] {
        expect(&filter, Counter::NotOurs, &Frame::broadcast(shelf, slot, ALICE));
    }

    // One export for everyone, and everyone sees the wildcards that stand for it.
    filter
        .set_rules(&rules([listed(1, 1, &[ALICE]), open(2, 1)]))
        .unwrap();
    expect(
        &filter,
        Counter::Redirected,
        &Frame::broadcast(0xffff, 0xff, CAROL),
    );
    expect(&filter, Counter::Redirected, &Frame::broadcast(0xffff, 1, CAROL));
    expect(&filter, Counter::Redirected, &Frame::broadcast(2, 0xff, CAROL));
    expect(&filter, Counter::Denied, &Frame::broadcast(1, 0xff, CAROL));
}

#[test]
fn wildcards_stay_in_their_vlan() {
    let vlan = |vlan, rule| ExportRule { vlan, ..rule };
    let Some(filter) = load(&rules([
        vlan(Vlan::Id(5), listed(1, 1, &[ALICE])),
        vlan(Vlan::Any, listed(2, 1, &[BOB])),
    ])) else {
        return;
    };
    let all = |source| Frame::broadcast(0xffff, 0xff, source);
    expect(&filter, Counter::Denied, &all(ALICE));
    expect(&filter, Counter::Redirected, &all(ALICE).tagged(5));
    expect(&filter, Counter::Denied, &all(ALICE).tagged(6));
    for frame in [
        all(BOB),
        all(BOB).tagged(5),
        all(BOB).tagged(6),
        all(BOB).tagged(6).tagged(5),
    ] {
        expect(&filter, Counter::Redirected, &frame);
    }
    expect(&filter, Counter::Denied, &all(CAROL).tagged(5));
    // A shelf that only one of them has.
    expect(&filter, Counter::NotOurs, &Frame::broadcast(1, 0xff, ALICE));
    expect(
        &filter,
        Counter::Redirected,
        &Frame::broadcast(2, 0xff, BOB).tagged(5),
    );
}

/// What the program does with these tables, in plain words: the interval of the source, if it may ask.
fn tables_say(tables: &Tables, vlan: VlanClass, shelf: u16, slot: u8, source: Mac) -> Option<Option<u32>> {
    let find = |vlan| {
        let target = Target::new(vlan, shelf, slot);
        tables
            .exports
            .iter()
            .find(|(t, _)| *t == target)
            .map(|(_, access)| *access)
    };
    let found: Vec<ExportEntry> = find(vlan).into_iter().chain(find(VlanClass::ANY)).collect();
    if found.is_empty() {
        return None;
    }
    Some(found.into_iter().find_map(|access| {
        if access.list == 0 {
            return Some(access.interval_ns);
        }
        let list = &tables.lists[usize::from(access.list) - 1];
        let own = list.iter().find(|(member, _)| *member == source.to_u64())?.1;
        Some(if own == 0 { access.interval_ns } else { own })
    }))
}

/// The rule: `None` where no export has the address, `Some(false)` where the source may see none that has.
fn rule_says(rules: &Rules, frame_vlan: Vlan, shelf: u16, slot: u8, source: Mac) -> Option<bool> {
    let meant: Vec<_> = rules
        .exports
        .iter()
        .filter(|rule| shelf == 0xffff || rule.shelf == shelf)
        .filter(|rule| slot == 0xff || rule.slot == slot)
        .filter(|rule| rule.vlan == Vlan::Any || rule.vlan == frame_vlan)
        .collect();
    let may_see = |rule: &&ExportRule| match &rule.allow {
        None => true,
        Some(allow) => allow.iter().any(|(mac, _)| *mac == source),
    };
    if meant.is_empty() {
        None
    } else {
        Some(meant.iter().any(may_see))
    }
}

mod property {
    use super::*;
    use proptest::prelude::*;

    fn vlan() -> impl Strategy<Value = Vlan> {
        prop_oneof![
            Just(Vlan::Untagged),
            (1u16..3).prop_map(Vlan::Id),
            Just(Vlan::Any)
        ]
    }

    fn source() -> impl Strategy<Value = Mac> {
        (1u8..6).prop_map(|i| Mac([2, 0, 0, 0, 0, i]))
    }

    fn export() -> impl Strategy<Value = ExportRule> {
        let rate = || prop_oneof![Just(None), (1u32..100_000).prop_map(Some)];
        let allow = prop::collection::vec((source(), rate()), 0..4).prop_map(AllowList::from);
        let allow = prop::option::of(allow);
        (0u16..3, 0u8..3, vlan(), allow, rate()).prop_map(|(shelf, slot, vlan, allow, rate_limit)| {
            ExportRule {
                shelf,
                slot,
                vlan,
                allow,
                rate_limit,
            }
        })
    }

    proptest! {
        #[test]
        fn tables_say_what_the_rules_say(
            exports in prop::collection::vec(export(), 0..8),
            frame_vlan in vlan(),
            shelf in prop_oneof![0u16..4, Just(0xffff)],
            slot in prop_oneof![0u8..4, Just(0xff)],
            source in source(),
        ) {
            let rules = rules(exports);
            // Rules by which two exports answer one frame are refused; that has a test of its own.
            let Ok(tables) = compile(&rules) else { return Ok(()) };
            // A frame has a VLAN or none; Any stands for one with two tags here.
            let class = match frame_vlan {
                Vlan::Untagged => VlanClass::UNTAGGED,
                Vlan::Id(vid) => VlanClass::id(vid),
                Vlan::Any => VlanClass::OTHER,
            };
            let says = tables_say(&tables, class, shelf, slot, source);
            prop_assert_eq!(says.map(|s| s.is_some()), rule_says(&rules, frame_vlan, shelf, slot, source));
            prop_assert_eq!(tables.any_vlan, rules.exports.iter().any(|rule| rule.vlan == Vlan::Any));
        }
    }
}

#[test]
fn two_exports_never_answer_one_frame() {
    let on = |vlan| ExportRule { vlan, ..open(1, 1) };
    for (one, two) in [
        (Vlan::Untagged, Vlan::Untagged),
        (Vlan::Id(5), Vlan::Id(5)),
        (Vlan::Any, Vlan::Any),
        (Vlan::Any, Vlan::Untagged),
        (Vlan::Id(5), Vlan::Any),
    ] {
        let error = compile(&rules([on(one), open(9, 9), on(two)])).unwrap_err();
        assert!(
            matches!(error, FilterError::Overlap { shelf: 1, slot: 1 }),
            "{one:?} {two:?}: {error}"
        );
    }
    for (one, two) in [(Vlan::Untagged, Vlan::Id(5)), (Vlan::Id(5), Vlan::Id(6))] {
        assert!(compile(&rules([on(one), on(two)])).is_ok(), "{one:?} {two:?}");
    }
}

#[test]
fn equal_lists_are_kept_once() {
    let shared: AllowList = (0..1000)
        .map(|i| (Mac::from_u64(0x0200_0000_0000 + i), None))
        .collect();
    let export = |slot, allow| ExportRule {
        allow: Some(allow),
        ..open(1, slot)
    };
    let copy: AllowList = shared.iter().rev().copied().collect();
    let tables = compile(&rules([
        export(1, shared.clone()),
        export(2, shared),
        export(3, copy),
    ]))
    .unwrap();
    assert_eq!(tables.lists.len(), 1);
    assert_eq!(tables.sources(), 1000);
}

#[test]
fn a_wildcard_has_the_best_rate_of_what_it_stands_for() {
    let export = |slot, own: Option<u32>, rate_limit| ExportRule {
        allow: Some([(ALICE, own), (BOB, None)].into()),
        rate_limit,
        ..open(1, slot)
    };
    let tables = compile(&rules([
        export(1, Some(10), Some(100)),
        export(2, None, Some(1000)),
        export(3, None, Some(50)),
    ]))
    .unwrap();
    let interval = |slot, source| {
        tables_say(&tables, VlanClass::UNTAGGED, 1, slot, source)
            .flatten()
            .expect("the source may ask")
    };
    assert_eq!(interval(1, ALICE), interval_ns(10));
    assert_eq!(interval(1, BOB), interval_ns(100));
    assert_eq!(interval(3, ALICE), interval_ns(50));
    assert_eq!(interval(0xff, ALICE), interval_ns(1000));
    assert_eq!(interval(0xff, BOB), interval_ns(1000));
    assert_eq!(
        tables_say(&tables, VlanClass::UNTAGGED, 1, 0xff, CAROL),
        Some(None)
    );
}

#[test]
fn what_was_put_back_for_other_targets_is_passed() {
    let Some(filter) = load(&rules([open(1, 1)])) else {
        return;
    };
    for (shelf, slot) in [(0xffff, 0xff), (1, 0xff), (0xffff, 1)] {
        let frame = Frame::to(shelf, slot, ALICE);
        expect(&filter, Counter::Redirected, &frame);
        let marked = |mark: u64| [frame.bytes(), mark.to_be_bytes().to_vec()].concat();
        let verdict = |mark| run(&filter.ebpf, &marked(mark), 1).0;
        assert_eq!(verdict(filter.mark()), Verdict::Pass);
        for other in [0, filter.mark() ^ 1] {
            assert_eq!(verdict(other), Verdict::Redirect, "a mark that nobody gave");
        }
    }
    // What is for one export is never passed on.
    let marked = [
        Frame::to(1, 1, ALICE).bytes(),
        filter.mark().to_be_bytes().to_vec(),
    ]
    .concat();
    assert_eq!(run(&filter.ebpf, &marked, 1).0, Verdict::Redirect);
}
