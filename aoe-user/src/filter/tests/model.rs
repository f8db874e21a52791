//! The program against the verdict table written down once more, over random rules and frames.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// The verdict table of the design, row by row, for a frame of bytes. Rate limits and sockets aside.
fn table(rules: &Rules, frame: &[u8]) -> Counter {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let mut tags = Vec::new();
    let mut at = 12;
    let ether_type = loop {
        match word(at) {
            Some(tag @ (0x8100 | 0x88a8)) if tags.len() < 2 => {
                let Some(tci) = word(at + 2) else {
                    return Counter::Foreign;
                };
                tags.push((tag, tci & 0xfff));
                at += 4;
            }
            Some(ether_type) => break ether_type,
            None => return Counter::Foreign,
        }
    };
    if ether_type != 0x88a2 {
        return Counter::Foreign;
    }
    let Some(aoe) = frame.get(at + 2..at + 12) else {
        return Counter::Runt;
    };
    if aoe[0] & 8 != 0 {
        return Counter::Response;
    }
    let shelf = u16::from_be_bytes([aoe[2], aoe[3]]);
    let slot = aoe[4];
    let on_vlan = |vlan| match (vlan, tags.as_slice()) {
        (Vlan::Any, _) => true,
        (Vlan::Untagged, [] | [(0x8100, 0)]) => true,
        (Vlan::Id(id), [(0x8100, vid)]) => id == *vid,
        _ => false,
    };
    let meant: Vec<&ExportRule> = rules
        .exports
        .iter()
        .filter(|rule| on_vlan(rule.vlan))
        .filter(|rule| [rule.shelf, 0xffff].contains(&shelf) && [rule.slot, 0xff].contains(&slot))
        .collect();
    if meant.is_empty() {
        return Counter::NotOurs;
    }
    let wildcard = shelf == 0xffff || slot == 0xff;
    let (destination, source) = (&frame[..6], &frame[6..12]);
    if aoe[0] >> 4 != 1 && (wildcard || destination == [0xff; 6]) {
        return Counter::BadVersion;
    }
    if source[0] & 1 == 1 || source == [0; 6] || source == PORT.0 {
        return Counter::BadSource;
    }
    if destination != PORT.0 && destination != [0xff; 6] {
        return Counter::OtherDestination;
    }
    let sees = |rule: &&&ExportRule| match &rule.allow {
        None => true,
        Some(allow) => allow.iter().any(|(mac, _)| mac.0 == source),
    };
    if meant.iter().find(sees).is_some() {
        Counter::Redirected
    } else {
        Counter::Denied
    }
}

fn source() -> impl Strategy<Value = Mac> {
    prop_oneof![
        12 => (1u8..5).prop_map(|i| Mac([2, 0, 0, 0, 0, i])),
        1 => prop::sample::select(vec![PORT, Mac::BROADCAST, Mac::ZERO]),
        1 => any::<[u8; 6]>().prop_map(Mac),
    ]
}

fn destination() -> impl Strategy<Value = Mac> {
    prop_oneof![
        12 => prop::sample::select(vec![PORT, Mac::BROADCAST]),
        1 => any::<[u8; 6]>().prop_map(Mac),
    ]
}

fn number<T: Copy + std::fmt::Debug + 'static>(small: [T; 3], wildcard: T) -> impl Strategy<Value = T> {
    prop_oneof![6 => prop::sample::select(small.to_vec()), 1 => Just(wildcard)]
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let tag = (
        prop_oneof![6 => Just(0x8100u16), 1 => Just(0x88a8)],
        (0u16..8, 0u16..4),
    );
    let tag = tag.prop_map(|(ether_type, (pcp, vid))| (ether_type, pcp << 13 | vid));
    let tags = prop_oneof![
        4 => Just(vec![]),
        4 => prop::collection::vec(tag.clone(), 1),
        1 => prop::collection::vec(tag, 2..4),
    ];
    let ver_flags = prop_oneof![8 => Just(0x10u8), 1 => Just(0x20), 1 => Just(0x18), 1 => any::<u8>()];
    let ether_type = prop_oneof![20 => Just(0x88a2u16), 1 => any::<u16>()];
    let cut = prop_oneof![3 => Just(None), 1 => (14usize..80).prop_map(Some)];
    let address = (number([0, 1, 2], 0xffff), number([0, 1, 2], 0xff));
    (destination(), source(), tags, ether_type, ver_flags, address, cut).prop_map(
        |(destination, source, tags, ether_type, ver_flags, (shelf, slot), cut)| {
            Frame {
                destination,
                source,
                tags,
                ether_type,
                ver_flags,
                shelf,
                slot,
                cut,
            }
            .bytes()
        },
    )
}

fn some_rules() -> impl Strategy<Value = Rules> {
    let vlan = prop_oneof![
        Just(Vlan::Untagged),
        (1u16..4).prop_map(Vlan::Id),
        Just(Vlan::Any)
    ];
    let source = (1u8..5).prop_map(|i| (Mac([2, 0, 0, 0, 0, i]), None));
    let allow = prop::option::of(prop::collection::vec(source, 0..3).prop_map(AllowList::from));
    let export = (0u16..3, 0u8..3, vlan, allow).prop_map(|(shelf, slot, vlan, allow)| ExportRule {
        vlan,
        allow,
        ..open(shelf, slot)
    });
    prop::collection::vec(export, 0..10).prop_map(|exports| {
        // Keep what is allowed: no two exports that answer one frame.
        let mut kept: Vec<ExportRule> = Vec::new();
        for rule in exports {
            let meets = |other: &ExportRule| {
                (other.shelf, other.slot) == (rule.shelf, rule.slot)
                    && (other.vlan == rule.vlan || other.vlan == Vlan::Any || rule.vlan == Vlan::Any)
            };
            if !kept.iter().any(meets) {
                kept.push(rule);
            }
        }
        rules(kept)
    })
}

#[test]
fn the_program_follows_the_table() {
    let Some(loaded) = load(&rules([])) else { return };
    let loaded = std::cell::RefCell::new(loaded);
    let seen = std::cell::RefCell::new(std::collections::HashMap::<Counter, u32>::new());
    let mut runner = TestRunner::new(Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(
        &(some_rules(), prop::collection::vec(frame(), 100)),
        |(rules, frames)| {
            let mut filter = loaded.borrow_mut();
            filter.set_rules(&rules).unwrap();
            for frame in frames {
                let row = table(&rules, &frame);
                let before = filter.counters().unwrap();
                let (verdict, _) = run(&filter.ebpf, &frame, 1);
                let after = filter.counters().unwrap();
                prop_assert_eq!(verdict, row.verdict(), "{:?}: {:02x?}", row, frame);
                prop_assert_eq!(after[row], before[row] + 1, "{:?}: {:02x?}", row, frame);
                *seen.borrow_mut().entry(row).or_default() += 1;
            }
            Ok(())
        },
    );
    if let Err(error) = result {
        panic!("{error}");
    }
    // A model that is never asked proves nothing.
    let seen = seen.into_inner();
    println!("{seen:?}");
    for row in Counter::ALL {
        let out_of_reach = matches!(row, Counter::NoSocket | Counter::RateLimited);
        assert!(
            out_of_reach || seen.contains_key(&row),
            "{row:?} was never met: {seen:?}"
        );
    }
}
