//! One ordering domain for each export, over all its workers.

use std::sync::Arc;

use crate::Exports;
use crate::store::FaultKind;
use crate::testing::bench::{
    ONE, OTHER, TARGET, Worker, ata, export, frame_from, options, read, status, write,
};
use crate::testing::store::{MemStore, StoreMode};

const GOOD: (u8, u8) = (0x40, 0);

fn pair() -> (Worker, Worker, Arc<MemStore>) {
    let store = MemStore::new(256);
    let export = export(options(7, 3), &store);
    store.mode(StoreMode::Defer);
    (
        Worker::new(vec![export.clone()]),
        Worker::new(vec![export]),
        store,
    )
}

fn tagged(tag: u32, argument: &[u8]) -> Vec<u8> {
    frame_from(ONE, TARGET, 7, 3, 0, tag, argument)
}

fn tags(replies: &[Vec<u8>]) -> Vec<u32> {
    replies
        .iter()
        .map(|reply| u32::from_be_bytes(reply[20..24].try_into().unwrap()))
        .collect()
}

#[test]
fn a_duplicate_in_flight_runs_once_and_the_newest_is_answered() {
    for again in [false, true] {
        for argument in [read(5, 2), write(5, 2, 0x33), ata(0, 0, 9, 0x42, 7, &[])] {
            let (mut one, mut two, store) = pair();
            store.inner.lock().again = again;
            assert!(one.ask(&tagged(1, &argument)).is_empty());
            assert!(one.ask(&tagged(2, &argument)).is_empty());
            assert!(two.ask(&tagged(3, &argument)).is_empty());
            assert_eq!(store.deferred(), 1, "runs once");
            store.finish(0, None);
            assert!(one.poll().is_empty(), "older requesters are not answered");
            let replies = two.poll();
            assert_eq!(tags(&replies), [3]);
            assert_eq!(status(&replies[0]), GOOD);
            if argument[3] == 0x24 {
                assert_eq!(replies[0][36..], store.inner.lock().image[5 * 512..7 * 512]);
            }
            assert_eq!((one.session.pending(), two.session.pending()), (0, 0));
        }
    }
}

#[test]
fn the_newest_may_be_the_one_that_ran_it_first() {
    let (mut one, mut two, store) = pair();
    one.ask(&tagged(1, &write(5, 1, 0x33)));
    two.ask(&tagged(2, &write(5, 1, 0x33)));
    one.ask(&tagged(3, &write(5, 1, 0x33)));
    store.finish(0, None);
    assert_eq!(tags(&one.poll()), [3]);
    assert!(two.poll().is_empty());
    assert_eq!(two.session.pending(), 0, "and the other is not left waiting");
}

#[test]
fn what_differs_is_no_duplicate() {
    let (mut one, _, store) = pair();
    one.ask(&tagged(1, &read(5, 1)));
    one.ask(&tagged(1, &read(6, 1)));
    one.ask(&tagged(1, &ata(0, 0, 1, 0x20, 5, &[])));
    one.ask(&frame_from(OTHER, TARGET, 7, 3, 0, 1, &read(5, 1)));
    assert_eq!(store.deferred(), 4, "other sectors, opcode and host");
    for argument in [ata(0, 0, 0, 0xe7, 0, &[]), ata(0, 0, 0, 0xe7, 0, &[])] {
        one.ask(&tagged(1, &argument));
    }
    assert_eq!(store.deferred(), 6, "a later flush covers more writes");
    for _ in 0..6 {
        store.finish(0, None);
    }
    assert_eq!(one.poll().len(), 6);
}

#[test]
fn overlapping_requests_wait_in_the_order_they_came() {
    let (mut one, mut two, store) = pair();
    one.ask(&tagged(1, &write(10, 2, 0x11)));
    two.ask(&tagged(2, &write(11, 2, 0x22)));
    one.ask(&tagged(3, &read(12, 1)));
    two.ask(&tagged(4, &write(12, 1, 0x44)));
    two.ask(&tagged(5, &write(20, 1, 0x55)));
    assert_eq!(
        store.log(),
        ["write 10+2", "write 20+1"],
        "only what overlaps nothing starts"
    );
    store.mode(StoreMode::Prompt);
    assert_eq!(tags(&one.ask(&tagged(6, &read(30, 1)))), [6], "others go on");
    assert!(
        one.ask(&tagged(7, &read(10, 1))).is_empty(),
        "but no read of what is being written"
    );
    store.log();
    store.finish(0, None);
    store.finish(0, None);
    assert_eq!(tags(&one.poll()), [1, 7], "the first write, then the read of it");
    assert_eq!(tags(&two.poll()), [5, 2]);
    assert_eq!(tags(&one.poll()), [3], "between the two writes of sector 12");
    assert_eq!(tags(&two.poll()), [4]);
    assert_eq!(
        store.log(),
        ["read 10+1", "write 11+2", "read 12+1", "write 12+1"]
    );
    let image = &store.inner.lock().image;
    assert_eq!(
        [image[10 * 512], image[11 * 512], image[12 * 512]],
        [0x11, 0x22, 0x44]
    );
}

