//! An export whose store belongs to another client now: silent, also to what had begun.

use aoe_common::Mac;

use crate::FaultKind;
use crate::testing::bench::{ONE, TARGET, Worker, export, frame_from, options, read, request, write};
use crate::testing::store::{MemStore, StoreMode};

#[test]
fn a_fenced_export_answers_nobody_and_asks_nothing_of_its_store() {
    let store = MemStore::new(64);
    let export = export(options(7, 3), &store);
    let mut worker = Worker::new(vec![export.clone()]);
    store.fence();
    let requests = [
        request(0, &read(5, 1)),
        request(0, &write(5, 1, 7)),
        request(0, &crate::testing::bench::ata(0, 0, 1, 0xec, 0, &[])),
        request(1, &[0; 8]),
        frame_from(ONE, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &[0; 8]),
        frame_from(ONE, TARGET, 7, 3, 1, 1, &[0, 0, 0, 0, 0, 4, 0, 1, b'x']),
    ];
    for request in &requests {
        assert!(worker.ask(request).is_empty());
    }
    assert!(store.log().is_empty(), "the store was asked");
    assert_eq!(worker.session.counters().silent_fenced.get(), 6);
    worker.session.advertise(
        &mut worker.link,
        &worker.port,
        std::slice::from_ref(&export),
        worker.now_us,
    );
    assert!(worker.sent().is_empty(), "it is not advertised");
}

#[test]
fn what_had_begun_and_what_waited_get_no_answer_however_they_end() {
    let store = MemStore::new(64);
    let export = export(options(7, 3), &store);
    let mut worker = Worker::new(vec![export.clone()]);
    store.mode(StoreMode::Defer);
    worker.ask(&request(0, &write(5, 1, 7)));
    worker.ask(&request(0, &read(5, 1)));
    worker.ask(&request(0, &read(9, 1)));
    worker.ask(&request(0, &write(20, 1, 8)));
    // The same again by another path: it waits for the outcome of the first.
    worker.ask(&request(0, &write(20, 1, 8)));
    store.fence();
    // The first write fails, the read and the second one end well: who knows what was written elsewhere since.
    store.finish(0, Some(FaultKind::Write));
    store.finish(0, None);
    store.finish(0, None);
    for _ in 0..4 {
        assert!(worker.poll().is_empty());
    }
    assert_eq!(export.in_flight(), 0);
    assert_eq!(worker.session.pending(), 0);
    assert_eq!(worker.link.out, 0, "no frame is kept");
}
