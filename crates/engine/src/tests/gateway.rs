//! An export under the address of its failover group.

use aoe_common::wire::{aoe, error, eth};
use aoe_common::{Access, Mac};

use crate::testing::bench::{ONE, OTHER, TARGET, Worker, ata, export, frame_from, options};
use crate::testing::store::{MemStore, StoreMode};
use crate::{AccessList, Gateway, Options};

const GROUP: Mac = Mac([2, 0x78, 0x62, 0, 0, 1]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 0xbb]);

const STANDING: &str = "since yesterday";
/// Where the length of the config string is in a frame.
const CONFIG_LENGTH: usize = 30;

fn grouped(allow: &[(Mac, Access)]) -> Options {
    Options {
        gateway: Some(Gateway {
            mac: GROUP,
            peers: [PEER].into(),
            standing: STANDING.into(),
        }),
        access: AccessList::new(allow.iter().copied()),
        ..options(7, 3)
    }
}

/// The argument of Query Config.
fn query(subcommand: u8, string: &[u8]) -> Vec<u8> {
    let length = u8::try_from(string.len()).unwrap();
    [&[0, 0, 0, 0, 0, subcommand, 0, length], string].concat()
}

fn worker(options: Options) -> Worker {
    Worker::new(vec![export(options, &MemStore::new(64))])
}

#[test]
fn it_is_asked_and_answers_by_the_address_of_the_group_alone() {
    let mut worker = worker(grouped(&[]));
    let to = |mac| frame_from(ONE, mac, 7, 3, 1, 1, &query(0, b""));
    let answer = worker.ask(&to(GROUP));
    assert_eq!(answer.len(), 1);
    assert_eq!((&answer[0][..6], &answer[0][6..12]), (&ONE.0[..], &GROUP.0[..]));
    assert!(
        worker.ask(&to(TARGET)).is_empty(),
        "the port's own address is not the export's"
    );
    assert_eq!(worker.session.counters().silent_destination.get(), 1);
    for everybody in [
        to(Mac::BROADCAST),
        frame_from(ONE, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &query(0, b"")),
    ] {
        assert_eq!(worker.ask(&everybody)[0][6..12], GROUP.0);
    }
    // Its own frames, come back.
    assert!(
        worker
            .ask(&frame_from(GROUP, GROUP, 7, 3, 1, 1, &query(0, b"")))
            .is_empty()
    );
    // One in no group is asked by the port's address alone.
    let mut plain = Worker::new(vec![export(options(7, 3), &MemStore::new(64))]);
    assert!(plain.ask(&to(GROUP)).is_empty());
    assert_eq!(plain.ask(&to(TARGET)).len(), 1);
}

#[test]
fn advertisements_come_from_the_group() {
    let export = export(grouped(&[]), &MemStore::new(64));
    let mut worker = Worker::new(vec![export.clone()]);
    worker
        .session
        .advertise(&mut worker.link, &worker.port, &[export], worker.now_us);
    assert_eq!(worker.sent()[0][6..12], GROUP.0);
}

#[test]
fn another_gateway_may_ask_whether_it_answers_and_nothing_else() {
    let mut worker = worker(grouped(&[(ONE, Access::ReadWrite)]));
    let from = |mac, command, argument: &[u8]| frame_from(mac, GROUP, 7, 3, command, 1, argument);
    assert_eq!(worker.ask(&from(PEER, 1, &query(0, b""))).len(), 1);
    assert!(
        worker.ask(&from(OTHER, 1, &query(0, b""))).is_empty(),
        "a stranger"
    );
    assert!(
        worker.ask(&from(PEER, 1, &query(3, b"x"))).is_empty(),
        "the string is not changed"
    );
    let identify = ata(0, 0, 1, 0xec, 0, &[]);
    assert!(worker.ask(&from(PEER, 0, &identify)).is_empty());
    let everybody = frame_from(PEER, Mac::BROADCAST, 7, 3, 1, 1, &query(0, b""));
    assert!(worker.ask(&everybody).is_empty());
}

