//! Requests that wait: for the store, for another request, or for their change to be saved.

use std::sync::Arc;

use slab::Slab;

use crate::Export;
use crate::commands::action::Action;
use crate::counters::meter::PutOff;
use crate::frames::link::Link;
use crate::frames::request::Request;
use crate::frames::rx_frame::RxFrame;
use crate::order::place::Place;
use crate::session::completion::{Completions, Token};

/// What a request in flight waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Something that conflicts with it is in flight.
    Waiting,
    /// The store, or the state store, works on it.
    Running,
    /// The same request is in flight; its result comes here.
    Duplicate,
}

/// A request of a link's frames in flight.
pub(crate) type Pending<L, C> = InFlight<RxFrame<<L as Link>::Frame>, C>;

/// A request that was not answered at once, with all that it takes to go on with it.
#[derive(Debug)]
pub(crate) struct InFlight<F, C: Completions> {
    pub frame: F,
    pub export: Arc<Export<C>>,
    pub request: Request,
    /// What it asks for, as last judged.
    pub action: Action,
    /// Its place in the export's order; given up with the request, however that ends.
    pub place: Place<C::Handle>,
    /// What completions for it are named by.
    pub token: Token,
    pub stage: Stage,
    /// Where and since when it counts as in flight.
    pub put_off: Option<PutOff>,
}

#[derive(Debug)]
struct Slot<F, C: Completions> {
    /// Part of the token, so that a late completion does not hit the slot's next user.
    generation: u32,
    /// `None` while the session works on it.
    request: Option<InFlight<F, C>>,
}

/// All requests in flight of one session.
#[derive(Debug)]
pub(crate) struct InFlightTable<F, C: Completions> {
    slots: Slab<Slot<F, C>>,
    generation: u32,
}

