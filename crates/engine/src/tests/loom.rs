//! Every way in which threads can meet in the order of an export, within bounds: loom runs them one by one.
//!
//! `RUSTFLAGS='--cfg loom' cargo test --package engine --lib loom`; `cargo xtask test loom` does that.

use std::sync::Arc as StdArc;

use aoe_common::Mac;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::order::entry::Requester;
use crate::order::place::{AtOnce, Place};
use crate::order::scope::{Class, Fingerprint, Scope, Span};
use crate::order::{Order, Placement, Turn};
use crate::{Completion, CompletionHandle, Event, Token};

const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const MAX: usize = 16;

/// Where one session is told that something has happened.
#[derive(Clone, Debug)]
struct TestQueue(Arc<Mutex<Vec<Completion>>>);

impl TestQueue {
    fn new() -> TestQueue {
        TestQueue(Arc::new(Mutex::new(Vec::new())))
    }

    /// Waits for the next call.
    fn wait(&self) -> Event {
        loop {
            if let Some(completion) = self.0.lock().unwrap().pop() {
                return completion.event;
            }
            thread::yield_now();
        }
    }
}

impl PartialEq for TestQueue {
    fn eq(&self, other: &TestQueue) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TestQueue {}

impl CompletionHandle for TestQueue {
    fn post(&self, completion: Completion) {
        self.0.lock().unwrap().push(completion);
    }
}

fn scope(class: Class, first: u64, end: u64) -> Scope {
    Scope {
        class,
        span: Span { first, end },
    }
}

fn requester(queue: &TestQueue, token: Token) -> Requester<TestQueue> {
    Requester {
        session: queue.clone(),
        token,
    }
}

/// What a session does with an operation, as the engine's: at once, or when its turn comes. `put_off`: the store goes on after the call.
fn run(order: &StdArc<Order<TestQueue>>, scope: Scope, put_off: bool, at: impl Fn()) {
    let queue = TestQueue::new();
    let me = requester(&queue, 1);
    let placement = if order.begin(scope, SOURCE, MAX) {
        Placement::Clear
    } else {
        order.place(scope, None, (SOURCE, MAX, 0), &me)
    };
    match placement {
        Placement::Clear => {
            let at_once = AtOnce::new(order, scope);
            if put_off {
                let place = at_once.go_on(None, SOURCE, me);
                at();
                assert!(place.finish().is_none());
            } else {
                at();
            }
        }
        Placement::Waits(entry) => {
            let place = Place::new(order, entry, me);
            loop {
                match place.turn() {
                    Turn::Go => break,
                    Turn::NotYet => assert!(matches!(queue.wait(), Event::Again)),
                    Turn::Superseded => unreachable!("nobody asked for the same"),
                }
            }
            at();
            assert!(place.finish().is_none());
        }
        other => unreachable!("{other:?}"),
    }
}

/// Sectors that loom watches: a write beside anything else is found.
struct Sectors(Vec<UnsafeCell<u8>>);

impl Sectors {
    fn new(count: usize) -> Arc<Sectors> {
        Arc::new(Sectors((0..count).map(|_| UnsafeCell::new(0)).collect()))
    }

    fn touch(&self, scope: Scope) {
        let (first, end) = (scope.span.first as usize / 64, scope.span.end as usize / 64);
        for sector in &self.0[first..end.min(self.0.len())] {
            match scope.class {
                Class::Write => sector.with_mut(|_| ()),
                _ => sector.with(|_| ()),
            }
        }
    }
}

/// Two threads, each with these operations; every overlap is watched.
fn meet(one: &'static [(Scope, bool)], other: &'static [(Scope, bool)]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let (order, sectors) = (StdArc::new(Order::default()), Sectors::new(3));
        let thread = thread::spawn({
            let (order, sectors) = (StdArc::clone(&order), Arc::clone(&sectors));
            move || {
                other
                    .iter()
                    .for_each(|(scope, put_off)| run(&order, *scope, *put_off, || sectors.touch(*scope)))
            }
        });
        one.iter()
            .for_each(|(scope, put_off)| run(&order, *scope, *put_off, || sectors.touch(*scope)));
        thread.join().unwrap();
        assert_eq!(order.len(), 0);
        assert!(
            order.begin(scope(Class::Fence, 0, 0), SOURCE, MAX),
            "nothing is left"
        );
        order.leave(scope(Class::Fence, 0, 0));
    });
}

