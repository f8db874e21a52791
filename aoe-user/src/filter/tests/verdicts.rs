//! The verdict table, row by row.

use super::*;

fn filter() -> Option<Loaded> {
    load(&rules([open(1, 1), listed(1, 2, &[ALICE])]))
}

#[test]
fn ordinary_traffic_passes() {
    let Some(filter) = filter() else { return };
    for ether_type in [0x0800, 0x0806, 0x86dd, 0x88a3, 0xa288] {
        expect(
            &filter,
            Counter::Foreign,
            &Frame {
                ether_type,
                ..Frame::to(1, 1, ALICE)
            },
        );
        expect(
            &filter,
            Counter::Foreign,
            &Frame {
                ether_type,
                ..Frame::to(1, 1, ALICE).tagged(5)
            },
        );
    }
    // Three tags, and a tag that is cut off: not for us to judge.
    let three = Frame::to(1, 1, ALICE).tagged(1).tagged(2).tagged(3);
    expect(&filter, Counter::Foreign, &three);
    expect(
        &filter,
        Counter::Foreign,
        &Frame {
            cut: Some(16),
            ..Frame::to(1, 1, ALICE).tagged(5)
        },
    );
}

#[test]
fn responses_pass_whoever_sends_them() {
    let Some(filter) = filter() else { return };
    for ver_flags in [0x18, 0x1c, 0x08, 0xf8] {
        expect(
            &filter,
            Counter::Response,
            &Frame {
                ver_flags,
                ..Frame::to(1, 1, ALICE)
            },
        );
        expect(
            &filter,
            Counter::Response,
            &Frame {
                ver_flags,
                ..Frame::broadcast(0xffff, 0xff, BOB)
            },
        );
        expect(
            &filter,
            Counter::Response,
            &Frame {
                ver_flags,
                ..Frame::to(1, 2, BOB)
            },
        );
    }
}

#[test]
fn addresses_of_others_pass() {
    let Some(filter) = filter() else { return };
    for (shelf, slot) in [(1, 3), (2, 1), (2, 0xff), (0xffff, 3), (0x0101, 1), (0, 1)] {
        expect(&filter, Counter::NotOurs, &Frame::to(shelf, slot, ALICE));
        expect(&filter, Counter::NotOurs, &Frame::broadcast(shelf, slot, BOB));
        // Whatever else is wrong with them is theirs to judge.
        expect(
            &filter,
            Counter::NotOurs,
            &Frame {
                ver_flags: 0x20,
                ..Frame::to(shelf, slot, Mac::ZERO)
            },
        );
    }
    expect(&filter, Counter::NotOurs, &Frame::to(1, 1, ALICE).tagged(5));
}

#[test]
fn runts_are_dropped() {
    let Some(filter) = filter() else { return };
    for cut in 14..24 {
        expect(
            &filter,
            Counter::Runt,
            &Frame {
                cut: Some(cut),
                ..Frame::to(1, 1, ALICE)
            },
        );
    }
    expect(
        &filter,
        Counter::Redirected,
        &Frame {
            cut: Some(24),
            ..Frame::to(1, 1, ALICE)
        },
    );
    expect(
        &filter,
        Counter::Runt,
        &Frame {
            cut: Some(27),
            ..Frame::to(1, 1, ALICE).tagged(0)
        },
    );
    expect(
        &filter,
        Counter::Redirected,
        &Frame {
            cut: Some(28),
            ..Frame::to(1, 1, ALICE).tagged(0)
        },
    );
}

#[test]
fn another_version_is_answered_only_where_one_export_is_asked() {
    let Some(filter) = filter() else { return };
    for ver_flags in [0x00, 0x20, 0xf0, 0x24] {
        let version = |frame: Frame| Frame { ver_flags, ..frame };
        expect(&filter, Counter::Redirected, &version(Frame::to(1, 1, BOB)));
        expect(&filter, Counter::Denied, &version(Frame::to(1, 2, BOB)));
        for (shelf, slot) in [(1, 0xff), (0xffff, 1), (0xffff, 0xff)] {
            expect(
                &filter,
                Counter::BadVersion,
                &version(Frame::to(shelf, slot, BOB)),
            );
        }
        expect(
            &filter,
            Counter::BadVersion,
            &version(Frame::broadcast(1, 1, BOB)),
        );
    }
    // Reserved bits and a stray error flag are no version.
    expect(
        &filter,
        Counter::Redirected,
        &Frame {
            ver_flags: 0x17,
            ..Frame::to(1, 1, BOB)
        },
    );
}

