//! Addresses, wildcards, VLANs, access lists and advertisements.

use aoe_common::{Access, Vlan};
use std::sync::Arc;

use aoe_common::Mac;

use crate::testing::bench::{
    ONE, OTHER, TARGET, Worker, aoe_error, ata, export, frame_from, options, read, request, write,
};
use crate::testing::completions::MemCompletions;
use crate::testing::store::MemStore;
use crate::{Export, Exports};

pub(super) const QUERY: [u8; 8] = [0; 8];

fn identify() -> Vec<u8> {
    ata(0, 0, 1, 0xec, 0, &[])
}

pub(super) fn several(store: &Arc<MemStore>) -> Vec<Arc<Export<MemCompletions>>> {
    [(1, 1), (1, 2), (2, 1), (65534, 254)]
        .map(|(shelf, slot)| export(options(shelf, slot), store))
        .into()
}

/// Shelf and slot of each reply.
pub(super) fn who(replies: &[Vec<u8>]) -> Vec<(u16, u8)> {
    replies
        .iter()
        .map(|reply| (u16::from_be_bytes([reply[16], reply[17]]), reply[18]))
        .collect()
}

#[test]
fn wildcards_match_each_field() {
    let mut worker = Worker::new(several(&MemStore::new(64)));
    for (shelf, slot, wanted) in [
        (0xffff, 0xff, vec![(1, 1), (1, 2), (2, 1), (65534, 254)]),
        (1, 0xff, vec![(1, 1), (1, 2)]),
        (0xffff, 1, vec![(1, 1), (2, 1)]),
        (2, 1, vec![(2, 1)]),
        (3, 0xff, vec![]),
        (65534, 254, vec![(65534, 254)]),
    ] {
        for to in [Mac::BROADCAST, TARGET] {
            let replies = worker.ask(&frame_from(ONE, to, shelf, slot, 1, 9, &QUERY));
            assert_eq!(who(&replies), wanted);
            for reply in replies {
                assert_eq!(
                    (&reply[..6], &reply[6..12]),
                    (&ONE.0[..], &TARGET.0[..]),
                    "unicast, from the port"
                );
                assert_eq!((reply.len(), &reply[20..24]), (60, &[0, 0, 0, 9][..]));
            }
            let identified = worker.ask(&frame_from(ONE, to, shelf, slot, 0, 9, &identify()));
            assert_eq!(who(&identified), wanted, "WinAoE discovers by IDENTIFY");
            assert!(identified.iter().all(|reply| reply.len() == 548));
        }
    }
}

#[test]
fn everything_else_to_everyone_changes_nothing() {
    let store = MemStore::new(64);
    let mut worker = Worker::new(several(&store));
    let before = store.inner.lock().image.clone();
    let arguments: &[(u8, Vec<u8>)] = &[
        (0, write(0, 1, 9)),
        (0, read(0, 1)),
        (0, ata(0, 0, 0, 0xe7, 0, &[])),
        (0, ata(0, 0, 2, 0xec, 0, &[])),
        (0, ata(1, 0, 1, 0xec, 0, &[])),
        (0, vec![]),
        (1, vec![0, 0, 0, 0, 0, 3, 0, 1, b'x']),
        (1, vec![0, 0, 0, 0, 0, 4, 0, 1, b'x']),
        (1, vec![0, 0, 0, 0, 0, 9, 0, 0]),
        (1, vec![0, 0, 0, 0, 0, 1, 4, 1]),
        (1, vec![0; 7]),
        (2, vec![0, 1, 0, 1, 0, 1, 2, 0, 0, 0, 0, 9]),
        (3, vec![2, 1, 2, 0, 0, 0, 0, 9]),
        (5, vec![]),
        (0xf1, vec![0; 36]),
    ];
    for (command, argument) in arguments {
        for (to, shelf, slot) in [
            (Mac::BROADCAST, 1, 1),
            (Mac::BROADCAST, 0xffff, 0xff),
            (TARGET, 0xffff, 1),
        ] {
            // aoecfg sets strings this way: see the next test.
            let changes_string = *command == 1 && matches!(argument.get(5), Some(3 | 4));
            if changes_string && shelf == 1 && slot == 1 {
                continue;
            }
            let replies = worker.ask(&frame_from(ONE, to, shelf, slot, *command, 1, argument));
            assert!(replies.is_empty(), "command {command} {argument:x?}");
        }
    }
    let mut version_2 = frame_from(ONE, TARGET, 0xffff, 0xff, 1, 1, &QUERY);
    version_2[14] = 0x20;
    assert!(worker.ask(&version_2).is_empty());
    assert_eq!(store.inner.lock().image, before);
    for export in worker.session.exports().iter() {
        assert_eq!(export.persistent(), Default::default());
    }
}