#[test]
fn a_waiting_duplicate_takes_the_place_of_the_older() {
    let (mut one, mut two, store) = pair();
    one.ask(&tagged(1, &write(10, 1, 0x11)));
    one.ask(&tagged(2, &write(10, 1, 0x22)));
    two.ask(&tagged(3, &write(10, 1, 0x22)));
    store.finish(0, None);
    assert_eq!(tags(&one.poll()), [1]);
    assert!(two.poll().is_empty());
    store.finish(0, None);
    assert_eq!(tags(&two.poll()), [3]);
    assert!(one.poll().is_empty());
    assert_eq!((one.session.pending(), two.session.pending()), (0, 0));
    assert_eq!(store.log(), ["write 10+1", "write 10+1"]);
}

#[test]
fn a_duplicate_may_come_between_the_call_and_the_start() {
    let (mut one, mut two, store) = pair();
    one.ask(&tagged(1, &write(10, 1, 0x11)));
    two.ask(&tagged(2, &write(10, 1, 0x22)));
    store.finish(0, None);
    assert_eq!(tags(&one.poll()), [1], "which calls the other worker");
    one.ask(&tagged(3, &write(10, 1, 0x22)));
    assert!(two.poll().is_empty());
    assert!(one.poll().is_empty(), "has begun");
    store.finish(0, None);
    assert_eq!(tags(&one.poll()), [3]);
    assert_eq!((one.session.pending(), two.session.pending()), (0, 0));
}

#[test]
fn a_fault_reaches_the_newest_requester() {
    let (mut one, mut two, store) = pair();
    one.ask(&tagged(1, &read(5, 2)));
    two.ask(&tagged(2, &read(5, 2)));
    store.finish(0, Some(FaultKind::Read));
    assert!(one.poll().is_empty());
    let replies = two.poll();
    assert_eq!((tags(&replies), status(&replies[0])), (vec![2], (0x41, 0x40)));
}

#[test]
fn trim_waits_like_a_write() {
    let (mut one, _, store) = pair();
    one.ask(&tagged(1, &write(10, 1, 0x11)));
    let mut block = vec![0; 512];
    block[..8].copy_from_slice(&(10u64 | 1 << 48).to_le_bytes());
    one.ask(&tagged(2, &ata(0x41, 1, 1, 0x06, 0, &block)));
    one.ask(&tagged(3, &read(10, 1)));
    store.finish(0, None);
    assert_eq!(tags(&one.poll()), [1]);
    store.finish(0, None);
    assert_eq!(tags(&one.poll()), [2]);
    store.finish(0, None);
    let replies = one.poll();
    assert_eq!((tags(&replies), replies[0][36]), (vec![3], 0));
}

#[test]
fn what_is_in_flight_is_bounded() {
    let (mut one, _, store) = pair();
    for lba in 0..200 {
        one.ask(&tagged(1, &read(lba, 1)));
    }
    assert_eq!(
        one.session.pending(),
        16 * 7,
        "eight times the buffers that are advertised, less what is kept for newcomers"
    );
    one.ask(&tagged(9, &read(0, 1)));
    assert_eq!(
        one.session.pending(),
        16 * 7 + 1,
        "a duplicate takes no place of its own"
    );
    while store.deferred() > 0 {
        store.finish(0, None);
    }
    assert_eq!(one.poll().len(), 16 * 7);
    assert_eq!(one.session.pending(), 0);
}

#[test]
fn a_worker_that_ends_leaves_nobody_waiting() {
    let (mut one, mut two, store) = pair();
    one.ask(&tagged(1, &write(10, 1, 0x11)));
    one.ask(&tagged(2, &write(11, 1, 0x22)));
    one.ask(&tagged(3, &write(11, 1, 0x33)));
    two.ask(&tagged(4, &write(11, 1, 0x44)));
    two.ask(&tagged(5, &write(10, 1, 0x11)));
    store.mode(StoreMode::Prompt);
    let Worker {
        session, mut link, ..
    } = one;
    let mut remains = session.close(&mut link);
    assert_eq!(link.out, 0, "its frames are given back");
    assert_eq!(remains.pending(), 2, "what waited is gone, what runs is not");
    assert!(
        two.poll().is_empty(),
        "the sectors stay busy until the store is done"
    );
    store.finish(1, None);
    assert!(remains.completions());
    assert_eq!(
        tags(&two.poll()),
        [4],
        "after what the store had begun, not before"
    );
    assert_eq!(store.inner.lock().image[11 * 512], 0x44);
    store.finish(0, None);
    assert!(remains.completions());
    assert_eq!(
        tags(&two.poll()),
        [5],
        "who asked for the same meanwhile has its answer"
    );
    assert_eq!((remains.pending(), two.session.pending()), (0, 0));
}

