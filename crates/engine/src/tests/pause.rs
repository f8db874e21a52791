//! An export that the operator has paused: fenced and silent.

use aoe_common::Mac;

use crate::testing::bench::{ONE, TARGET, Worker, export, frame_from, options, read, request, write};
use crate::testing::store::{MemStore, StoreMode};

const QUERY: [u8; 8] = [0; 8];

#[test]
fn a_paused_export_answers_nobody_and_changes_nothing() {
    let store = MemStore::new(64);
    let export = export(options(7, 3), &store);
    let mut worker = Worker::new(vec![export.clone()]);
    let before = store.inner.lock().image.clone();
    export.pause();
    assert_eq!(export.is_paused(), Some(true));
    let requests = [
        request(0, &read(5, 1)),
        request(0, &write(5, 1, 7)),
        request(1, &QUERY),
        frame_from(ONE, Mac::BROADCAST, 0xffff, 0xff, 1, 1, &QUERY),
        frame_from(ONE, TARGET, 7, 3, 1, 1, &[0, 0, 0, 0, 0, 4, 0, 1, b'x']),
    ];
    for request in &requests {
        assert!(worker.ask(request).is_empty());
    }
    assert_eq!(store.inner.lock().image, before);
    assert_eq!(worker.session.counters().silent_paused.get(), 5);
    worker.session.advertise(
        &mut worker.link,
        &worker.port,
        std::slice::from_ref(&export),
        worker.now_us,
    );
    assert!(worker.sent().is_empty(), "it is not advertised");
    export.resume();
    for request in &requests {
        assert_eq!(worker.ask(request).len(), 1);
    }
}

#[test]
fn what_had_begun_ends_and_what_waited_does_not_begin() {
    let store = MemStore::new(64);
    let export = export(options(7, 3), &store);
    let mut worker = Worker::new(vec![export.clone()]);
    store.mode(StoreMode::Defer);
    worker.ask(&request(0, &write(5, 1, 7)));
    worker.ask(&request(0, &write(5, 1, 8)));
    export.pause();
    assert_eq!(export.in_flight(), 2);
    store.finish(0, None);
    assert_eq!(worker.poll().len(), 1, "the first was under way");
    worker.poll();
    assert_eq!(export.in_flight(), 0);
    assert_eq!(store.inner.lock().image[5 * 512], 7);
    // As the other half of a reload: the same state.
    assert_eq!(export.reconfigured(options(7, 3)).is_paused(), Some(true));
}
