//! Config string, mask and reservation: rules, persistence, fencing.

use std::sync::Arc;

use aoe_common::{Access, Mac};

use crate::testing::bench::{
    ONE, OTHER, SlowStateStore, TARGET, Witness, Worker, aoe_error, ata, export, frame_from, options, read,
    request, status, write,
};
use crate::testing::completions::MemCompletions;
use crate::testing::store::{MemStore, StoreMode};
use crate::{Change, Export, Options, Persistent, WireAdmin};

fn query(ccmd: u8, string: &[u8]) -> Vec<u8> {
    let len = u16::try_from(string.len()).unwrap().to_be_bytes();
    [&[0, 0, 0, 0, 0, ccmd, len[0], len[1]], string].concat()
}

fn edit(directives: &[(u8, Mac)]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, u8::try_from(directives.len()).unwrap()];
    for (command, mac) in directives {
        bytes.extend([0, *command]);
        bytes.extend(mac.0);
    }
    bytes
}

fn reserve(rcmd: u8, macs: &[Mac]) -> Vec<u8> {
    let mut bytes = vec![rcmd, u8::try_from(macs.len()).unwrap()];
    bytes.extend(macs.iter().flat_map(|mac| mac.0));
    bytes
}

fn numbered(n: u16) -> Mac {
    let [a, b] = n.to_be_bytes();
    Mac([2, 0, 0, 9, a, b])
}

struct Kept {
    worker: Worker,
    export: Arc<Export<MemCompletions>>,
    store: Arc<MemStore>,
    keeper: Arc<SlowStateStore>,
    witness: Arc<Witness>,
}

fn kept(options: Options) -> Kept {
    let (keeper, witness) = (Arc::new(SlowStateStore::default()), Arc::new(Witness::default()));
    let store = MemStore::new(64);
    let state = Persistent::default();
    let export = Arc::new(
        Export::new(
            options,
            store.clone(),
            Some(keeper.clone()),
            witness.clone(),
            state,
        )
        .unwrap(),
    );
    Kept {
        worker: Worker::new(vec![export.clone()]),
        export,
        store,
        keeper,
        witness,
    }
}

#[test]
fn a_change_is_answered_when_it_is_saved() {
    let mut k = kept(options(7, 3));
    assert!(k.worker.ask(&request(1, &query(3, b"mine"))).is_empty());
    assert_eq!(k.export.persistent().string, b"", "not in force yet");
    assert!(
        k.worker.ask(&request(1, &query(1, b"mine"))).is_empty(),
        "a test answers only after commit"
    );
    assert_eq!(k.worker.answer(&request(1, &query(0, b""))).len(), 60);
    assert_eq!(k.worker.ata(&read(0, 1)), (0x40, 0), "data goes on meanwhile");
    // Another host wants it, too: its turn comes after the first, and it loses.
    assert!(
        k.worker
            .ask(&frame_from(OTHER, TARGET, 7, 3, 1, 1, &query(3, b"yours")))
            .is_empty()
    );
    assert_eq!(k.keeper.finish(true).string, b"mine");
    let replies = k.worker.poll();
    assert_eq!(replies.len(), 2);
    assert_eq!((aoe_error(&replies[0]), &replies[0][32..36]), (0, &b"mine"[..]));
    assert_eq!((aoe_error(&replies[1]), &replies[1][32..36]), (4, &b"mine"[..]));
    assert_eq!(k.keeper.waiting(), 0);
    assert_eq!(*k.witness.changes.lock(), [Change::String]);
    assert_eq!(
        aoe_error(&k.worker.answer(&request(1, &query(3, b"mine")))),
        0,
        "again: no need to save"
    );
    assert_eq!(k.keeper.waiting(), 0);
}

#[test]
fn what_cannot_be_saved_is_not_answered_and_not_in_force() {
    let mut k = kept(options(7, 3));
    for (command, argument) in [
        (1, query(4, b"x")),
        (2, edit(&[(1, ONE)])),
        (3, reserve(2, &[OTHER])),
    ] {
        assert!(k.worker.ask(&request(command, &argument)).is_empty());
        k.keeper.finish(false);
        assert!(k.worker.poll().is_empty());
        assert_eq!(k.export.persistent(), Persistent::default());
        assert_eq!(k.export.in_flight(), 0);
    }
    assert!(
        k.witness.faults.lock().is_empty(),
        "the disk is well: whoever keeps states says it"
    );
    assert!(k.witness.changes.lock().is_empty());
    assert_eq!(k.worker.ata(&write(0, 1, 1)), (0x40, 0));
}