#[test]
fn another_gateway_alone_is_told_that_the_storage_is_not_heard() {
    const FLAGS: usize = eth::HEADER_LEN + aoe::VER_FLAGS;
    const ERROR: usize = eth::HEADER_LEN + aoe::ERROR;
    let store = MemStore::new(64);
    let mut worker = Worker::new(vec![export(grouped(&[]), &store)]);
    let from = |mac, to, subcommand| frame_from(mac, to, 7, 3, 1, 1, &query(subcommand, b""));
    store.lose_storage();
    let told = worker.ask(&from(PEER, GROUP, 0));
    assert_eq!(told.len(), 1);
    // From the port's own address: no switch is to look for the group's here.
    assert_eq!((&told[0][..6], &told[0][6..12]), (&PEER.0[..], &TARGET.0[..]));
    assert_eq!(told[0][FLAGS] & (aoe::FLAG_RESPONSE | aoe::FLAG_ERROR), 0x0c);
    assert_eq!(told[0][ERROR], error::UNAVAILABLE);
    for silent in [
        from(ONE, GROUP, 0),
        from(ONE, Mac::BROADCAST, 0),
        from(PEER, Mac::BROADCAST, 0),
        from(PEER, TARGET, 0),
        from(PEER, GROUP, 1),
        frame_from(PEER, GROUP, 7, 3, 0, 1, &ata(0, 0, 1, 0xec, 0, &[])),
    ] {
        assert!(worker.ask(&silent).is_empty(), "{silent:02x?}");
    }
    // Whose place another one has taken says nothing at all.
    store.fence();
    assert!(worker.ask(&from(PEER, GROUP, 0)).is_empty());
}

#[test]
fn a_gateway_that_is_paused_says_to_others_that_it_is_there() {
    let export = export(grouped(&[]), &MemStore::new(64));
    let mut worker = Worker::new(vec![export.clone()]);
    export.pause();
    let from = |mac| frame_from(mac, GROUP, 7, 3, 1, 1, &query(0, b""));
    assert_eq!(worker.ask(&from(PEER)).len(), 1);
    assert!(worker.ask(&from(ONE)).is_empty());
    let identify = frame_from(PEER, GROUP, 7, 3, 0, 1, &ata(0, 0, 1, 0xec, 0, &[]));
    assert!(worker.ask(&identify).is_empty());
}

#[test]
fn what_is_in_flight_is_not_answered_after_the_export_is_silenced() {
    let store = MemStore::new(64);
    let export = export(grouped(&[]), &store);
    let mut worker = Worker::new(vec![export.clone()]);
    store.mode(StoreMode::Defer);
    let read = frame_from(ONE, GROUP, 7, 3, 0, 1, &ata(0, 0, 1, 0x20, 0, &[]));
    assert!(worker.ask(&read).is_empty());
    export.silence();
    assert_eq!(store.deferred(), 1);
    store.finish(0, None);
    assert!(worker.poll().is_empty());
    store.mode(StoreMode::Prompt);
    assert!(worker.ask(&read).is_empty());
}

#[test]
fn another_gateway_that_asks_this_very_one_is_told_that_it_has_the_export() {
    let store = MemStore::new(64);
    let shut = grouped(&[(ONE, Access::ReadWrite)]);
    let export = export(shut, &store);
    let mut worker = Worker::new(vec![export.clone()]);
    let from = |mac, to, subcommand| frame_from(mac, to, 7, 3, 1, 1, &query(subcommand, b""));
    let asked = from(PEER, TARGET, 0);
    let told = worker.ask(&asked);
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0][..6], &told[0][6..12]), (&PEER.0[..], &TARGET.0[..]));
    // Its length and the string; a short frame has padding behind.
    let said = [&[0, 15], STANDING.as_bytes()].concat();
    assert_eq!(told[0][CONFIG_LENGTH..][..said.len()], said, "{:02x?}", told[0]);
    // Nobody else is told, nothing else, and nobody whose word it is not.
    for silent in [
        from(ONE, TARGET, 0),
        from(OTHER, TARGET, 0),
        from(PEER, TARGET, 3),
        frame_from(PEER, TARGET, 7, 3, 0, 1, &ata(0, 0, 1, 0xec, 0, &[])),
    ] {
        assert!(worker.ask(&silent).is_empty(), "{silent:02x?}");
    }
    // Whoever asks the group is answered by the group as ever.
    assert_eq!(worker.ask(&from(PEER, GROUP, 0))[0][6..12], GROUP.0);
    // It is paused, and has it all the same.
    export.pause();
    assert_eq!(worker.ask(&asked).len(), 1);
    // Without its storage it answers nobody, and so it does after that was lost.
    store.lose_storage();
    assert!(worker.ask(&asked).is_empty());
    store.fence();
    assert!(worker.ask(&asked).is_empty());
}

#[test]
fn a_gateway_that_has_nothing_to_say_of_itself_does_not() {
    let mut options = grouped(&[]);
    options.gateway.as_mut().unwrap().standing = "".into();
    let mut worker = worker(options);
    let asked = frame_from(PEER, TARGET, 7, 3, 1, 1, &query(0, b""));
    assert!(worker.ask(&asked).is_empty());
}