const WRITE: Scope = Scope {
    class: Class::Write,
    span: Span { first: 0, end: 64 },
};
const READ: Scope = Scope {
    class: Class::Read,
    span: Span { first: 0, end: 64 },
};
/// Over several stripes.
const LONG_WRITE: Scope = Scope {
    class: Class::Write,
    span: Span { first: 0, end: 192 },
};
const LONG_READ: Scope = Scope {
    class: Class::Read,
    span: Span { first: 0, end: 192 },
};

#[test]
fn writes_of_the_same_sectors_take_turns() {
    meet(&[(WRITE, false)], &[(WRITE, false)]);
    meet(&[(WRITE, true)], &[(WRITE, false)]);
    meet(&[(WRITE, true)], &[(WRITE, true)]);
}

#[test]
fn a_read_never_meets_a_write() {
    meet(&[(READ, false), (READ, false)], &[(WRITE, false)]);
    meet(&[(READ, true)], &[(WRITE, false)]);
}

#[test]
fn what_lies_in_several_stripes_neither_meets_nor_waits_for_ever() {
    meet(&[(LONG_WRITE, false)], &[(LONG_READ, false)]);
    meet(&[(LONG_WRITE, true)], &[(WRITE, false)]);
    meet(&[(LONG_WRITE, false)], &[(LONG_WRITE, true)]);
}

#[test]
fn a_duplicate_is_answered_or_runs_for_itself() {
    const TOKEN: Token = 1;
    loom::model(|| {
        let order = StdArc::new(Order::default());
        let like = Fingerprint {
            opcode: 0x34,
            lba: 0,
            count: 64,
            source: None,
            digest: 7,
        };
        let runs = Arc::new(AtomicUsize::new(0));
        let first = TestQueue::new();
        assert!(order.begin(WRITE, SOURCE, MAX));
        let place = AtOnce::new(&order, WRITE).go_on(Some(like), SOURCE, requester(&first, TOKEN));
        let thread = thread::spawn({
            let (order, runs) = (StdArc::clone(&order), Arc::clone(&runs));
            move || {
                let queue = TestQueue::new();
                let me = requester(&queue, TOKEN);
                match order.place(WRITE, Some(like), (SOURCE, MAX, 0), &me) {
                    Placement::Duplicate(entry) => {
                        let place = Place::new(&order, entry, me);
                        assert!(matches!(queue.wait(), Event::Finished(Ok(None))));
                        drop(place);
                    }
                    Placement::Waits(entry) => {
                        let place = Place::new(&order, entry, me);
                        while place.turn() != Turn::Go {
                            queue.wait();
                        }
                        runs.fetch_add(1, Ordering::Relaxed);
                    }
                    Placement::Clear => {
                        runs.fetch_add(1, Ordering::Relaxed);
                        drop(AtOnce::new(&order, WRITE));
                    }
                    Placement::Full => unreachable!(),
                }
            }
        });
        let newest = place.finish();
        let answered = newest.is_some();
        if let Some(newest) = newest {
            newest.post(Event::Finished(Ok(None)));
        }
        thread.join().unwrap();
        assert_eq!(usize::from(answered) + runs.load(Ordering::Relaxed), 1, "once");
        assert_eq!(order.len(), 0);
    });
}

#[test]
fn a_session_that_ends_calls_those_that_wait() {
    loom::model(|| {
        let order = StdArc::new(Order::default());
        let gone = TestQueue::new();
        assert!(order.begin(WRITE, SOURCE, MAX));
        let place = AtOnce::new(&order, WRITE).go_on(None, SOURCE, requester(&gone, 1));
        let thread = thread::spawn({
            let order = StdArc::clone(&order);
            move || run(&order, READ, false, || ())
        });
        drop(place);
        thread.join().unwrap();
        assert_eq!(order.len(), 0);
    });
}