impl<F, C: Completions> InFlightTable<F, C> {
    pub(crate) fn new() -> InFlightTable<F, C> {
        InFlightTable {
            slots: Slab::new(),
            generation: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether somebody works on a request that came at this time or later.
    pub(crate) fn has_running(&self, since_us: u64) -> bool {
        let requests = self.slots.iter().filter_map(|(_, slot)| slot.request.as_ref());
        let mut running = requests.filter(|request| request.stage == Stage::Running);
        running.any(|request| {
            let put_off = request.put_off.as_ref();
            put_off.is_none_or(|put_off| put_off.since_us >= since_us)
        })
    }

    /// The token that the next request to be entered must have.
    pub(crate) fn next_token(&self) -> Token {
        token(self.generation, self.slots.vacant_key())
    }

    /// Enters a request, under [`InFlightTable::next_token`], or puts one back that was taken.
    pub(crate) fn put(&mut self, request: InFlight<F, C>) {
        let token = request.token;
        if let Some(slot) = self.slot(token) {
            slot.request = Some(request);
            return;
        }
        debug_assert_eq!(token, self.next_token());
        self.slots.insert(Slot {
            generation: self.generation,
            request: Some(request),
        });
        self.generation = self.generation.wrapping_add(1);
    }

    /// Takes a request out to work on it; its token stays its own until [`InFlightTable::release`].
    pub(crate) fn take(&mut self, token: Token) -> Option<InFlight<F, C>> {
        self.slot(token)?.request.take()
    }

    /// Frees the token of a request that was taken.
    pub(crate) fn release(&mut self, token: Token) {
        if self.slot(token).is_some() {
            self.slots.remove(key(token));
        }
    }

    /// Ends the table: each frame goes to `free`. What stays are the operations that somebody still works on, under their
    /// tokens; all other requests give up their place.
    pub(crate) fn into_running(self, mut free: impl FnMut(F)) -> InFlightTable<(), C> {
        let slots = self.slots.into_iter().map(|(key, slot)| {
            let request = slot.request.and_then(|request| {
                let (frame, request) = request.without_frame();
                free(frame);
                (request.stage == Stage::Running).then_some(request)
            });
            let generation = slot.generation;
            (key, Slot { generation, request })
        });
        let slots = slots.filter(|(_, slot)| slot.request.is_some()).collect();
        InFlightTable {
            slots,
            generation: self.generation,
        }
    }

    fn slot(&mut self, token: Token) -> Option<&mut Slot<F, C>> {
        let generation = token >> 32;
        self.slots
            .get_mut(key(token))
            .filter(|slot| u64::from(slot.generation) == generation)
    }
}

impl<F, C: Completions> InFlight<F, C> {
    /// What stays of it when it cannot be answered any more.
    fn without_frame(self) -> (F, InFlight<(), C>) {
        let request = InFlight {
            frame: (),
            export: self.export,
            request: self.request,
            action: self.action,
            place: self.place,
            token: self.token,
            stage: self.stage,
            // Counted as ended by the session's own thread.
            put_off: None,
        };
        (self.frame, request)
    }
}

fn token(generation: u32, key: usize) -> Token {
    u64::from(generation) << 32 | (key as u64 & 0xffff_ffff)
}

fn key(token: Token) -> usize {
    usize::try_from(token & 0xffff_ffff).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::meter::Meters;
    use crate::order::entry::Requester;
    use crate::order::place::AtOnce;
    use crate::order::scope::{Class, Scope, Span};
    use crate::testing::bench::{ONE, Worker, export, options, request};
    use crate::testing::completions::MemCompletions;
    use crate::testing::store::MemStore;

    fn in_flight(
        export: &Arc<Export<MemCompletions>>,
        stage: Stage,
        token: Token,
    ) -> InFlight<(), MemCompletions> {
        let scope = Scope {
            class: Class::Flush,
            span: Span::NONE,
        };
        let requester = Requester {
            session: MemCompletions::new().handle(),
            token,
        };
        assert!(export.order.begin(scope, ONE, 16));
        let place = AtOnce::new(&export.order, scope).go_on(None, ONE, requester);
        let bytes = request(0, &[0; 12]);
        let port = Worker::new(Vec::new()).port;
        InFlight {
            frame: (),
            export: Arc::clone(export),
            request: Request::parse(&[&bytes], &port).unwrap(),
            action: Action::Flush,
            place,
            token,
            stage,
            put_off: None,
        }
    }

    #[test]
    fn a_token_is_good_for_one_request() {
        let export = export(options(7, 3), &MemStore::new(8));
        let mut table = InFlightTable::new();
        let first = table.next_token();
        table.put(in_flight(&export, Stage::Waiting, first));
        let taken = table.take(first).unwrap();
        assert!(table.take(first).is_none(), "it is out");
        table.put(taken);
        assert!(table.take(first).is_some());
        table.release(first);
        let second = table.next_token();
        table.put(in_flight(&export, Stage::Waiting, second));
        assert!(table.take(first).is_none(), "the slot has another user");
        table.release(first);
        assert!(table.take(second).is_some());
    }

    #[test]
    fn work_that_came_before_a_time_is_told_from_later_work() {
        let export = export(options(7, 3), &MemStore::new(8));
        let mut table = InFlightTable::new();
        let meters = Meters::default();
        let meter = meters.of(options(7, 3).address, options(7, 3).vlan);
        let since = |since_us| Some(PutOff::new(&meter, since_us));
        let old = InFlight {
            put_off: since(100),
            ..in_flight(&export, Stage::Running, table.next_token())
        };
        table.put(old);
        let waiting = InFlight {
            put_off: since(300),
            ..in_flight(&export, Stage::Waiting, table.next_token())
        };
        table.put(waiting);
        assert!(table.has_running(100) && !table.has_running(101));
        let new = InFlight {
            put_off: since(300),
            ..in_flight(&export, Stage::Running, table.next_token())
        };
        table.put(new);
        assert!(table.has_running(300) && !table.has_running(301));
    }

    #[test]
    fn what_is_dropped_gives_up_its_place() {
        let export = export(options(7, 3), &MemStore::new(8));
        let mut table = InFlightTable::new();
        for stage in [Stage::Waiting, Stage::Running, Stage::Running] {
            table.put(in_flight(&export, stage, table.next_token()));
        }
        assert_eq!(export.in_flight(), 3);
        let last = table.next_token();
        table.put(in_flight(&export, Stage::Running, last));
        drop(table.take(last));
        assert_eq!(
            export.in_flight(),
            3,
            "as when the thread panics that works on it"
        );
        let running = table.into_running(drop);
        assert_eq!(
            (running.len(), export.in_flight()),
            (2, 2),
            "the others are not over"
        );
        drop(running);
        assert_eq!(export.in_flight(), 0);
    }
}
