//! A request's place in an export's order: given up however the request ends.

use aoe_common::Mac;
use std::sync::Arc;

use crate::order::entry::{Entry, Requester};
use crate::order::scope::{Fingerprint, Scope};
use crate::order::{Order, Turn};
use crate::session::completion::{CompletionHandle, Token};

/// An operation that a worker does in the call that brought it. Dropped, as by a panic, it is over, and those that wait are called.
#[derive(Debug)]
pub(crate) struct AtOnce<'a, H: CompletionHandle> {
    order: &'a Arc<Order<H>>,
    scope: Scope,
    held: bool,
}

impl<'a, H: CompletionHandle> AtOnce<'a, H> {
    /// An operation that has been entered.
    #[inline]
    pub(crate) fn new(order: &'a Arc<Order<H>>, scope: Scope) -> AtOnce<'a, H> {
        let held = true;
        AtOnce { order, scope, held }
    }

    /// The store has put it off: the place in which it goes on.
    pub(crate) fn go_on(
        mut self,
        fingerprint: Option<Fingerprint>,
        source: Mac,
        owner: Requester<H>,
    ) -> Place<H> {
        self.held = false;
        let entry = self.order.go_on(self.scope, fingerprint, source, owner.clone());
        Place::new(self.order, entry, owner)
    }
}

impl<H: CompletionHandle> Drop for AtOnce<'_, H> {
    #[inline]
    fn drop(&mut self) {
        if self.held {
            self.order.leave(self.scope);
        }
    }
}

/// Who stands in an entry of the order: as its owner, or as the one to be answered in the owner's place.
///
/// Dropped, as by a panic or with a session that ends, it ends the entry that it owns: those that wait are called, and who would
/// have got the owner's answer learns that there is none.
#[derive(Debug)]
pub(crate) struct Place<H: CompletionHandle> {
    order: Arc<Order<H>>,
    entry: Arc<Entry<H>>,
    requester: Requester<H>,
    held: bool,
}

impl<H: CompletionHandle> Place<H> {
    /// The place of `requester` in an entry.
    pub(crate) fn new(order: &Arc<Order<H>>, entry: Arc<Entry<H>>, requester: Requester<H>) -> Place<H> {
        Place {
            order: Arc::clone(order),
            entry,
            requester,
            held: true,
        }
    }

    /// What completions for the requester are named by.
    pub(crate) fn token(&self) -> Token {
        self.requester.token
    }

    /// What a duplicate of the request looks like.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.entry.fingerprint
    }

    /// Asks whether a waiting request may start.
    pub(crate) fn turn(&self) -> Turn {
        self.order.turn(&self.entry, &self.requester)
    }

    /// True while this requester is the one to be answered in the owner's place.
    pub(crate) fn is_newest(&self) -> bool {
        self.entry.is_newest(&self.requester)
    }

    /// Ends the entry and calls those that waited for it; returns who is to be answered in the owner's place.
    pub(crate) fn finish(mut self) -> Option<Requester<H>> {
        self.held = false;
        self.order.finish(&self.entry)
    }
}

impl<H: CompletionHandle> Drop for Place<H> {
    fn drop(&mut self) {
        if self.held {
            self.order.forget(&self.entry, &self.requester);
        }
    }
}
