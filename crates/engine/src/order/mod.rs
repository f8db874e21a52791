//! One ordering domain for each export: what is in flight, what waits for it, and who is answered.
//!
//! All workers of all ports that serve the export share it. Every operation on its sectors is entered before the store is called
//! and leaves when it is over. Two of them conflict when they overlap and one of them writes; one that conflicts with what was
//! entered before waits for it. Nothing is copied and nobody is called with a lock held: the locks, one for each
//! [stripe], are held only to look and to enter.
//!
//! What a worker does in the call that brought it is only noted. What the store puts off, and what waits, is an [`Entry`] with all
//! that it takes to go on, and counts in its source's share.

pub(crate) mod entry;
pub(crate) mod late;
pub(crate) mod line;
pub(crate) mod place;
pub(crate) mod scope;
pub(crate) mod shares;
pub(crate) mod stripe;
pub(crate) mod sync;

use std::sync::Arc;

use aoe_common::Mac;
use arrayvec::ArrayVec;

use crate::order::entry::{Entry, Joined, Phase, Requester};
use crate::order::late::LateLog;
use crate::order::line::{Line, Locked};
use crate::order::scope::{Class, Fingerprint, Scope};
use crate::order::shares::Shares;
use crate::order::stripe::{STRIPES, StripeSet};
use crate::order::sync::Mutex;
use crate::session::completion::CompletionHandle;

/// Where a request finds itself.
#[derive(Debug)]
pub(crate) enum Placement<H> {
    /// Nothing in flight stands against it: it is entered as what a worker does now.
    Clear,
    /// It waits for its turn in this entry.
    Waits(Arc<Entry<H>>),
    /// It is in flight already and waits for the result of this entry.
    Duplicate(Arc<Entry<H>>),
    /// Too much is in flight.
    Full,
}

/// What became of a request that waited.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Its turn has come; it counts as running from here on.
    Go,
    /// Something still stands against it.
    NotYet,
    /// A newer requester has taken its place.
    Superseded,
}

/// The order of one export.
#[derive(Debug)]
pub(crate) struct Order<H> {
    stripes: Vec<Line<H>>,
    /// Reads in one, all else in the other: neither keeps the other out.
    shares: [Shares<H>; 2],
    pub late: Mutex<LateLog>,
}

impl<H> Default for Order<H> {
    fn default() -> Order<H> {
        Order {
            stripes: (0..STRIPES).map(|_| Line::default()).collect(),
            shares: Default::default(),
            late: Mutex::default(),
        }
    }
}

impl<H: CompletionHandle> Order<H> {
    /// Entries now: requests that the store works on, and those that wait.
    pub(crate) fn len(&self) -> usize {
        let [reads, others] = &self.shares;
        reads.total().saturating_add(others.total())
    }

    /// The line of an operation that has only one.
    #[inline]
    fn only(&self, set: StripeSet) -> Option<&Line<H>> {
        self.stripes.get(set.only()?)
    }