#[test]
fn a_reservation_is_a_fence() {
    let mut k = kept(options(7, 3));
    k.store.mode(StoreMode::Defer);
    assert!(
        k.worker.ask(&request(0, &write(1, 1, 0x11))).is_empty(),
        "in flight, of the host to be fenced"
    );
    let from_other = |command, argument: &[u8]| frame_from(OTHER, TARGET, 7, 3, command, 5, argument);
    assert!(k.worker.ask(&from_other(3, &reserve(2, &[OTHER]))).is_empty());
    assert_eq!(k.keeper.waiting(), 0, "not before the write has ended");
    assert!(
        k.worker.ask(&request(0, &write(2, 1, 0x22))).is_empty(),
        "comes after the fence"
    );
    assert_eq!(k.store.log(), ["write 1+1"], "and does not start");

    k.store.finish(0, None);
    let replies = k.worker.poll();
    assert_eq!(replies.len(), 1, "the write that was accepted before");
    assert_eq!(status(&replies[0]), (0x40, 0));
    assert_eq!(k.keeper.finish(true).reserve, [OTHER]);
    let replies = k.worker.poll();
    assert_eq!(replies.len(), 2);
    assert_eq!((replies[0][19], aoe_error(&replies[0])), (3, 0));
    assert_eq!(
        (replies[1][19], aoe_error(&replies[1])),
        (0, 6),
        "judged by the new reservation"
    );
    assert!(
        k.store.log().is_empty(),
        "the fenced write never reached the store"
    );
}

#[test]
fn what_a_reservation_blocks_and_what_passes() {
    let store = MemStore::new(64);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    assert_eq!(aoe_error(&worker.answer(&request(3, &reserve(1, &[OTHER])))), 0);
    for (argument, passes) in [
        (ata(0, 0, 1, 0xec, 0, &[]), true),
        (ata(0, 0, 0, 0xe5, 0, &[]), true),
        (ata(0, 0, 0, 0xe7, 0, &[]), true),
        (ata(0, 0, 0, 0xea, 0, &[]), true),
        (read(0, 1), false),
        (write(0, 1, 1), false),
        (ata(0, 0, 0, 0x40, 0, &[]), false),
        (ata(0, 0, 0, 0xe0, 0, &[]), false),
        (ata(0, 0, 0, 0xef, 0, &[]), false),
        (ata(0, 0, 0, 0x00, 0, &[]), false),
    ] {
        let reply = worker.answer(&request(0, &argument));
        assert_eq!(
            aoe_error(&reply),
            if passes { 0 } else { 6 },
            "{:#x}",
            argument[3]
        );
    }
    assert_eq!(
        aoe_error(&worker.answer(&request(1, &query(4, b"free")))),
        0,
        "Query Config is not blocked"
    );
    assert_eq!(aoe_error(&worker.answer(&request(2, &edit(&[(0, ONE)])))), 0);
    assert_eq!(
        aoe_error(&worker.answer(&request(3, &reserve(1, &[])))),
        6,
        "release by a stranger"
    );
    let release = frame_from(OTHER, TARGET, 7, 3, 3, 1, &reserve(1, &[]));
    assert_eq!(aoe_error(&worker.answer(&release)), 0);
    assert_eq!(worker.ata(&read(0, 1)), (0x40, 0));
}

