//! Frames with fewer bytes than their own headers say.

use crate::testing::bench::{Worker, aoe_error, ata, export, options, read, request, write};
use crate::testing::store::MemStore;

#[test]
fn what_is_cut_is_counted_and_changes_nothing() {
    let store = MemStore::new(64);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    let before = store.inner.lock().image.clone();
    let whole = write(3, 2, 9);
    let fixed = whole.len() - 1024;
    for len in [fixed, fixed + 1, fixed + 512, fixed + 1023] {
        assert_eq!(aoe_error(&worker.answer(&request(0, &whole[..len]))), 2);
    }
    // TRIM with half its ranges, a list of masks, one of stations, a string.
    for (command, argument) in [
        (0, ata(0x41, 1, 1, 0x06, 0, &[0; 256])),
        (2, vec![0, 1, 0, 1, 0, 1, 2, 0, 0, 0, 0]),
        (3, vec![1, 1, 2, 0, 0, 0, 0]),
        (1, vec![0, 0, 0, 0, 0, 4, 0, 3, b'a', b'b']),
    ] {
        assert_eq!(
            aoe_error(&worker.answer(&request(command, &argument))),
            2,
            "{command}"
        );
    }
    let cut = worker.session.counters().totals().cut;
    assert_eq!(cut, 8);
    assert_eq!(store.inner.lock().image, before);
}

#[test]
fn what_is_whole_or_longer_is_not() {
    let store = MemStore::new(64);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    let padded = [write(3, 1, 9), vec![0; 700]].concat();
    for argument in [write(3, 2, 9), padded, read(3, 2), ata(0, 0, 200, 0xe7, 0, &[])] {
        worker.answer(&request(0, &argument));
    }
    worker.answer(&request(1, &[0; 8]));
    worker.answer(&request(9, &[]));
    assert_eq!(worker.session.counters().totals().cut, 0);
}
