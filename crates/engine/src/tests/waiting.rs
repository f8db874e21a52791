//! What waits costs its own export, and there its own source, and no memory that frames are received into.

use crate::testing::bench::{
    ONE, OTHER, TARGET, Worker, ata, export, frame_from, options, read, request, write,
};
use crate::testing::store::{MemStore, StoreMode};

/// Places of the export; an eighth of them is kept for newcomers.
const PLACES: usize = 16 * 8;

fn from(source: aoe_common::Mac, argument: &[u8]) -> Vec<u8> {
    frame_from(source, TARGET, 7, 3, 0, 1, argument)
}

#[test]
fn what_waits_holds_no_frame_and_is_answered_in_a_new_one() {
    for piece_bytes in [128, 4096] {
        let store = MemStore::new(256);
        let mut worker = Worker::cut(vec![export(options(7, 3), &store)], piece_bytes);
        store.mode(StoreMode::Defer);
        store.inner.lock().again = true;
        // `ask` asserts that none of them holds a frame.
        for argument in [
            write(4, 2, 0x11),
            write(5, 2, 0x22),
            read(6, 2),
            ata(0, 0, 1, 0x42, 40, &[]),
            ata(0, 0, 0, 0xe7, 0, &[]),
        ] {
            assert!(worker.ask(&request(0, &argument)).is_empty());
        }
        let mut replies = Vec::new();
        while worker.session.pending() > 0 {
            assert!(store.deferred() > 0, "nobody works on what waits");
            store.finish(0, None);
            replies.extend(worker.poll());
        }
        assert_eq!(replies.len(), 5);
        let data = replies.iter().find(|reply| reply.len() == 36 + 1024).unwrap();
        assert!(data[36..548].iter().all(|byte| *byte == 0x22));
        let image = &store.inner.lock().image;
        assert_eq!(
            [image[4 * 512], image[5 * 512], image[6 * 512]],
            [0x11, 0x22, 0x22]
        );
    }
}

#[test]
fn a_reply_that_finds_no_memory_is_silence() {
    let store = MemStore::new(256);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    store.mode(StoreMode::Defer);
    worker.ask(&request(0, &write(4, 1, 0x11)));
    worker.link.pool = 0;
    store.finish(0, None);
    assert!(worker.poll().is_empty());
    assert_eq!(worker.session.counters().silent_no_memory.get(), 1);
    assert_eq!(worker.session.pending(), 0, "asked again, it is done again");
}

#[test]
fn one_source_does_not_take_the_places_of_others() {
    let store = MemStore::new(4096);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    store.mode(StoreMode::Defer);
    for lba in 0..1000 {
        worker.ask(&from(ONE, &write(lba, 1, 0x11)));
    }
    assert_eq!(worker.session.pending(), PLACES / 8 * 7);
    // The medium is slow, and the first source asks before the other one each time.
    let mut answered = [0; 2];
    for n in 0..1000u64 {
        worker.ask(&from(ONE, &write(1000 + n, 1, 0x11)));
        worker.ask(&from(OTHER, &write(2000 + n, 1, 0x22)));
        store.finish(0, None);
        for reply in worker.poll() {
            answered[usize::from(reply[..6] == OTHER.0)] += 1;
        }
    }
    let [one, other] = answered;
    assert_eq!(one + other, 1000);
    assert!(other * 4 > 1000, "{other} of 1000");
}

#[test]
fn reads_are_served_while_writes_have_taken_all_their_places() {
    let store = MemStore::new(4096);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    store.mode(StoreMode::Defer);
    for lba in 0..1000 {
        worker.ask(&request(0, &write(lba, 1, 0x11)));
    }
    assert!(worker.session.counters().silent_full.get() > 0);
    store.mode(StoreMode::Prompt);
    assert_eq!(worker.ask(&request(0, &read(3000, 1))).len(), 1);
}

#[test]
fn verifies_run_one_at_a_time() {
    let store = MemStore::new(4096);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    store.mode(StoreMode::Defer);
    for lba in 0..3 {
        worker.ask(&from(ONE, &ata(0, 0, 9, 0x42, lba * 100, &[])));
    }
    worker.ask(&from(OTHER, &read(0, 1)));
    assert_eq!(store.log(), ["verify 0+9", "read 0+1"], "reads go on beside it");
    for next in ["verify 100+9", "verify 200+9"] {
        store.finish(0, None);
        worker.poll();
        assert_eq!(store.log(), [next]);
        // The read is the first of what is put off now.
        if next == "verify 100+9" {
            store.finish(0, None);
            worker.poll();
        }
    }
    store.finish(0, None);
    assert_eq!(worker.poll().len(), 1);
}
