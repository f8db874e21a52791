//! One ordering domain for each export: what is in flight, what waits for it, and who is answered.
//!
//! All workers of all ports that serve the export share it. Operations that a store finishes at once never appear
//! here: they run under the export's lock. What a store defers, and what must wait for it, is an entry, in arrival
//! order, until it ends. Two entries conflict when they overlap and one of them writes; an entry that conflicts
//! with an earlier one waits for it.

use aoe_common::Mac;

use super::late::LateLog;
use super::mutants::{self, Mutant};
use crate::completion::{Completion, CompletionHandle, Event, Token};
use crate::store::Extent;

/// What an entry does, as far as order is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Read,
    /// WRITE and TRIM.
    Write,
    /// Covers only writes that were answered: waits for nothing.
    Flush,
    /// A change of the config string: one at a time, beside data.
    Admin,
    /// A change of mask or reservation: alone.
    Fence,
}

/// Sectors `first..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub first: u64,
    pub end: u64,
}

impl Span {
    pub const NONE: Span = Span { first: 0, end: 0 };

    pub fn of(extent: Extent) -> Span {
        Span {
            first: extent.lba,
            end: extent.lba.saturating_add(extent.count),
        }
    }

    /// From the first to the last sector of all of them.
    pub fn around(extents: &[Extent]) -> Span {
        let spans = || extents.iter().map(|&extent| Span::of(extent));
        Span {
            first: spans().map(|span| span.first).min().unwrap_or(0),
            end: spans().map(|span| span.end).max().unwrap_or(0),
        }
    }

    pub fn overlaps(self, other: Span) -> bool {
        if mutants::is(Mutant::OverlapByFirstSector) {
            return self.first == other.first;
        }
        self.first < other.end && other.first < self.end
    }
}

/// Class and place of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub class: Class,
    pub span: Span,
}

impl Scope {
    pub fn conflicts(self, other: Scope) -> bool {
        use Class::{Admin, Fence, Flush, Read, Write};
        match (self.class, other.class) {
            (Read | Write, Read | Write) if mutants::is(Mutant::ConflictsIgnored) => false,
            (Fence, Read | Write) | (Read | Write, Fence) if mutants::is(Mutant::NoFence) => false,
            (Fence, _) | (_, Fence) | (Admin, Admin) => true,
            (Admin | Flush, _) | (_, Admin | Flush) | (Read, Read) => false,
            (Read, Write) | (Write, Read | Write) => self.span.overlaps(other.span),
        }
    }
}

/// What makes two requests the same one. Never the tag: initiators send a lost request again under a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub opcode: u8,
    pub lba: u64,
    pub count: u64,
    /// Of a read: nothing is gained by taking two hosts that read the same sectors for one, and one of them would
    /// have to ask again. A write from another address is the same write by another path.
    pub source: Option<Mac>,
    /// Of the payload; 0 for reads.
    pub digest: u128,
}

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
    next_id: EntryId,
    pub late: LateLog,
}

impl<H> Default for Table<H> {
    fn default() -> Table<H> {
        Table {
            entries: Vec::new(),
            next_id: 0,
            late: LateLog::default(),
        }
    }
}

impl<H: CompletionHandle> Table<H> {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Finds a request its place: beside, behind or instead of what is in flight. At most `max` entries.
    pub fn place(
        &mut self,
        scope: Scope,
        fingerprint: Option<Fingerprint>,
        max: usize,
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
        } else if self.entries.len() >= max {
            Placement::Full
        } else if conflict {
            Placement::Waits(self.insert(scope, fingerprint, requester(), Phase::Waiting))
        } else {
            Placement::Clear
        }
    }

    /// Where an entry is: they are in the order of their numbers.
    fn position(&self, id: EntryId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    fn insert(
        &mut self,
        scope: Scope,
        fingerprint: Option<Fingerprint>,
        owner: Requester<H>,
        phase: Phase,
    ) -> EntryId {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.entries.push(Entry {
            id,
            scope,
            fingerprint,
            phase,
            owner,
            newest: None,
        });
        id
    }

    /// Adds an operation that the store has begun.
    pub fn run(&mut self, scope: Scope, fingerprint: Option<Fingerprint>, owner: Requester<H>) -> EntryId {
        self.insert(scope, fingerprint, owner, Phase::Running)
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