    fn stripe(&self, number: usize) -> Option<Locked<'_, H>> {
        self.stripes.get(number).map(Line::lock)
    }

    /// Works on stripes together, so that operations over several are entered in the same order in all.
    #[inline]
    fn with<T>(&self, set: StripeSet, work: impl FnOnce(&mut [Locked<'_, H>]) -> T) -> T {
        let mut locked: ArrayVec<_, STRIPES> = ArrayVec::new();
        locked.extend(set.iter().filter_map(|number| self.stripe(number)));
        work(&mut locked)
    }

    /// Enters an operation that a worker does now, where nothing is in flight that stands against it or may be the same request.
    #[inline]
    pub(crate) fn begin(&self, scope: Scope, source: Mac, max: usize) -> bool {
        if !self.shares(scope.class).is_open(source, max) {
            return false;
        }
        let set = StripeSet::of(scope);
        if self.only(set).is_some_and(|line| line.try_begin(scope)) {
            return true;
        }
        self.with(set, |stripes| {
            let free = stripes.iter().all(|stripe| stripe.is_free_for(scope));
            if free {
                stripes.iter_mut().for_each(|stripe| stripe.begin(scope));
            }
            free
        })
    }

    /// Finds a request its place: beside, behind or instead of what is in flight. At most `max` entries of its kind (and as many
    /// more as there are workers that begin at the same moment), and of these a source has its share, at `now_us`.
    pub(crate) fn place(
        &self,
        scope: Scope,
        fingerprint: Option<Fingerprint>,
        (source, max, now_us): (Mac, usize, u64),
        requester: &Requester<H>,
    ) -> Placement<H> {
        let has_room = self.shares(scope.class).has_room(source, max, now_us);
        let owner = (requester.clone(), Phase::Waiting);
        let entry = Arc::new(Entry::new(scope, fingerprint, source, owner));
        let mut calls = Vec::new();
        let placement = self.with(StripeSet::of(scope), |stripes| {
            // The latest one that is the same. This request is then as if it had arrived right after that one,
            // and one in between that conflicts takes effect after both. Nobody can tell: none of them has been answered, so
            // no order was promised.
            for same in stripes.iter().take(1).flat_map(|stripe| stripe.same(&entry)) {
                match same.join(requester.clone(), &mut calls) {
                    Joined::Owner => return Placement::Waits(Arc::clone(same)),
                    Joined::Follower => return Placement::Duplicate(Arc::clone(same)),
                    Joined::TooLate => {}
                }
            }
            if !has_room {
                return Placement::Full;
            }
            let conflicts = stripes.iter().any(|stripe| stripe.conflicts(scope));
            if conflicts {
                self.shares(scope.class).add(&entry);
            }
            if conflicts || self.shares(scope.class).add_if_it_waits(&entry) {
                stripes
                    .iter_mut()
                    .for_each(|stripe| stripe.wait(Arc::clone(&entry)));
                return Placement::Waits(entry);
            }
            stripes.iter_mut().for_each(|stripe| stripe.begin(scope));
            Placement::Clear
        });
        calls.iter().for_each(Requester::call);
        placement
    }

    #[inline]
    fn shares(&self, class: Class) -> &Shares<H> {
        let [reads, others] = &self.shares;
        if class == Class::Read { reads } else { others }
    }

    /// An operation that a worker has begun goes on: the store has put it off.
    pub(crate) fn go_on(
        &self,
        scope: Scope,
        fingerprint: Option<Fingerprint>,
        source: Mac,
        owner: Requester<H>,
    ) -> Arc<Entry<H>> {
        let entry = Arc::new(Entry::new(scope, fingerprint, source, (owner, Phase::Running)));
        self.shares(scope.class).add(&entry);
        self.with(StripeSet::of(scope), |stripes| {
            stripes
                .iter_mut()
                .for_each(|stripe| stripe.go_on(Arc::clone(&entry)));
        });
        entry
    }

    /// A worker has done an operation that it had begun: what waited for it is called.
    #[inline]
    pub(crate) fn leave(&self, scope: Scope) {
        let set = StripeSet::of(scope);
        if self.only(set).is_some_and(|line| line.try_leave(scope)) {
            return;
        }
        for number in set.iter() {
            let mut calls = Vec::new();
            if let Some(mut stripe) = self.stripe(number) {
                stripe.leave(scope, &mut calls);
            }
            calls.iter().for_each(Requester::call);
        }
    }

    /// Asks whether a waiting request may start.
    pub(crate) fn turn(&self, entry: &Arc<Entry<H>>, requester: &Requester<H>) -> Turn {
        if !entry.is_owned_by(requester) {
            return Turn::Superseded;
        }
        // One after the other: what does not stand against it in a stripe will not do so later.
        for number in StripeSet::of(entry.scope).iter() {
            let Some(stripe) = self.stripe(number) else {
                continue;
            };
            if stripe.is_blocked(entry) {
                entry.wait_on();
                return Turn::NotYet;
            }
        }
        if !self.shares(entry.scope.class).turn(entry) {
            return Turn::NotYet;
        }
        if entry.start(requester) {
            Turn::Go
        } else {
            Turn::Superseded
        }
    }

    /// Ends an entry and calls those that waited for it; returns who is to be answered in the owner's place.
    pub(crate) fn finish(&self, entry: &Arc<Entry<H>>) -> Option<Requester<H>> {
        let newest = entry.end();
        self.remove(entry);
        newest
    }

    /// Forgets a request of a worker that ends. What it ran is over as far as order goes; a duplicate that waited
    /// for the outcome learns that there is none.
    pub(crate) fn forget(&self, entry: &Arc<Entry<H>>, requester: &Requester<H>) {
        let mut calls = Vec::new();
        if entry.abandon(requester, &mut calls) {
            self.remove(entry);
        }
        calls.iter().for_each(Requester::call);
    }

    fn remove(&self, entry: &Arc<Entry<H>>) {
        for number in StripeSet::of(entry.scope).iter() {
            let mut calls = Vec::new();
            if let Some(mut stripe) = self.stripe(number) {
                stripe.remove(entry, &mut calls);
            }
            calls.iter().for_each(Requester::call);
        }
        let calls = self.shares(entry.scope.class).remove(entry);
        calls.iter().for_each(Requester::call);
    }

    /// True while a change of the protocol state is being saved or waits for that.
    pub(crate) fn has_admin(&self) -> bool {
        self.stripe(0).is_some_and(|common| common.has_admin())
    }
}