#[test]
fn what_a_closed_session_leaves_ends_in_every_way() {
    let (mut one, mut two, store) = pair();
    store.inner.lock().again = true;
    one.ask(&tagged(1, &read(10, 1)));
    two.ask(&tagged(2, &write(10, 1, 0x22)));
    let mut remains = one.session.close(&mut one.link);
    store.finish(0, None);
    assert!(remains.completions());
    assert_eq!(
        remains.pending(),
        0,
        "a store that asks to be called again has nothing under way"
    );
    assert!(two.poll().is_empty());
    assert_eq!(store.deferred(), 1, "the write was called");

    let (mut one, mut two, store) = pair();
    one.ask(&tagged(1, &write(10, 1, 0x11)));
    two.ask(&tagged(2, &write(10, 1, 0x11)));
    let mut remains = one.session.close(&mut one.link);
    store.finish(0, Some(FaultKind::Write));
    assert!(remains.completions());
    let replies = two.poll();
    assert_eq!(tags(&replies), [2]);
    assert_eq!(status(&replies[0]), (0x61, 0x04), "the failure as well");

    let (mut one, mut two, store) = pair();
    one.ask(&tagged(1, &write(10, 1, 0x11)));
    two.ask(&tagged(2, &read(10, 1)));
    store.mode(StoreMode::Prompt);
    drop(one.session);
    store.abandon();
    assert_eq!(
        tags(&two.poll()),
        [2],
        "dropped as a whole, it gives up the order"
    );
}

#[test]
fn a_panic_leaves_nothing_locked() {
    let (mut one, mut two, store) = pair();
    one.ask(&tagged(1, &write(10, 1, 0x11)));
    one.ask(&tagged(2, &write(10, 1, 0x22)));
    two.ask(&tagged(3, &read(10, 1)));
    store.finish(0, None);
    store.mode(StoreMode::Panic);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one.poll()));
    assert!(panicked.is_err());
    store.mode(StoreMode::Prompt);
    let remains = one.session.close(&mut one.link);
    assert_eq!(remains.pending(), 0);
    assert_eq!(
        tags(&two.poll()),
        [3],
        "who waited for the one that panicked goes on"
    );
}

#[test]
fn a_reconfigured_export_keeps_the_order_of_the_old_one() {
    let store = MemStore::new(64);
    let old = export(options(7, 3), &store);
    let mut worker = Worker::new(vec![old.clone()]);
    store.mode(StoreMode::Defer);
    worker.ask(&tagged(1, &write(10, 1, 0x11)));
    worker.ask(&tagged(2, &write(10, 1, 0x22)));
    let mut other = options(7, 3);
    other.read_only = true;
    worker
        .session
        .set_exports(Arc::new(Exports::new(vec![Arc::new(old.reconfigured(other))])));
    worker.ask(&tagged(3, &read(10, 1)));
    assert_eq!(
        status(&worker.answer(&tagged(4, &write(10, 1, 0x33)))),
        (0x41, 0x04),
        "the new options hold"
    );
    assert_eq!(store.log(), ["write 10+1"]);
    store.finish(0, None);
    assert_eq!(tags(&worker.poll()), [1]);
    store.finish(0, None);
    assert_eq!(tags(&worker.poll()), [2], "what came for the old one ends as it");
    store.finish(0, None);
    let replies = worker.poll();
    assert_eq!((tags(&replies), replies[0][36]), (vec![3], 0x22));
}

#[test]
fn late_duplicates_are_known_where_asked_for() {
    let store = MemStore::new(64);
    let mut careful = options(7, 3);
    careful.late_duplicates = true;
    let mut worker = Worker::new(vec![export(careful, &store)]);
    let mut ask = |counter: u32, byte| tags(&worker.ask(&tagged(counter << 16, &write(4, 1, byte)))).len();
    assert_eq!(ask(5, 0x11), 1, "W1, sent again with counter 5");
    assert_eq!(ask(6, 0x22), 1, "W2");
    assert_eq!(ask(4, 0x11), 0, "the first W1 arrives at last: dropped");
    assert_eq!(store.inner.lock().image[4 * 512], 0x22);
    assert_eq!(ask(6, 0x22), 1, "the very same W2: answered");
    assert_eq!(store.log().len(), 2, "not run");
    assert_eq!(ask(7, 0x11), 1, "A, B, A");
    assert_eq!(store.inner.lock().image[4 * 512], 0x11);

    store.mode(StoreMode::Defer);
    worker.ask(&tagged(8 << 16, &write(5, 1, 0x33)));
    store.finish(0, None);
    assert_eq!(worker.poll().len(), 1);
    assert_eq!(
        worker.ask(&tagged(8 << 16, &write(5, 1, 0x33))).len(),
        1,
        "deferred writes are remembered, too"
    );
    assert_eq!(store.deferred(), 0);
}
