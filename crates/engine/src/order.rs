//! One ordering domain for each export: what is in flight, what waits for it, and who is answered.
//!
//! All workers of all ports that serve the export share it. Operations that a store finishes at once never appear
//! here: they run under the export's lock. What a store defers, and what must wait for it, is an entry, in arrival
//! order, until it ends. Two entries conflict when they overlap and one of them writes; an entry that conflicts
//! with an earlier one waits for it.

use std::collections::BTreeMap;
use std::ops::Bound;

use aoe_common::Mac;

use super::index::{EntryId, Index};
use super::late::LateLog;
use super::mutants::{self, Mutant};
use super::scope::{Class, Fingerprint, Scope};
use super::shares::Shares;
use crate::completion::{Completion, CompletionHandle, Event, Token};

/// A request in flight on some worker.
#[derive(Clone, Debug)]
pub(super) struct Requester<H> {
    /// The session that it is in flight on.
    pub session: H,
    pub token: Token,
}

impl<H: CompletionHandle> Requester<H> {
    fn is(&self, session: &H, token: Token) -> bool {
        self.token == token && self.session == *session
    }

    /// Tells it to look at the table again.
    pub fn call(&self) {
        self.post(Event::Again);
    }

    pub fn post(&self, event: Event) {
        self.session.post(Completion {
            token: self.token,
            event,
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// Nothing conflicts any more; its owner has been told.
    Called,
    Running,
}

#[derive(Debug)]
struct Entry<H> {
    scope: Scope,
    fingerprint: Option<Fingerprint>,
    /// Whose share it counts in.
    source: Mac,
    phase: Phase,
    /// Runs it, or will.
    owner: Requester<H>,
    /// Gets the answer in the owner's place.
    newest: Option<Requester<H>>,
}

/// Where a request finds itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Nothing in flight stands against it: go on.
    Clear,
    /// It waits for its turn in this entry.
    Waits(EntryId),
    /// It is in flight already and waits for the result of this entry.
    Duplicate(EntryId),
    /// Too much is in flight.
    Full,
}

/// What became of a request that waited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its turn has come; it counts as running from here on.
    Go,
    /// Something still stands against it.
    NotYet,
    /// A newer requester has taken its place.
    Superseded,
}

/// The entries of one export.
#[derive(Debug)]
pub(super) struct Table<H> {
    entries: BTreeMap<EntryId, Entry<H>>,
    index: Index,
    /// Reads in one, all else in the other: neither keeps the other out.
    shares: [Shares; 2],
    next_id: EntryId,
    pub late: LateLog,
}

impl<H> Default for Table<H> {
    fn default() -> Table<H> {
        Table {
            entries: BTreeMap::new(),
            index: Index::default(),
            shares: Default::default(),
            next_id: 0,
            late: LateLog::default(),
        }
    }
}

impl<H: CompletionHandle> Table<H> {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Finds a request its place: beside, behind or instead of what is in flight. At most `max` entries of its kind, and of these a
    /// source has its share.
    pub fn place(
        &mut self,
        scope: Scope,
        fingerprint: Option<Fingerprint>,
        (source, max): (Mac, usize),
        requester: impl FnOnce() -> Requester<H>,
    ) -> Placement {
        let (mut conflict, mut same) = (false, None);
        // The latest one that is the same. This request is then as if it had arrived right after that one,
        // and one in between that conflicts takes effect after both. Nobody can tell: none of them has been answered, so
        // no order was promised.
        self.any(scope, |id, entry| {
            if fingerprint.is_some() && entry.fingerprint == fingerprint {
                same = same.max(Some(id));
            }
            conflict |= entry.scope.conflicts(scope);
            false
        });
        if let Some(id) = same {
            if self.join(id, requester()) {
                Placement::Waits(id)
            } else {
                Placement::Duplicate(id)
            }
        } else if !self.shares(scope.class).has_room(source, max) {
            Placement::Full
        } else if conflict {
            Placement::Waits(self.insert(scope, fingerprint, source, requester(), Phase::Waiting))
        } else {
            Placement::Clear
        }
    }

    fn shares(&mut self, class: Class) -> &mut Shares {
        let [reads, others] = &mut self.shares;
        if class == Class::Read { reads } else { others }
    }

    /// Whether this holds for any entry among those that can conflict with this one or be the same. Asked in the order of their
    /// numbers, but for those on sectors of several buckets.
    fn any(&self, scope: Scope, mut holds: impl FnMut(EntryId, &Entry<H>) -> bool) -> bool {
        match self.index.near(scope) {
            Some(mut near) => near.any(|id| self.entries.get(&id).is_some_and(|entry| holds(id, entry))),
            None => self.entries.iter().any(|(id, entry)| holds(*id, entry)),
        }
    }