#[test]
fn string_rules() {
    let mut worker = Worker::new(vec![export(options(7, 3), &MemStore::new(64))]);
    let long = vec![0x5a; 1024];
    let set = worker.answer(&request(1, &query(3, &long)));
    assert_eq!((set.len(), &set[32..]), (1056, &long[..]));
    let mut ask = |bytes: &[u8]| {
        worker
            .ask(&request(1, bytes))
            .first()
            .map(|reply| aoe_error(reply))
    };
    let too_long = query(4, &[0x5a; 1025]);
    let mut missing = query(4, b"12345678");
    missing.truncate(12);
    assert_eq!((ask(&too_long), ask(&missing)), (Some(2), Some(2)));
    for ccmd in [1, 2] {
        let mut bytes = too_long.clone();
        bytes[5] = ccmd;
        assert_eq!(ask(&bytes), None);
        let mut bytes = missing.clone();
        bytes[5] = ccmd;
        assert_eq!(ask(&bytes), None);
    }
    assert_eq!(ask(&query(1, &long)), Some(0));
    assert_eq!(ask(&query(1, &long[..1023])), None);
    assert_eq!(ask(&query(2, &long[..1023])), Some(0));
    assert_eq!(ask(&query(2, b"")), Some(0));
    assert_eq!(ask(&query(4, b"")), Some(0));
    assert_eq!(ask(&query(1, b"")), Some(0), "empty equals empty");
    for ccmd in 5..16 {
        assert_eq!(ask(&query(ccmd, b"")), Some(2));
    }
}

#[test]
fn a_mask_hides_the_export_from_all_others() {
    let store = MemStore::new(64);
    let export = export(options(7, 3), &store);
    let mut worker = Worker::new(vec![export.clone()]);
    let reply = worker.answer(&request(
        2,
        &edit(&[(1, OTHER), (1, OTHER), (2, numbered(5)), (0, ONE)]),
    ));
    assert_eq!(
        reply[24..37],
        [0, 1, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0xaa, 0],
        "the answer still comes"
    );
    for bytes in [
        request(1, &query(0, b"")),
        request(0, &read(0, 1)),
        request(2, &[0; 4]),
        request(9, &[]),
    ] {
        assert!(worker.ask(&bytes).is_empty());
    }
    assert!(
        worker
            .ask(&frame_from(
                ONE,
                Mac::BROADCAST,
                0xffff,
                0xff,
                1,
                1,
                &query(0, b"")
            ))
            .is_empty()
    );
    assert_eq!(export.visible_to(), Some(vec![OTHER]));
    export
        .change_persistent(|state| *state = Persistent::default(), |_| {})
        .unwrap();
    assert_eq!(
        worker.ask(&request(1, &query(0, b""))).len(),
        1,
        "the operator has cleared it"
    );
}

#[test]
fn lists_have_limits() {
    let store = MemStore::new(64);
    let export = export(options(7, 3), &store);
    let mut worker = Worker::new(vec![export.clone()]);
    let mut all: Vec<(u8, Mac)> = (0..63).map(|n| (1, numbered(n))).collect();
    all.insert(0, (1, ONE));
    let full = worker.answer(&request(2, &edit(&all)));
    assert_eq!((full.len(), full[26], full[27]), (28 + 64 * 8, 0, 64));
    let over = worker.answer(&request(
        2,
        &edit(&[(2, numbered(9)), (1, numbered(70)), (1, numbered(71)), (0, ONE)]),
    ));
    assert_eq!(
        (aoe_error(&over), over[26], over[27], over.len()),
        (0, 3, 2, 60),
        "list full at the third"
    );
    assert!(over[28..].iter().all(|byte| *byte == 0));
    let mask = export.persistent().mask;
    assert_eq!(
        (mask.len(), mask.last()),
        (64, Some(&numbered(70))),
        "what came before holds"
    );

    let many: Vec<Mac> = (0..65).map(numbered).collect();
    assert_eq!(aoe_error(&worker.answer(&request(3, &reserve(1, &many)))), 2);
    let reply = worker.answer(&request(3, &reserve(1, &many[..64])));
    assert_eq!((aoe_error(&reply), reply.len(), reply[25]), (0, 26 + 64 * 6, 64));

    for (command, argument) in [
        (2, vec![0, 2, 0, 0]),
        (2, vec![0, 1, 0, 1, 0, 1, 2, 0, 0, 0, 0]),
        (2, vec![0, 0, 0, 200]),
        (3, vec![3, 0]),
        (3, vec![1, 1, 2, 0, 0, 0, 0]),
    ] {
        let reply = worker.answer(&request(command, &argument));
        assert_eq!(
            (aoe_error(&reply), reply[24 + usize::from(command == 2)]),
            (2, argument[usize::from(command == 2)])
        );
        if command == 2 {
            assert!(
                reply[26..].iter().all(|byte| *byte == 0),
                "no list error, no directives"
            );
        }
    }
    for short in [
        request(2, &[0; 3]),
        request(3, &[0; 1]),
        request(1, &[0; 7]),
        request(0, &[0; 11]),
    ] {
        assert!(worker.ask(&short).is_empty());
    }
}

