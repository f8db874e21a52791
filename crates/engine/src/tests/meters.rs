//! What a session counts of its exports.

use std::sync::Arc;

use crate::store::FaultKind;
use crate::testing::bench::{
    ONE, OTHER, TARGET, Worker, ata, export, frame_from, options, read, request, write,
};
use crate::testing::store::{MemStore, StoreMode};
use crate::{ExportMeter, Exports, Histogram, Latency};

fn row(worker: &Worker) -> Arc<ExportMeter> {
    let rows = worker.session.meters().rows();
    assert_eq!(rows.len(), 1);
    rows[0].clone()
}

fn latency(histogram: &Histogram) -> Latency {
    let mut latency = Latency::default();
    histogram.add_to(&mut latency);
    latency
}

#[test]
fn operations_are_counted_by_export_and_initiator() {
    let mut worker = Worker::new(vec![export(options(7, 3), &MemStore::new(64))]);
    assert!(
        worker.session.meters().rows().is_empty(),
        "no row before the first request"
    );
    worker.ata(&read(5, 2));
    worker.ata(&write(5, 1, 7));
    worker.ata(&ata(0, 0, 0, 0xe7, 0, &[]));
    worker.ata(&read(64, 1));
    worker.answer(&frame_from(OTHER, TARGET, 7, 3, 0, 1, &read(1, 1)));
    let row = row(&worker);
    let counted = [
        &row.reads,
        &row.read_sectors,
        &row.writes,
        &row.written_sectors,
        &row.flushes,
        &row.ata_errors,
        &row.medium_errors,
    ];
    assert_eq!(counted.map(crate::EventCount::get), [2, 3, 1, 1, 1, 1, 0]);
    let initiators = row.initiators.totals();
    assert_eq!(initiators.len(), 2);
    assert_eq!(initiators[0].0, Some(ONE));
    assert_eq!((initiators[0].1.reads, initiators[0].1.errors), (1, 1));
    assert_eq!((initiators[1].0, initiators[1].1.read_sectors), (Some(OTHER), 1));
}

#[test]
fn what_is_answered_at_once_took_as_long_as_its_round() {
    let mut worker = Worker::new(vec![export(options(7, 3), &MemStore::new(64))]);
    worker.ata(&read(5, 2));
    assert_eq!(latency(&row(&worker).read_time).count(), 0, "not known yet");
    worker.now_us += 7;
    worker.poll();
    let took = latency(&row(&worker).read_time);
    assert_eq!((took.count(), took.sum_us), (1, 7));
}

#[test]
fn what_waits_for_the_store_is_in_flight_until_it_is_answered() {
    let store = MemStore::new(64);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    store.mode(StoreMode::Defer);
    worker.ask(&request(0, &write(5, 1, 7)));
    worker.ask(&request(0, &write(5, 1, 8)));
    worker.ask(&request(0, &write(5, 1, 7)));
    let row = row(&worker);
    assert_eq!(row.in_flight(), 3);
    assert_eq!((row.waited.get(), row.duplicates.get()), (1, 1));
    worker.now_us += 100;
    store.finish(0, None);
    worker.poll();
    assert_eq!((row.in_flight(), row.writes.get()), (1, 1));
    assert_eq!(latency(&row.write_time).sum_us, 100);
    worker.now_us += 100;
    store.finish(0, Some(FaultKind::Write));
    worker.poll();
    assert_eq!((row.in_flight(), row.writes.get()), (0, 1));
    assert_eq!((row.medium_errors.get(), row.ata_errors.get()), (1, 0));
}

#[test]
fn counters_outlive_a_change_of_the_exports() {
    let store = MemStore::new(64);
    let mut worker = Worker::new(vec![export(options(7, 3), &store)]);
    worker.ata(&read(5, 1));
    for exports in [Vec::new(), vec![export(options(7, 3), &store)]] {
        worker.session.set_exports(Arc::new(Exports::new(exports)));
    }
    worker.ata(&read(5, 1));
    assert_eq!(row(&worker).reads.get(), 2);
}