#[test]
fn impossible_sources_are_dropped() {
    let Some(filter) = filter() else { return };
    for source in [
        Mac::ZERO,
        Mac::BROADCAST,
        Mac([1, 0, 0x5e, 0, 0, 1]),
        Mac([3, 0, 0, 0, 0, 1]),
        PORT,
    ] {
        expect(&filter, Counter::BadSource, &Frame::to(1, 1, source));
        expect(
            &filter,
            Counter::BadSource,
            &Frame::broadcast(0xffff, 0xff, source),
        );
    }
}

#[test]
fn only_frames_to_the_port_or_to_everyone_are_taken() {
    let Some(mut filter) = filter() else { return };
    let to = |destination| Frame {
        destination,
        ..Frame::to(1, 1, ALICE)
    };
    for other in [
        BOB,
        Mac::ZERO,
        Mac([1, 0, 0x5e, 0, 0, 1]),
        Mac([0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
    ] {
        expect(&filter, Counter::OtherDestination, &to(other));
    }
    expect(&filter, Counter::Redirected, &to(PORT));
    expect(&filter, Counter::Redirected, &to(Mac::BROADCAST));

    // A port's address can change.
    filter.set_mac(BOB).unwrap();
    expect(&filter, Counter::OtherDestination, &to(PORT));
    expect(&filter, Counter::Redirected, &to(BOB));
    expect(
        &filter,
        Counter::BadSource,
        &Frame {
            source: BOB,
            ..to(BOB)
        },
    );
}

#[test]
fn lists_decide_who_may_ask() {
    let Some(mut filter) = filter() else { return };
    expect(&filter, Counter::Redirected, &Frame::to(1, 2, ALICE));
    expect(&filter, Counter::Denied, &Frame::to(1, 2, BOB));
    expect(&filter, Counter::Denied, &Frame::broadcast(1, 2, BOB));
    expect(&filter, Counter::Denied, &Frame::to(1, 2, CAROL));
    expect(&filter, Counter::Denied, &Frame::to(1, 2, CAROL));

    let mut denied = filter.denied().unwrap();
    denied.sort_by_key(|denied| denied.source);
    let denied: Vec<_> = denied
        .iter()
        .map(|d| (d.source, d.shelf, d.slot, d.frames))
        .collect();
    assert_eq!(denied, [(BOB, 1, 2, 2), (CAROL, 1, 2, 2)]);
    assert_eq!(filter.denied().unwrap(), [], "a report is given once");

    // An empty list is nobody's.
    filter.set_rules(&rules([listed(1, 2, &[])])).unwrap();
    expect(&filter, Counter::Denied, &Frame::to(1, 2, ALICE));
}

#[test]
fn reports_of_the_denied_are_bounded() {
    let Some(mut filter) = filter() else { return };
    let stranger = |i: u64| Mac::from_u64(0x0200_0001_0000 + i);
    for i in 0..1500 {
        expect(&filter, Counter::Denied, &Frame::to(1, 2, stranger(i)));
    }
    let denied = filter.denied().unwrap();
    assert_eq!(denied.len(), 1024);
    assert_eq!(filter.counters().unwrap()[Counter::Denied], 1500);
    // Emptying it makes room: the same stranger is reported again before long.
    for _ in 0..64 * cpus() {
        expect(&filter, Counter::Denied, &Frame::to(1, 2, stranger(2000)));
    }
    let denied = filter.denied().unwrap();
    assert_eq!(
        denied.iter().map(|d| d.source).collect::<Vec<_>>(),
        [stranger(2000)]
    );
}

/// CPUs that a test may run on: each counts by itself.
fn cpus() -> u32 {
    std::thread::available_parallelism().unwrap().get() as u32
}

#[test]
fn without_a_socket_frames_are_counted_and_dropped() {
    let Some(mut filter) = filter() else { return };
    expect(&filter, Counter::Redirected, &Frame::to(1, 1, ALICE));
    filter.clear_socket(0).unwrap();
    filter.clear_socket(0).unwrap();
    expect(&filter, Counter::NoSocket, &Frame::to(1, 1, ALICE));
    let socket = filter.socket.try_clone().unwrap();
    filter.set_socket(0, socket.as_fd()).unwrap();
    expect(&filter, Counter::Redirected, &Frame::to(1, 1, ALICE));
    filter.clear_socket(1023).unwrap();
    assert!(filter.clear_socket(1024).is_err());
}

#[test]
fn tags_keep_exports_apart() {
    let on = |vlan, slot| ExportRule {
        vlan,
        ..open(1, slot)
    };
    let Some(filter) = load(&rules([
        on(Vlan::Untagged, 1),
        ExportRule {
            vlan: Vlan::Id(5),
            ..listed(1, 1, &[ALICE])
        },
        ExportRule {
            vlan: Vlan::Id(6),
            ..listed(1, 1, &[BOB])
        },
        on(Vlan::Any, 2),
    ])) else {
        return;
    };
    let one = Frame::to(1, 1, BOB);
    expect(&filter, Counter::Redirected, &one);
    // Priority tags are no VLAN; priority and drop-eligible bits don't matter in one.
    expect(&filter, Counter::Redirected, &one.clone().tagged(0));
    expect(&filter, Counter::Redirected, &one.clone().tagged(0xf000));
    expect(&filter, Counter::Denied, &one.clone().tagged(5));
    expect(&filter, Counter::Redirected, &one.clone().tagged(6));
    expect(&filter, Counter::Redirected, &one.clone().tagged(0xf006));
    expect(&filter, Counter::Redirected, &Frame::to(1, 1, ALICE).tagged(5));
    expect(&filter, Counter::Denied, &Frame::to(1, 1, ALICE).tagged(6));
    for vid in [1, 7, 4094, 4095] {
        expect(&filter, Counter::NotOurs, &one.clone().tagged(vid));
    }
    // Two tags, or a service tag, are no VLAN of ours.
    expect(&filter, Counter::NotOurs, &one.clone().tagged(6).tagged(6));
    expect(&filter, Counter::NotOurs, &one.clone().tagged(0).tagged(6));
    expect(
        &filter,
        Counter::NotOurs,
        &Frame {
            tags: vec![(0x88a8, 6)],
            ..one.clone()
        },
    );
    expect(
        &filter,
        Counter::NotOurs,
        &Frame {
            tags: vec![(0x88a8, 0)],
            ..one.clone()
        },
    );
    // But an export for any frame takes them.
    let two = Frame::to(1, 2, CAROL);
    expect(&filter, Counter::Redirected, &two);
    for tci in [0, 5, 4094, 4095] {
        expect(&filter, Counter::Redirected, &two.clone().tagged(tci));
        expect(&filter, Counter::Redirected, &two.clone().tagged(9).tagged(tci));
        expect(
            &filter,
            Counter::Redirected,
            &Frame {
                tags: vec![(0x88a8, tci)],
                ..two.clone()
            },
        );
    }
}

#[test]
fn jumbo_frames_are_judged_like_others() {
    let Some(filter) = filter() else { return };
    for cut in [1514, 4096, 9014] {
        expect(
            &filter,
            Counter::Redirected,
            &Frame {
                cut: Some(cut),
                ..Frame::to(1, 2, ALICE)
            },
        );
        expect(
            &filter,
            Counter::Denied,
            &Frame {
                cut: Some(cut),
                ..Frame::to(1, 2, BOB)
            },
        );
    }
}

#[test]
fn frames_to_the_address_of_a_failover_group_are_taken_while_the_rules_name_it() {
    let Some(mut filter) = filter() else { return };
    let to_group = Frame {
        destination: BOB,
        ..Frame::to(1, 1, ALICE)
    };
    let before = rules([open(1, 1)]);
    let mut with = before.clone();
    with.stations.insert(BOB);
    expect(&filter, Counter::OtherDestination, &to_group);
    filter.set_rules(&with).unwrap();
    expect(&filter, Counter::Redirected, &to_group);
    expect(&filter, Counter::Redirected, &Frame::to(1, 1, ALICE));
    // A list of addresses to be sent to lets nobody in that another list keeps out.
    let mut closed = rules([listed(1, 1, &[ALICE])]);
    closed.stations.insert(BOB);
    filter.set_rules(&closed).unwrap();
    expect(&filter, Counter::Redirected, &to_group);
    let stranger = Frame {
        source: BOB,
        ..to_group.clone()
    };
    expect(&filter, Counter::Denied, &stranger);
    filter.set_rules(&before).unwrap();
    expect(&filter, Counter::OtherDestination, &to_group);
}
