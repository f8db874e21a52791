//! One ordering domain for each export: what is in flight, what waits for it, and who is answered.
//!
//! All workers of all ports that serve the export share it. Operations that a store finishes at once never appear
//! here: they run under the export's lock. What a store defers, and what must wait for it, is an entry, in arrival
//! order, until it ends. Two entries conflict when they overlap and one of them writes; an entry that conflicts
//! with an earlier one waits for it.

use aoe_common::Mac;

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

/// Names an entry of one export's table.
pub(super) type EntryId = u64;

#[derive(Debug)]
struct Entry<H> {
    id: EntryId,
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
    entries: Vec<Entry<H>>,
    /// Reads in one, all else in the other: neither keeps the other out.
    shares: [Shares; 2],
    next_id: EntryId,
    pub late: LateLog,
}

impl<H> Default for Table<H> {
    fn default() -> Table<H> {
        Table {
            entries: Vec::new(),
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
        let mut conflict = false;
        let mut same = None;
        // From the back: the latest one that is same. This request is then as if it had arrived right after that one,
        // and one in between that conflicts takes effect after both. Nobody can tell: none of them has been answered, so
        // no order was promised.
        for entry in self.entries.iter().rev() {
            if fingerprint.is_some() && entry.fingerprint == fingerprint {
                same = Some(entry.id);
                break;
            }
            conflict |= entry.scope.conflicts(scope);
        }
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

    /// Where an entry is: they are in the order of their numbers.
    fn position(&self, id: EntryId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
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
        self.entries.push(Entry {
            id,
            scope,
            fingerprint,
            source,
            phase,
            owner,
            newest: None,
        });
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
        let Some(entry) = self.position(id).and_then(|at| self.entries.get_mut(at)) else {
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
        let Some(at) = self.position(id) else {
            return Turn::Superseded;
        };
        let (before, rest) = self.entries.split_at_mut(at);
        let Some(entry) = rest.first_mut().filter(|entry| entry.owner.is(session, token)) else {
            return Turn::Superseded;
        };
        if before.iter().any(|earlier| earlier.scope.conflicts(entry.scope)) {
            return Turn::NotYet;
        }
        entry.phase = Phase::Running;
        Turn::Go
    }

    /// True while this requester is the one to be answered in the owner's place.
    pub fn is_newest(&self, id: EntryId, session: &H, token: Token) -> bool {
        let entry = self.position(id).and_then(|at| self.entries.get(at));
        let newest = entry.and_then(|entry| entry.newest.as_ref());
        newest.is_some_and(|requester| requester.is(session, token))
    }

    /// Ends an entry and calls those that waited for it; returns who is to be answered in the owner's place, and
    /// what the request was like.
    pub fn finish(&mut self, id: EntryId) -> (Option<Requester<H>>, Option<Fingerprint>) {
        let Some(at) = self.position(id) else {
            return (None, None);
        };
        let ended = self.entries.remove(at);
        self.shares(ended.scope.class).remove(ended.source);
        for next in at..self.entries.len() {
            let (before, rest) = self.entries.split_at_mut(next);
            let Some(entry) = rest.first_mut() else { break };
            if entry.phase == Phase::Waiting
                && entry.scope.conflicts(ended.scope)
                && !before.iter().any(|earlier| earlier.scope.conflicts(entry.scope))
            {
                entry.phase = Phase::Called;
                if mutants::is(Mutant::WaiterNotCalled) {
                    continue;
                }
                entry.owner.call();
            }
        }
        (ended.newest, ended.fingerprint)
    }

    /// Forgets a request of a worker that ends. What it ran is over as far as order goes; a duplicate that waited
    /// for the outcome learns that there is none.
    pub fn forget(&mut self, id: EntryId, session: &H, token: Token) {
        let Some(entry) = self.position(id).and_then(|at| self.entries.get_mut(at)) else {
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
            .iter()
            .any(|entry| matches!(entry.scope.class, Class::Admin | Class::Fence))
    }
}
