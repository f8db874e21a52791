//! What lay in a ring for longer than an initiator waits is not carried out.

use crate::testing::bench::{
    ONE, TARGET, Worker, ata, export, frame_from, options, read, request, status, write,
};
use crate::testing::store::{MemStore, StoreMode};

const GOOD: (u8, u8) = (0x40, 0);
const LIMIT_US: u64 = 100_000;

/// Requests that change something, and what must be as before when they are dropped.
fn changes() -> Vec<(&'static str, Vec<u8>)> {
    let mut ranges = vec![0; 512];
    ranges[..8].copy_from_slice(&(1u64 << 48 | 4).to_le_bytes());
    let command = |command, argument: &[u8]| frame_from(ONE, TARGET, 7, 3, command, 1, argument);
    vec![
        ("write", request(0, &write(4, 1, 0x11))),
        ("trim", request(0, &ata(1, 1, 1, 0x06, 0, &ranges))),
        ("set string", command(1, &[0, 0, 0, 0, 0, 0x13, 0, 1, b'x'])),
        ("force set string", command(1, &[0, 0, 0, 0, 0, 0x14, 0, 1, b'x'])),
        ("mask", command(2, &[0, 1, 0, 1, 0, 1, 2, 0, 0, 0, 0, 1])),
        ("reserve", command(3, &[1, 1, 2, 0, 0, 0, 0, 1])),
        ("force reserve", command(3, &[2, 1, 2, 0, 0, 0, 0, 1])),
    ]
}

#[test]
fn what_changes_something_is_dropped_when_it_is_old() {
    for (name, frame) in changes() {
        let store = MemStore::new(64);
        let export = export(options(7, 3), &store);
        let mut worker = Worker::new(vec![export.clone()]);
        let before = export.persistent();
        worker.link.age_us = LIMIT_US + 1;
        assert!(worker.ask(&frame).is_empty(), "{name}: silence");
        assert_eq!(worker.session.counters().silent_old.get(), 1, "{name}: counted");
        assert_eq!(export.persistent(), before, "{name}");
        assert!(store.log().is_empty(), "{name}: the store is not asked");
        worker.link.age_us = LIMIT_US;
        assert_eq!(worker.ask(&frame).len(), 1, "{name}: in time it is answered");
    }
}

#[test]
fn what_changes_nothing_is_answered_however_old() {
    let store = MemStore::new(64);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    worker.link.age_us = u64::MAX;
    assert_eq!(worker.ata(&read(4, 1)), GOOD);
    assert_eq!(worker.ata(&ata(0, 0, 0, 0xe7, 0, &[])), GOOD, "a flush");
    for (command, argument) in [(1, &[0; 8][..]), (2, &[0; 4]), (3, &[0; 2])] {
        assert_eq!(worker.ask(&request(command, argument)).len(), 1, "{command}");
    }
}

#[test]
fn what_waits_in_the_order_does_not_grow_old() {
    let store = MemStore::new(64);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    store.mode(StoreMode::Defer);
    assert!(worker.ask(&request(0, &write(4, 1, 0x11))).is_empty());
    assert!(worker.ask(&request(0, &write(4, 1, 0x22))).is_empty());
    worker.link.age_us = u64::MAX;
    store.finish(0, None);
    assert_eq!(worker.poll().len(), 1);
    store.finish(0, None);
    let replies = worker.poll();
    assert_eq!(
        status(&replies[0]),
        GOOD,
        "its copies would have been merged with it"
    );
    assert_eq!(store.inner.lock().image[4 * 512], 0x22);
}