    /// Entries after this one that can conflict with it, in the order of their numbers.
    fn later(&self, id: EntryId, scope: Scope) -> Vec<EntryId> {
        let Some(near) = self.index.near(scope) else {
            let after = (Bound::Excluded(id), Bound::Unbounded);
            return self.entries.range(after).map(|(id, _)| *id).collect();
        };
        let mut later: Vec<EntryId> = near.filter(|other| *other > id).collect();
        later.sort_unstable();
        later.dedup();
        later
    }

    /// Whether an earlier entry stands against this one.
    fn is_blocked(&self, id: EntryId, scope: Scope) -> bool {
        self.any(scope, |other, entry| other < id && entry.scope.conflicts(scope))
    }

    fn insert(
        &mut self,
        scope: Scope,
        fingerprint: Option<Fingerprint>,
        source: Mac,
        owner: Requester<H>,
        phase: Phase,
    ) -> EntryId {
        self.shares(scope.class).add(source);
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.index.insert(id, scope);
        let entry = Entry {
            scope,
            fingerprint,
            source,
            phase,
            owner,
            newest: None,
        };
        self.entries.insert(id, entry);
        id
    }

    /// Adds an operation that the store has begun.
    pub fn run(
        &mut self,
        scope: Scope,
        fingerprint: Option<Fingerprint>,
        source: Mac,
        owner: Requester<H>,
    ) -> EntryId {
        self.insert(scope, fingerprint, source, owner, Phase::Running)
    }

    /// Gives a duplicate the place of the one that asked before. True: it owns the entry now and waits for its
    /// turn; false: it only waits for the outcome.
    fn join(&mut self, id: EntryId, requester: Requester<H>) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else {
            return false;
        };
        if entry.phase == Phase::Running {
            if let Some(before) = entry.newest.replace(requester) {
                before.call();
            }
            return false;
        }
        let called = entry.phase == Phase::Called;
        std::mem::replace(&mut entry.owner, requester).call();
        if called {
            entry.owner.call();
        }
        true
    }

    /// Asks whether a waiting request may start.
    pub fn turn(&mut self, id: EntryId, session: &H, token: Token) -> Turn {
        let owned = |entry: &&mut Entry<H>| entry.owner.is(session, token);
        let Some(scope) = self.entries.get(&id).map(|entry| entry.scope) else {
            return Turn::Superseded;
        };
        let blocked = self.is_blocked(id, scope);
        let Some(entry) = self.entries.get_mut(&id).filter(owned) else {
            return Turn::Superseded;
        };
        if blocked {
            return Turn::NotYet;
        }
        entry.phase = Phase::Running;
        Turn::Go
    }

    /// True while this requester is the one to be answered in the owner's place.
    pub fn is_newest(&self, id: EntryId, session: &H, token: Token) -> bool {
        let entry = self.entries.get(&id);
        let newest = entry.and_then(|entry| entry.newest.as_ref());
        newest.is_some_and(|requester| requester.is(session, token))
    }

    /// Ends an entry and calls those that waited for it; returns who is to be answered in the owner's place, and
    /// what the request was like.
    pub fn finish(&mut self, id: EntryId) -> (Option<Requester<H>>, Option<Fingerprint>) {
        let Some(ended) = self.entries.remove(&id) else {
            return (None, None);
        };
        self.index.remove(id, ended.scope);
        self.shares(ended.scope.class).remove(ended.source);
        for next in self.later(id, ended.scope) {
            let Some(entry) = self.entries.get(&next) else {
                continue;
            };
            let scope = entry.scope;
            if entry.phase != Phase::Waiting || !scope.conflicts(ended.scope) || self.is_blocked(next, scope)
            {
                continue;
            }
            if let Some(entry) = self.entries.get_mut(&next) {
                entry.phase = Phase::Called;
                if !mutants::is(Mutant::WaiterNotCalled) {
                    entry.owner.call();
                }
            }
            if scope.covers(ended.scope) {
                // Whoever else waited for what has ended waits for this one.
                break;
            }
        }
        (ended.newest, ended.fingerprint)
    }

    /// Forgets a request of a worker that ends. What it ran is over as far as order goes; a duplicate that waited
    /// for the outcome learns that there is none.
    pub fn forget(&mut self, id: EntryId, session: &H, token: Token) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.owner.is(session, token) {
            if let (Some(newest), _) = self.finish(id) {
                newest.call();
            }
        } else if entry
            .newest
            .as_ref()
            .is_some_and(|requester| requester.is(session, token))
        {
            entry.newest = None;
        }
    }

    /// True while a change of the protocol state is being saved or waits for that.
    pub fn has_admin(&self) -> bool {
        self.entries
            .values()
            .any(|entry| matches!(entry.scope.class, Class::Admin | Class::Fence))
    }
}