#[test]
fn the_operator_can_forbid_changes() {
    let mut fixed = options(7, 3);
    fixed.wire_admin = WireAdmin::Nothing;
    let store = MemStore::new(64);
    let export = export(fixed, &store);
    let state = Persistent {
        string: b"set by us".into(),
        mask: vec![ONE],
        reserve: vec![ONE],
    };
    export
        .change_persistent(|now| now.clone_from(&state), |_| {})
        .unwrap();
    let mut worker = Worker::new(vec![export.clone()]);
    for (command, argument) in [
        (1, query(3, b"x")),
        (1, query(4, b"")),
        (2, edit(&[(1, OTHER)])),
        (3, reserve(1, &[])),
        (3, reserve(2, &[OTHER])),
    ] {
        assert_eq!(aoe_error(&worker.answer(&request(command, &argument))), 2);
    }
    for (command, argument) in [
        (1, query(0, b"")),
        (1, query(1, b"set by us")),
        (2, edit(&[])),
        (3, reserve(0, &[])),
    ] {
        let mut argument = argument;
        if command == 2 {
            argument[1] = 0;
        }
        assert_eq!(
            aoe_error(&worker.answer(&request(command, &argument))),
            0,
            "reading is free"
        );
    }
    assert_eq!(export.persistent(), state);
}

#[test]
fn strings_alone_may_be_left_open() {
    let mut half_open = options(7, 3);
    half_open.wire_admin = WireAdmin::Strings;
    let store = MemStore::new(64);
    let export = export(half_open, &store);
    let mut worker = Worker::new(vec![export.clone()]);
    for (command, argument) in [
        (2, edit(&[(1, OTHER)])),
        (3, reserve(1, &[ONE])),
        (3, reserve(2, &[OTHER])),
    ] {
        assert_eq!(aoe_error(&worker.answer(&request(command, &argument))), 2);
    }
    for argument in [query(3, b"ours"), query(4, b"forced")] {
        assert_eq!(aoe_error(&worker.answer(&request(1, &argument))), 0);
    }
    let expected = Persistent {
        string: b"forced".into(),
        ..Persistent::default()
    };
    assert_eq!(export.persistent(), expected);
}

#[test]
fn a_member_that_may_only_read_shuts_nobody_out() {
    let mut listed = options(7, 3);
    listed.access = [(ONE, Access::ReadWrite), (OTHER, Access::ReadOnly)].into();
    let store = MemStore::new(64);
    let export = export(listed, &store);
    let mut worker = Worker::new(vec![export.clone()]);
    let from_reader = |command, argument: &[u8]| frame_from(OTHER, TARGET, 7, 3, command, 5, argument);
    for (command, argument) in [
        (2, edit(&[(1, OTHER)])),
        (3, reserve(1, &[OTHER])),
        (3, reserve(2, &[OTHER])),
    ] {
        assert_eq!(aoe_error(&worker.answer(&from_reader(command, &argument))), 2);
    }
    assert_eq!(export.persistent(), Persistent::default());
    assert_eq!(
        aoe_error(&worker.answer(&from_reader(3, &reserve(0, &[])))),
        0,
        "reading is free"
    );
    assert_eq!(
        aoe_error(&worker.answer(&request(3, &reserve(1, &[ONE])))),
        0,
        "who may write may"
    );
}

#[test]
fn the_operator_waits_for_a_change_in_progress() {
    let mut k = kept(options(7, 3));
    k.worker.ask(&request(1, &query(4, b"wire")));
    assert!(k.export.change_persistent(|_| {}, |_| panic!("saved")).is_err());
    k.keeper.finish(true);
    k.worker.poll();
    k.export
        .change_persistent(|state| *state = Persistent::default(), |_| {})
        .unwrap();
    assert_eq!(k.export.persistent(), Persistent::default());
}
