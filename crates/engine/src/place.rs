//! A request's place in an export's order: given up however the request ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::index::EntryId;
use super::order::{Requester, Table, Turn};
use super::scope::Fingerprint;
use crate::completion::{CompletionHandle, Token};

/// The order table behind a lock of its own, so that readers side by side can enter what the store defers.
#[derive(Debug)]
pub(super) struct Order<H> {
    table: Mutex<Table<H>>,
    len: AtomicUsize,
}

impl<H> Default for Order<H> {
    fn default() -> Order<H> {
        Order {
            table: Mutex::default(),
            len: AtomicUsize::new(0),
        }
    }
}

impl<H: CompletionHandle> Order<H> {
    /// Works on the table.
    pub fn with<T>(&self, work: impl FnOnce(&mut Table<H>) -> T) -> T {
        let mut table = self.table.lock();
        let result = work(&mut table);
        self.len.store(table.len(), Ordering::Release);
        result
    }

    /// Entries now; under the export's lock none that conflicts can be missed.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }
}

/// Who stands in an entry of the order: as its owner, or as the one to be answered in the owner's place.
///
/// Dropped, as by a panic or with a session that ends, it ends the entry that it owns: those that wait are called, and who would
/// have got the owner's answer learns that there is none.
#[derive(Debug)]
pub(super) struct Place<H: CompletionHandle> {
    order: Arc<Order<H>>,
    entry: EntryId,
    requester: Requester<H>,
    held: bool,
}

impl<H: CompletionHandle> Place<H> {
    /// The place of `requester`, who was entered under this number.
    pub fn new(order: &Arc<Order<H>>, entry: EntryId, requester: Requester<H>) -> Place<H> {
        Place {
            order: Arc::clone(order),
            entry,
            requester,
            held: true,
        }
    }

    /// What completions for the requester are named by.
    pub fn token(&self) -> Token {
        self.requester.token
    }

    /// Asks whether a waiting request may start.
    pub fn turn(&self) -> Turn {
        let Requester { session, token } = &self.requester;
        self.order.with(|table| table.turn(self.entry, session, *token))
    }

    /// True while this requester is the one to be answered in the owner's place.
    pub fn is_newest(&self) -> bool {
        let Requester { session, token } = &self.requester;
        self.order
            .with(|table| table.is_newest(self.entry, session, *token))
    }

    /// Ends the entry and calls those that waited for it; returns who is to be answered in the owner's place, and what the
    /// request was like.
    pub fn finish(mut self) -> (Option<Requester<H>>, Option<Fingerprint>) {
        self.held = false;
        self.order.with(|table| table.finish(self.entry))
    }
}

impl<H: CompletionHandle> Drop for Place<H> {
    fn drop(&mut self) {
        if self.held {
            let Requester { session, token } = &self.requester;
            self.order.with(|table| table.forget(self.entry, session, *token));
        }
    }
}
