//! Requests that wait: for the store, for another request, or for their change to be saved.

use std::sync::Arc;

use slab::Slab;

use super::order::EntryId;
use super::request::Request;
use super::work::Work;
use super::{Change, Export, Persistent};
use crate::admin::Verdict;
use crate::completion::{Completions, Token};

/// Why a request is parked.
#[derive(Debug)]
pub(super) enum Role {
    /// Something that conflicts with it is in flight.
    Waiting,
    /// The store works on it.
    Running(Work),
    /// The same request is in flight; its outcome comes here.
    Watching(Work),
    /// The keeper saves the state that it asked for.
    Saving(Box<Persistent>, Change, Verdict),
}

/// A parked request with its frame.
#[derive(Debug)]
pub(super) struct Parked<F, C: Completions> {
    pub frame: F,
    pub export: Arc<Export<C>>,
    pub request: Request,
    pub entry: EntryId,
    pub role: Role,
}

#[derive(Debug)]
struct Slot<F, C: Completions> {
    /// Part of the token, so that a late completion does not hit the slot's next tenant.
    generation: u32,
    /// `None` while the session works on it.
    parked: Option<Parked<F, C>>,
}

/// All parked requests of one session. Dropped with requests in it, it takes them out of their exports' order.
#[derive(Debug)]
pub(super) struct Parking<F, C: Completions> {
    session: C::Handle,
    slots: Slab<Slot<F, C>>,
    generation: u32,
}

impl<F, C: Completions> Parking<F, C> {
    pub fn new(session: C::Handle) -> Parking<F, C> {
        Parking {
            session,
            slots: Slab::new(),
            generation: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The token that the next [`Parking::park`] gives.
    pub fn next_token(&self) -> Token {
        token(self.generation, self.slots.vacant_key())
    }

    pub fn park(&mut self, parked: Parked<F, C>) -> Token {
        let token = self.next_token();
        self.slots.insert(Slot {
            generation: self.generation,
            parked: Some(parked),
        });
        self.generation = self.generation.wrapping_add(1);
        token
    }

    /// Takes a request out to work on it; its token stays its own until [`Parking::release`].
    pub fn take(&mut self, token: Token) -> Option<Parked<F, C>> {
        self.slot(token)?.parked.take()
    }

    /// Puts it back.
    pub fn put_back(&mut self, token: Token, parked: Parked<F, C>) {
        if let Some(slot) = self.slot(token) {
            slot.parked = Some(parked);
        }
    }

    /// Frees the token of a request that was taken.
    pub fn release(&mut self, token: Token) {
        if self.slot(token).is_some() {
            self.slots.remove(key(token));
        }
    }

    /// Any request that is left, taken out of its export's order.
    pub fn evict(&mut self) -> Option<Parked<F, C>> {
        loop {
            let (key, slot) = self.slots.iter().next()?;
            let token = token(slot.generation, key);
            let Some(parked) = self.slots.remove(key).parked else {
                continue;
            };
            parked
                .export
                .state
                .read()
                .order
                .with(|table| table.forget(parked.entry, &self.session, token));
            return Some(parked);
        }
    }

    fn slot(&mut self, token: Token) -> Option<&mut Slot<F, C>> {
        let generation = token >> 32;
        self.slots
            .get_mut(key(token))
            .filter(|slot| u64::from(slot.generation) == generation)
    }
}

impl<F, C: Completions> Drop for Parking<F, C> {
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
    use std::sync::Arc;

    use super::*;
    use crate::order::{Class, Scope, Span};
    use crate::testing::bench::{Worker, export, options, request};
    use crate::testing::completions::MemCompletions;
    use crate::testing::store::MemStore;

    #[test]
    fn a_token_is_good_for_one_request() {
        let export = export(options(7, 3), &MemStore::new(8));
        let bytes = request(0, &[0; 12]);
        let own = Worker::new(Vec::new()).port.mac;
        let parked = || Parked {
            frame: (),
            export: Arc::clone(&export),
            request: Request::parse(&[&bytes], own).unwrap(),
            entry: 0,
            role: Role::Waiting,
        };
        let mut parking = Parking::new(MemCompletions::new().handle());
        let expected = parking.next_token();
        let first = parking.park(parked());
        assert_eq!(first, expected);
        assert!(parking.take(first).is_some());
        assert!(parking.take(first).is_none(), "it is out");
        parking.put_back(first, parked());
        assert!(parking.take(first).is_some());
        parking.release(first);
        let second = parking.park(parked());
        assert!(parking.take(first).is_none(), "the slot has another tenant");
        parking.release(first);
        assert!(parking.take(second).is_some());
    }

    #[test]
    fn the_end_of_a_session_clears_its_entries() {
        let export = export(options(7, 3), &MemStore::new(8));
        let bytes = request(0, &[0; 12]);
        let own = Worker::new(Vec::new()).port.mac;
        let session = MemCompletions::new().handle();
        let mut parking = Parking::new(session.clone());
        let asker = crate::order::Asker {
            session,
            token: parking.next_token(),
        };
        let scope = Scope {
            class: Class::Fence,
            span: Span::NONE,
        };
        let entry = export
            .state
            .read()
            .order
            .with(|table| table.run(scope, None, asker));
        parking.park(Parked {
            frame: (),
            export: Arc::clone(&export),
            request: Request::parse(&[&bytes], own).unwrap(),
            entry,
            role: Role::Waiting,
        });
        assert_eq!(export.in_flight(), 1);
        drop(parking);
        assert_eq!(export.in_flight(), 0);
    }
}
