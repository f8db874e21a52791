//! Requests that wait: for the store, for another request, or for their change to be saved.

use std::sync::Arc;

use slab::Slab;

use super::Export;
use super::action::Action;
use super::meter::PutOff;
use super::order::EntryId;
use super::request::Request;
use crate::completion::{Completions, Token};

/// What a request in flight waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Something that conflicts with it is in flight.
    Waiting,
    /// The store, or the state store, works on it.
    Running,
    /// The same request is in flight; its result comes here.
    Duplicate,
}

/// A request that was not answered at once, with all that it takes to go on with it.
#[derive(Debug)]
pub(super) struct InFlight<F, C: Completions> {
    pub frame: F,
    pub export: Arc<Export<C>>,
    pub request: Request,
    /// What it asks for, as last judged.
    pub action: Action,
    /// Its place in the export's order.
    pub entry: EntryId,
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

/// All requests in flight of one session. Dropped with requests in it, it takes them out of their exports' order.
#[derive(Debug)]
pub(super) struct InFlightTable<F, C: Completions> {
    session: C::Handle,
    slots: Slab<Slot<F, C>>,
    generation: u32,
}

impl<F, C: Completions> InFlightTable<F, C> {
    pub fn new(session: C::Handle) -> InFlightTable<F, C> {
        InFlightTable {
            session,
            slots: Slab::new(),
            generation: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The token that the next request to be entered must have.
    pub fn next_token(&self) -> Token {
        token(self.generation, self.slots.vacant_key())
    }

    /// Enters a request, under [`InFlightTable::next_token`], or puts one back that was taken.
    pub fn put(&mut self, request: InFlight<F, C>) {
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
    pub fn take(&mut self, token: Token) -> Option<InFlight<F, C>> {
        self.slot(token)?.request.take()
    }

    /// Frees the token of a request that was taken.
    pub fn release(&mut self, token: Token) {
        if self.slot(token).is_some() {
            self.slots.remove(key(token));
        }
    }

    /// Any request that is left, taken out of its export's order.
    pub fn evict(&mut self) -> Option<InFlight<F, C>> {
        loop {
            let (key, _) = self.slots.iter().next()?;
            let Some(request) = self.slots.remove(key).request else {
                continue;
            };
            request
                .export
                .state
                .read()
                .order
                .with(|table| table.forget(request.entry, &self.session, request.token));
            return Some(request);
        }
    }

    fn slot(&mut self, token: Token) -> Option<&mut Slot<F, C>> {
        let generation = token >> 32;
        self.slots
            .get_mut(key(token))
            .filter(|slot| u64::from(slot.generation) == generation)
    }
}

impl<F, C: Completions> Drop for InFlightTable<F, C> {
    fn drop(&mut self) {
        while self.evict().is_some() {}
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
    use crate::order::Requester;
    use crate::scope::{Class, Scope, Span};
    use crate::testing::bench::{Worker, export, options, request};
    use crate::testing::completions::MemCompletions;
    use crate::testing::store::MemStore;

    fn in_flight(
        export: &Arc<Export<MemCompletions>>,
        entry: EntryId,
        token: Token,
    ) -> InFlight<(), MemCompletions> {
        let bytes = request(0, &[0; 12]);
        let port = Worker::new(Vec::new()).port;
        InFlight {
            frame: (),
            export: Arc::clone(export),
            request: Request::parse(&[&bytes], &port).unwrap(),
            action: Action::Flush,
            entry,
            token,
            stage: Stage::Waiting,
            put_off: None,
        }
    }

    #[test]
    fn a_token_is_good_for_one_request() {
        let export = export(options(7, 3), &MemStore::new(8));
        let mut table = InFlightTable::new(MemCompletions::new().handle());
        let first = table.next_token();
        table.put(in_flight(&export, 0, first));
        let taken = table.take(first).unwrap();
        assert!(table.take(first).is_none(), "it is out");
        table.put(taken);
        assert!(table.take(first).is_some());
        table.release(first);
        let second = table.next_token();
        table.put(in_flight(&export, 0, second));
        assert!(table.take(first).is_none(), "the slot has another user");
        table.release(first);
        assert!(table.take(second).is_some());
    }

    #[test]
    fn the_end_of_a_session_clears_its_entries() {
        let export = export(options(7, 3), &MemStore::new(8));
        let session = MemCompletions::new().handle();
        let mut in_flights = InFlightTable::new(session.clone());
        let token = in_flights.next_token();
        let scope = Scope {
            class: Class::Fence,
            span: Span::NONE,
        };
        let entry = export
            .state
            .read()
            .order
            .with(|table| table.run(scope, None, Requester { session, token }));
        in_flights.put(in_flight(&export, entry, token));
        assert_eq!(export.in_flight(), 1);
        drop(in_flights);
        assert_eq!(export.in_flight(), 0);
    }
}
