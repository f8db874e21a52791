//! Advertisements: to whom, and at which pace.

use std::collections::HashSet;
use std::sync::Arc;

use aoe_common::{Access, Mac, Vlan};

use crate::testing::bench::{ONE, OTHER, Worker, export, frame_from, options};
use crate::testing::completions::MemCompletions;
use crate::testing::store::MemStore;
use crate::tests::discovery::{QUERY, several, who};
use crate::{AccessList, Export, Exports};

#[test]
fn advertisements_keep_their_pace_and_go_to_those_listed() {
    let store = MemStore::new(64);
    let export_1 = export(options(7, 3), &store);
    let mut tagged_options = options(7, 4);
    tagged_options.vlan = Vlan::Id(9);
    tagged_options.access = [(ONE, Access::ReadOnly), (OTHER, Access::ReadWrite)].into();
    let export_2 = export(tagged_options, &store);
    let mut worker = Worker::new(vec![export_1.clone(), export_2.clone()]);
    let advertise = |worker: &mut Worker, export: &Arc<Export<MemCompletions>>| {
        worker.session.advertise(
            &mut worker.link,
            &worker.port,
            std::slice::from_ref(export),
            worker.now_us,
        );
        worker.sent()
    };
    let first = advertise(&mut worker, &export_1);
    assert_eq!(first.len(), 1);
    assert_eq!(
        (&first[0][..6], first[0][14], &first[0][20..24]),
        (&[0xff; 6][..], 0x18, &[0; 4][..])
    );
    worker.now_us += 300_000;
    assert!(
        advertise(&mut worker, &export_1).is_empty(),
        "not twice in a second"
    );
    assert!(advertise(&mut worker, &export_1).is_empty());
    let two = advertise(&mut worker, &export_2);
    assert_eq!(
        two.iter().map(|frame| &frame[..6]).collect::<Vec<_>>(),
        [ONE.0, OTHER.0]
    );
    assert!(
        two.iter()
            .all(|frame| frame[12..16] == [0x81, 0, 0, 9] && frame.len() == 64)
    );
    let tick = |worker: &mut Worker| {
        let next = worker.session.tick(&mut worker.link, &worker.port, worker.now_us);
        (next, worker.sent().len())
    };
    assert_eq!(tick(&mut worker), (Some(2_000_000), 0));
    worker.now_us = 2_000_000;
    assert_eq!(tick(&mut worker), (None, 1), "what was put off is sent once");
    worker.link.pool = 0;
    worker.now_us = 9_000_000;
    assert!(advertise(&mut worker, &export_1).is_empty());
    worker.link.pool = 9;
    worker.now_us += 1000;
    let next = worker.session.tick(&mut worker.link, &worker.port, worker.now_us);
    assert_eq!(
        (next, worker.sent().len()),
        (None, 1),
        "an empty pool only delays it"
    );
}

#[test]
fn thousands_of_advertisements_go_out_some_at_a_time_and_each_once() {
    const EXPORTS: u16 = 4097;
    let store = MemStore::new(64);
    let exports: Vec<Arc<Export<MemCompletions>>> =
        (0..EXPORTS).map(|n| export(options(n, 1), &store)).collect();
    let mut worker = Worker::new(exports.clone());
    let mut next = worker
        .session
        .advertise(&mut worker.link, &worker.port, &exports, worker.now_us);
    let mut seen = HashSet::new();
    let mut rounds = 0;
    loop {
        let sent = worker.sent();
        assert!(sent.len() <= 64, "{} in one go", sent.len());
        for frame in sent {
            assert!(seen.insert(frame[16..19].to_vec()), "one was sent twice");
        }
        rounds += 1;
        let Some(due) = next else { break };
        assert!(
            due > worker.now_us && due <= worker.now_us + 2000,
            "it goes on at once"
        );
        worker.now_us = due;
        next = worker.session.tick(&mut worker.link, &worker.port, worker.now_us);
    }
    assert_eq!(seen.len(), usize::from(EXPORTS));
    assert!(rounds > 10);
    // Asked for again at once: after a second, and what is not served any more never.
    next = worker
        .session
        .advertise(&mut worker.link, &worker.port, &exports, worker.now_us);
    assert!(worker.sent().len() <= 64 && next.is_some());
    worker
        .session
        .set_exports(Arc::new(Exports::new(exports[..1].to_vec())));
    worker.now_us += 2_000_000;
    worker.session.tick(&mut worker.link, &worker.port, worker.now_us);
    assert!(worker.sent().len() <= 1);
}