#[test]
fn a_string_is_set_by_the_broadcast_mac_and_an_exact_address() {
    let mut worker = Worker::new(several(&MemStore::new(64)));
    let set = |subcommand, byte| vec![0, 0, 0, 0, 0, subcommand, 0, 1, byte];
    for (subcommand, byte, flags) in [(3, b'x', 0x18), (3, b'y', 0x1c), (4, b'y', 0x18)] {
        let frame = frame_from(ONE, Mac::BROADCAST, 1, 1, 1, 1, &set(subcommand, byte));
        let replies = worker.ask(&frame);
        assert_eq!(replies.len(), 1, "subcommand {subcommand}");
        assert_eq!(replies[0][14], flags, "subcommand {subcommand}");
    }
    let changed = worker
        .session
        .exports()
        .iter()
        .filter(|export| !export.persistent().string.is_empty())
        .count();
    assert_eq!(changed, 1, "the string of one export, and of no other");
}

#[test]
fn addresses_that_are_not_ours_are_silent() {
    let mut worker = Worker::new(vec![export(options(7, 3), &MemStore::new(64))]);
    let mut silent = |source, to, slot| {
        worker
            .ask(&frame_from(source, to, 7, slot, 1, 1, &QUERY))
            .is_empty()
    };
    assert!(!silent(ONE, TARGET, 3));
    assert!(
        silent(ONE, OTHER, 3),
        "to someone else, as a promiscuous port hears"
    );
    assert!(silent(ONE, Mac([1, 0, 0, 0, 0, 0]), 3), "to a group");
    assert!(silent(Mac::ZERO, TARGET, 3));
    assert!(silent(Mac([3, 0, 0, 0, 0, 1]), TARGET, 3), "from a group");
    assert!(silent(TARGET, TARGET, 3), "from ourselves");
    assert!(silent(ONE, TARGET, 4));
    let counters = worker.session.counters().totals();
    assert_eq!(counters.silent_destination, 2);
    assert_eq!(counters.silent_source, 3);
    assert_eq!(counters.silent_no_export, 1);
    assert_eq!(counters.replies, 1);
}

