//! A request that an export's order knows beyond the call that brought it: the store works on it, or it waits for its turn.

use std::sync::atomic::{AtomicBool, Ordering};

use aoe_common::Mac;

use crate::order::scope::{Fingerprint, Scope};
use crate::order::sync::Mutex;
use crate::session::completion::{Completion, CompletionHandle, Event, Token};

/// A request in flight on some worker.
#[derive(Clone, Debug)]
pub(crate) struct Requester<H> {
    /// The session that it is in flight on.
    pub session: H,
    pub token: Token,
}

impl<H: CompletionHandle> Requester<H> {
    fn is(&self, other: &Requester<H>) -> bool {
        self.token == other.token && self.session == other.session
    }

    /// Tells it to look at its entry again.
    pub(crate) fn call(&self) {
        self.post(Event::Again);
    }

    pub(crate) fn post(&self, event: Event) {
        self.session.post(Completion {
            token: self.token,
            event,
        });
    }
}

/// How far an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    /// Its owner has been told to look whether something still stands against it.
    Called,
    Running,
    /// It only has to leave its stripes.
    Ended,
}

/// What a request is to the entry that it is the same as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It owns the entry now and waits for its turn.
    Owner,
    /// It waits for the outcome.
    Follower,
    /// The entry has just ended.
    TooLate,
}

/// Who is concerned by an entry now.
#[derive(Debug)]
struct Parties<H> {
    phase: Phase,
    /// Runs it, or will.
    owner: Requester<H>,
    /// Gets the answer in the owner's place.
    newest: Option<Requester<H>>,
}

/// A request in an export's order.
#[derive(Debug)]
pub(crate) struct Entry<H> {
    pub scope: Scope,
    pub fingerprint: Option<Fingerprint>,
    /// Whose share it counts in.
    pub source: Mac,
    /// It counts among what the store has of its source. Changed with the lock of that share held.
    at_work: AtomicBool,
    /// Taken with the lock of a stripe or of a share held, never the other way round.
    parties: Mutex<Parties<H>>,
}

impl<H: CompletionHandle> Entry<H> {
    pub(crate) fn new(
        scope: Scope,
        fingerprint: Option<Fingerprint>,
        source: Mac,
        (owner, phase): (Requester<H>, Phase),
    ) -> Entry<H> {
        let newest = None;
        Entry {
            scope,
            fingerprint,
            source,
            at_work: AtomicBool::new(phase == Phase::Running),
            parties: Mutex::new(Parties { phase, owner, newest }),
        }
    }

    /// Whether it counts among what the store has of its source.
    pub(crate) fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed)
    }

    pub(crate) fn set_at_work(&self) {
        self.at_work.store(true, Ordering::Relaxed);
    }

    /// Gives a duplicate the place of the one that asked before. `calls` gets who is to look again.
    pub(crate) fn join(&self, requester: Requester<H>, calls: &mut Vec<Requester<H>>) -> Joined {
        let mut parties = self.parties.lock();
        match parties.phase {
            Phase::Ended => Joined::TooLate,
            Phase::Running => {
                calls.extend(parties.newest.replace(requester));
                Joined::Follower
            }
            Phase::Waiting | Phase::Called => {
                if parties.phase == Phase::Called {
                    calls.push(requester.clone());
                }
                calls.push(std::mem::replace(&mut parties.owner, requester));
                Joined::Owner
            }
        }
    }

    /// Nothing seems to stand against it any more: who is to be called, if it waits and has not been.
    pub(crate) fn call(&self) -> Option<Requester<H>> {
        let mut parties = self.parties.lock();
        (parties.phase == Phase::Waiting).then(|| {
            parties.phase = Phase::Called;
            parties.owner.clone()
        })
    }

    /// Something still stands against it. Said under the lock of the stripe, or share, where that is, so that its end calls again.
    pub(crate) fn wait_on(&self) {
        let mut parties = self.parties.lock();
        if parties.phase == Phase::Called {
            parties.phase = Phase::Waiting;
        }
    }

    /// Whether it only has to leave its stripes, or has left them.
    pub(crate) fn has_ended(&self) -> bool {
        self.parties.lock().phase == Phase::Ended
    }

    /// Whether it waits for its turn and that is this requester's.
    pub(crate) fn is_owned_by(&self, requester: &Requester<H>) -> bool {
        let parties = self.parties.lock();
        parties.phase != Phase::Ended && parties.owner.is(requester)
    }

    /// It runs from here on, unless somebody else has taken this requester's place.
    pub(crate) fn start(&self, requester: &Requester<H>) -> bool {
        let mut parties = self.parties.lock();
        let owned = parties.phase != Phase::Ended && parties.owner.is(requester);
        if owned {
            parties.phase = Phase::Running;
        }
        owned
    }

    /// True while this requester is the one to be answered in the owner's place.
    pub(crate) fn is_newest(&self, requester: &Requester<H>) -> bool {
        let parties = self.parties.lock();
        parties.newest.as_ref().is_some_and(|newest| newest.is(requester))
    }

    /// Nobody joins it any more; returns who is to be answered in the owner's place.
    pub(crate) fn end(&self) -> Option<Requester<H>> {
        let mut parties = self.parties.lock();
        parties.phase = Phase::Ended;
        parties.newest.take()
    }

    /// Leaves out a requester that goes. True: it was the owner's, and has ended; `calls` gets a duplicate that waited for the
    /// outcome.
    pub(crate) fn abandon(&self, requester: &Requester<H>, calls: &mut Vec<Requester<H>>) -> bool {
        let mut parties = self.parties.lock();
        if parties.phase == Phase::Ended {
            return false;
        }
        if parties.owner.is(requester) {
            parties.phase = Phase::Ended;
            calls.extend(parties.newest.take());
            return true;
        }
        parties.newest.take_if(|newest| newest.is(requester));
        false
    }
}
