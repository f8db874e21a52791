//! Random commands of three hosts through three workers, against a simple model of what must come out.
//!
//! The model keeps the image, the protocol state and the requests in arrival order. A request starts when nothing
//! before it that conflicts is unfinished; it is judged and takes effect then; it is answered when the store, which
//! puts off and reorders at will, has finished it. A copy of an unfinished request takes its place.

use std::collections::BTreeMap;

use proptest::prelude::*;

mod op;
mod oracle;

use op::{Answer, HOSTS, Op, SECTORS, op, read_answer};
use oracle::Model;

use crate::Persistent;
use crate::testing::bench::{Worker, export, options};
use crate::testing::store::{MemStore, StoreMode};

#[derive(Clone, Debug)]
enum Step {
    Ask {
        worker: usize,
        host: usize,
        op: Op,
    },
    /// The `n`th unfinished request again.
    Again {
        worker: usize,
        n: usize,
    },
    /// Ends the `n`th operation that the store has put off.
    Finish(usize),
    /// The store puts operations off, or not.
    Defer(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize, 0..3usize, op()).prop_map(|(worker, host, op)| Step::Ask { worker, host, op }),
        2 => (0..3usize, any::<usize>()).prop_map(|(worker, n)| Step::Again { worker, n }),
        4 => any::<usize>().prop_map(Step::Finish),
        1 => any::<bool>().prop_map(Step::Defer),
    ]
}

/// Lets every worker go on until none has anything to do; returns all replies by tag.
fn settle(workers: &mut [Worker]) -> BTreeMap<u32, Answer> {
    let mut replies = BTreeMap::new();
    for _ in 0..20 {
        for reply in workers.iter_mut().flat_map(Worker::poll) {
            let tag = u32::from_be_bytes(reply[20..24].try_into().unwrap());
            assert!(
                replies.insert(tag, read_answer(&reply)).is_none(),
                "tag {tag} answered twice"
            );
        }
    }
    replies
}

fn play(steps: Vec<Step>, again: bool) {
    let store = MemStore::new(usize::try_from(SECTORS).unwrap());
    store.inner.lock().again = again;
    let export = export(options(7, 3), &store);
    let mut workers = [(); 3].map(|()| Worker::new(vec![export.clone()]));
    let mut model = Model {
        image: store.inner.lock().image.clone(),
        state: Persistent::default(),
        unfinished: Vec::new(),
        answers: BTreeMap::new(),
        defer: false,
    };
    let finish_all = std::iter::once(Step::Defer(false)).chain((0..200).map(Step::Finish));
    for (tag, step) in (1..).zip(steps.into_iter().chain(finish_all)) {
        let mut replies = BTreeMap::new();
        match &step {
            Step::Defer(defer) => {
                model.defer = *defer;
                store.mode(if *defer {
                    StoreMode::Defer
                } else {
                    StoreMode::Prompt
                });
            }
            Step::Ask { worker, host, op } => {
                model.ask(*host, op, tag);
                ask(&mut workers[*worker], &op.frame(HOSTS[*host], tag), &mut replies);
            }
            Step::Again { worker, n } => {
                let Some(request) = model.unfinished.get(n % model.unfinished.len().max(1)).cloned() else {
                    continue;
                };
                model.ask(request.host, &request.op, tag);
                ask(
                    &mut workers[*worker],
                    &request.op.frame(HOSTS[request.host], tag),
                    &mut replies,
                );
            }
            Step::Finish(n) => {
                let Some(n) = n.checked_rem(store.deferred()) else {
                    continue;
                };
                store.finish(n, None);
                replies.append(&mut finished(&mut model, &mut workers));
            }
        }
        replies.append(&mut settle(&mut workers));
        assert_eq!(replies, std::mem::take(&mut model.answers), "after {step:?}");
        assert_eq!(export.persistent(), model.state);
        assert_eq!(export.in_flight(), model.unfinished.len());
    }
    assert!(model.unfinished.is_empty());
    assert_eq!(store.inner.lock().image, model.image);
    assert_eq!(
        workers
            .iter()
            .map(|worker| worker.session.pending())
            .sum::<usize>(),
        0
    );
}

/// The store has finished an operation. Which request that was it cannot say; the answer can: the first that comes out.
fn finished(model: &mut Model, workers: &mut [Worker]) -> BTreeMap<u32, Answer> {
    let replies = settle(workers);
    let ended: Vec<u32> = model
        .unfinished
        .iter()
        .filter(|request| request.started.is_some() && replies.contains_key(&request.tag))
        .map(|request| request.tag)
        .collect();
    assert_eq!(ended.len(), 1, "one operation, one answer: {replies:?}");
    model.finish(ended[0]);
    replies
}

fn ask(worker: &mut Worker, frame: &[u8], replies: &mut BTreeMap<u32, Answer>) {
    for reply in worker.ask(frame) {
        replies.insert(
            u32::from_be_bytes(reply[20..24].try_into().unwrap()),
            read_answer(&reply),
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_does_what_the_model_does(
        steps in proptest::collection::vec(step(), 1..80),
        again in any::<bool>(),
    ) {
        play(steps, again);
    }
}

/// Fixed points of the model itself, so that it is not the engine's mirror in everything.
#[test]
fn the_model_knows_order() {
    let write = |byte| Step::Ask {
        worker: 0,
        host: 0,
        op: Op::Write(1, 1, byte),
    };
    play(
        vec![
            Step::Defer(true),
            write(1),
            write(2),
            Step::Ask {
                worker: 1,
                host: 1,
                op: Op::Read(1, 1),
            },
        ],
        false,
    );
}