fn tagged(tags: &[u8], frame: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

#[test]
fn vlans_are_kept_apart() {
    let store = MemStore::new(64);
    let with = |slot, vlan| {
        let mut options = options(7, slot);
        options.vlan = vlan;
        export(options, &store)
    };
    let mut worker = Worker::new(vec![
        with(1, Vlan::Untagged),
        with(1, Vlan::Id(5)), // the same address, another network
        with(2, Vlan::Id(5)),
        with(3, Vlan::Any),
    ]);
    let five = [0x81, 0x00, 0x70, 0x05]; // PCP 3, DEI set
    let priority = [0x81, 0x00, 0xe0, 0x00];
    let service = [0x88, 0xa8, 0x00, 0x05];
    let double = [0x88, 0xa8, 0x00, 0x09, 0x81, 0x00, 0x00, 0x05];
    for (tags, wanted) in [
        (&[][..], vec![1, 3]),
        (&five[..], vec![1, 2, 3]),
        (&priority[..], vec![1, 3]),
        (&[0x81, 0x00, 0x00, 0x06][..], vec![3]),
        (&service[..], vec![3]),
        (&double[..], vec![3]),
    ] {
        let query = tagged(tags, &frame_from(ONE, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &QUERY));
        let replies = worker.ask(&query);
        let mut expected = tags.to_vec();
        if tags == five {
            expected[2] = 0x60; // VID and PCP as they came, DEI cleared
        }
        let slots: Vec<u8> = replies.iter().map(|reply| reply[18 + tags.len()]).collect();
        assert_eq!(slots, wanted, "{tags:x?}");
        for reply in &replies {
            assert_eq!(
                (reply.len(), &reply[12..12 + tags.len()]),
                (60 + tags.len(), &expected[..])
            );
        }
        let read = tagged(tags, &frame_from(ONE, TARGET, 7, 3, 0, 1, &read(5, 1)));
        assert_eq!(worker.ask(&read)[0].len(), 548 + tags.len());
    }
    let three = [five, five, five].concat();
    assert!(
        worker
            .ask(&tagged(&three, &frame_from(ONE, TARGET, 7, 3, 1, 1, &QUERY)))
            .is_empty()
    );
}

#[test]
fn strangers_hear_nothing() {
    let store = MemStore::new(64);
    let mut listed = options(7, 3);
    listed.access = [(OTHER, Access::ReadWrite)].into();
    let mut worker = Worker::new(vec![export(listed, &store)]);
    let mut version_2 = request(1, &QUERY);
    version_2[14] = 0x20;
    for frame in [
        request(1, &QUERY),
        request(0, &identify()),
        request(9, &[]),
        version_2,
    ] {
        assert!(worker.ask(&frame).is_empty());
    }
    assert!(
        worker
            .ask(&frame_from(ONE, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &QUERY))
            .is_empty()
    );
    assert_eq!(
        worker
            .ask(&frame_from(OTHER, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &QUERY))
            .len(),
        1
    );
}

#[test]
fn the_static_list_wins_over_the_mask() {
    let store = MemStore::new(64);
    let mut listed = options(7, 3);
    listed.access = [(OTHER, Access::ReadWrite), (ONE, Access::ReadWrite)].into();
    let export = export(listed, &store);
    let mut worker = Worker::new(vec![export.clone()]);
    let stranger = Mac([2, 0, 0, 0, 0, 0x77]);
    let add = [&[0, 1, 0, 1, 0, 1][..], &stranger.0].concat();
    assert_eq!(aoe_error(&worker.answer(&request(2, &add))), 0);
    assert_eq!(export.persistent().mask, [stranger]);
    assert_eq!(
        worker.ask(&request(1, &QUERY)).len(),
        1,
        "members cannot be locked out"
    );
    assert!(
        worker
            .ask(&frame_from(stranger, TARGET, 7, 3, 1, 1, &QUERY))
            .is_empty(),
        "nor strangers let in"
    );
    assert_eq!(export.visible_to(), Some(vec![ONE, OTHER]));
}

#[test]
fn a_wildcard_flood_is_answered_sparingly() {
    let mut worker = Worker::new(several(&MemStore::new(64)));
    let query = frame_from(ONE, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &QUERY);
    let answers: usize = (0..1000).map(|_| worker.ask(&query).len()).sum();
    assert_eq!(answers, 64);
    worker.now_us += 1_000_000;
    let answers: usize = (0..1000).map(|_| worker.ask(&query).len()).sum();
    assert_eq!(answers, 32);
    assert_eq!(
        worker
            .ask(&frame_from(OTHER, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &QUERY))
            .len(),
        4
    );
    assert_eq!(
        worker.ask(&frame_from(ONE, TARGET, 1, 1, 1, 1, &QUERY)).len(),
        1,
        "exact addresses are not limited"
    );
}

/// However many sources ask, and even if all of them are made up, who is new learns of everything: from advertisements.
#[test]
fn what_a_flood_keeps_from_being_answered_is_advertised() {
    let mut worker = Worker::new(several(&MemStore::new(64)));
    let mut ask = |n: u64, now_us: u64| {
        worker.now_us = now_us;
        let source = Mac::from_u64(0x0200_0000_0000 | n);
        let query = frame_from(source, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &QUERY);
        let answers = worker.ask(&query).len();
        let due = worker.session.has_to_advertise();
        worker.session.tick(&mut worker.link, &worker.port, worker.now_us);
        (answers, due, worker.sent())
    };
    let flood: Vec<_> = (0..2000).map(|n| ask(n, 10)).collect();
    assert_eq!(flood.iter().map(|(answers, ..)| answers).sum::<usize>(), 512);
    let advertised: Vec<_> = flood.iter().filter(|(_, due, _)| *due).collect();
    assert_eq!(advertised.len(), 1);
    let frames = &advertised[0].2;
    assert_eq!(who(frames), [(1, 1), (1, 2), (2, 1), (65534, 254)]);
    assert!(
        frames
            .iter()
            .all(|frame| frame[..6] == [0xff; 6] && frame[20..24] == [0; 4])
    );
    let later = (0..2000).map(|n| ask(n, 2_000_010)).filter(|(_, due, _)| *due);
    assert_eq!(later.count(), 1);
}

#[test]
fn four_thousand_exports_are_all_found() {
    let store = MemStore::new(8);
    let exports = (0..4096u16)
        .map(|n| export(options(n / 16, (n % 16) as u8), &store))
        .collect();
    let mut worker = Worker::new(exports);
    for n in [0u16, 1, 17, 4095] {
        let replies = worker.ask(&frame_from(ONE, TARGET, n / 16, (n % 16) as u8, 1, 1, &QUERY));
        assert_eq!(who(&replies), [(n / 16, (n % 16) as u8)]);
    }
    assert_eq!(
        worker
            .ask(&frame_from(ONE, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &QUERY))
            .len(),
        4096
    );
}

#[test]
fn reload_serves_other_exports() {
    let store = MemStore::new(64);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    worker
        .session
        .set_exports(Arc::new(Exports::new(vec![export(options(7, 4), &store)])));
    assert!(worker.ask(&request(1, &QUERY)).is_empty());
    assert_eq!(worker.ask(&frame_from(ONE, TARGET, 7, 4, 1, 1, &QUERY)).len(), 1);
}