/// Sends everything that is due; returns the frames, of which no go may have more than `most`, and how long that took.
fn advertised(worker: &mut Worker, mut next: Option<u64>, most: usize) -> (Vec<Vec<u8>>, u64) {
    let (mut all, begin) = (Vec::new(), worker.now_us);
    loop {
        let sent = worker.sent();
        assert!(sent.len() <= most, "{} in one go", sent.len());
        all.extend(sent);
        let Some(due) = next else { break };
        assert!(due > worker.now_us);
        worker.now_us = due;
        next = worker.session.tick(&mut worker.link, &worker.port, worker.now_us);
    }
    (all, worker.now_us - begin)
}

fn listed(shelf: u16, sources: u64, store: &Arc<MemStore>) -> Arc<Export<MemCompletions>> {
    let mut options = options(shelf, 1);
    let sources = (0..sources).map(|n| (Mac::from_u64(0x0200_0000_0000 | n), Access::ReadWrite));
    options.access = AccessList::new(sources);
    export(options, store)
}

#[test]
fn lists_are_advertised_to_at_the_pace_of_the_port() {
    const EXPORTS: u16 = 100;
    let store = MemStore::new(64);
    let exports: Vec<_> = (0..EXPORTS).map(|n| listed(n, 64, &store)).collect();
    let mut worker = Worker::new(exports.clone());
    let next = worker
        .session
        .advertise(&mut worker.link, &worker.port, &exports, worker.now_us);
    let (frames, took_us) = advertised(&mut worker, next, 32);
    let each: HashSet<_> = frames.iter().map(|frame| &frame[..19]).collect();
    assert_eq!((frames.len(), each.len()), (6400, 6400));
    // Eight times as many as it has exports, a second.
    assert!(took_us >= 6_300 * 1_000_000 / 800, "{took_us}");
}

#[test]
fn a_list_is_gone_on_with_where_memory_was_short() {
    let store = MemStore::new(64);
    let export = listed(1, 5, &store);
    let mut worker = Worker::new(vec![export.clone()]);
    worker.link.pool = 3;
    let next = worker
        .session
        .advertise(&mut worker.link, &worker.port, &[export], worker.now_us);
    assert!(worker.session.has_to_advertise());
    worker.link.pool = 9;
    let (frames, _) = advertised(&mut worker, next, 5);
    let last: Vec<u8> = frames.iter().map(|frame| frame[5]).collect();
    assert_eq!(last, [0, 1, 2, 3, 4]);
}

#[test]
fn a_long_mask_is_advertised_to_by_one_broadcast() {
    let store = MemStore::new(64);
    let export = export(options(7, 3), &store);
    for (sources, frames) in [(64u64, 64), (65, 1)] {
        let mut worker = Worker::new(vec![export.clone()]);
        export.state.write().persistent.mask = (0..sources)
            .map(|n| Mac::from_u64(0x0200_0000_0000 | n))
            .collect();
        let exports = [export.clone()];
        let next = worker
            .session
            .advertise(&mut worker.link, &worker.port, &exports, worker.now_us);
        let (sent, _) = advertised(&mut worker, next, 32);
        assert_eq!(sent.len(), frames);
    }
}

#[test]
fn a_question_for_one_shelf_has_no_other_advertised() {
    let mut worker = Worker::new(several(&MemStore::new(64)));
    let mut ask = |shelf: u16| {
        let query = |n: u64| {
            let source = Mac::from_u64(0x0200_0000_0000 | n);
            frame_from(source, Mac::BROADCAST, shelf, 0xff, 1, 1, &QUERY)
        };
        let mut n = 0;
        while !worker.session.has_to_advertise() {
            worker.ask(&query(n));
            n += 1;
            assert!(n < 10_000);
        }
        let next = worker.session.tick(&mut worker.link, &worker.port, worker.now_us);
        let (frames, _) = advertised(&mut worker, next, 32);
        who(&frames)
    };
    assert_eq!(ask(1), [(1, 1), (1, 2)]);
    // That keeps nobody from hearing of the others.
    let others = ask(0xffff);
    assert!(
        others.contains(&(2, 1)) && others.contains(&(65534, 254)),
        "{others:?}"
    );
}
