//! What a session leaves behind when it ends: operations that the stores still work on.

use crate::commands::action::Action;
use crate::session::completion::{Completion, Completions, Event, StoreResult};
use crate::session::in_flight::InFlightTable;

/// Operations of a session that has ended. Nobody is answered any more, but what they touch stays busy until the store has
/// said that they are over: until then the kernel may still write it.
///
/// Whoever has it calls [`Remains::completions`] when the queue has something, until [`Remains::pending`] is 0. Dropped before,
/// it gives up their order, as is right where the process ends.
#[derive(Debug)]
pub struct Remains<C: Completions> {
    // Before `in_flight`: dropped first, so that what the queue itself still does has ended before order is given up.
    pub(crate) completions: C,
    pub(crate) in_flight: InFlightTable<(), C>,
}

impl<C: Completions> Remains<C> {
    /// Operations that are not over.
    pub fn pending(&self) -> usize {
        self.in_flight.len()
    }

    /// Where they end, for whoever waits for it.
    pub fn completion_queue(&mut self) -> &mut C {
        &mut self.completions
    }

    /// Takes up what has ended; false when there was nothing.
    pub fn completions(&mut self) -> bool {
        let mut any = false;
        while let Some(Completion { token, event }) = self.completions.next() {
            any = true;
            match event {
                Event::Finished(result) => self.finished(token, result),
                // The store has stopped half-way and waits to be called again: nothing is under way any more.
                Event::Again => self.give_up(token),
            }
        }
        any
    }

    fn finished(&mut self, token: crate::Token, result: StoreResult) {
        let Some(in_flight) = self.in_flight.take(token) else {
            return;
        };
        self.in_flight.release(token);
        if let (Ok(_), Action::Change(decided)) = (&result, in_flight.action) {
            // Saved, it would be in force after a restart: then it is now.
            let export = &in_flight.export;
            export.state.write().persistent = decided.new;
            export.observer.changed(export.address(), decided.change);
        }
        if let Some(newest) = in_flight.place.finish() {
            newest.post(Event::Finished(result));
        }
    }

    fn give_up(&mut self, token: crate::Token) {
        drop(self.in_flight.take(token));
        self.in_flight.release(token);
    }
}
