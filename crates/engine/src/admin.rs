//! Query Config, MAC Mask and Reserve: answers from the state in force, and changes to it.
//!
//! A change is decided under the export's lock, saved by the state store, put in force, and only then answered. Changes
//! run one at a time; those of mask and reservation also wait for every request in flight and keep later ones
//! waiting, so that their answer is a fence: nothing accepted under the old rules happens after it.

use aoe_common::wire::{
    MAX_CONFIG_STRING_BYTES, aoe, mask as mask_wire, query as query_wire, reserve as reserve_wire,
};
use parking_lot::RwLockWriteGuard;

use super::counters::Silence;
use super::engine::{Call, Engine};
use super::export::State;
use super::link::Link;
use super::order::{Class, EntryId, Placement, Scope, Span, Turn};
use super::parked::{Parked, Role};
use super::{Change, Persistent, mask, query, reserve, scatter};
use crate::completion::{Completions, Token};
use crate::store::Fault;

/// What a reply says besides the state in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// AoE error code; 0: none.
    pub error: u8,
    /// MAC Mask: the list's own error; 0: none.
    pub list_error: u8,
    /// MAC Mask: directives applied before that error.
    pub applied: u8,
}

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Decision {
    Silent(Silence),
    Answer(Verdict),
    Change(Box<Persistent>, Change, Verdict),
}

impl Decision {
    /// An answer with this AoE error code; 0: success.
    pub fn answer(error: u8) -> Decision {
        Decision::Answer(Verdict {
            error,
            ..Verdict::default()
        })
    }
}

/// Longest list or string of a request: 255 directives of a MAC mask.
const MAX_LIST_BYTES: usize = 255 * mask_wire::DIRECTIVE_LEN;

/// Decides on the request in `frame`.
fn decide<L: Link, C: Completions>(
    link: &L,
    call: Call<'_, C>,
    frame: &L::Frame,
    now: &Persistent,
) -> Decision {
    let (request, wire_admin) = (call.request, call.export.options.wire_admin);
    let argument = &request.argument;
    let (header, len) = match request.command {
        aoe::CMD_QUERY => (query_wire::HEADER_LEN, query::string_len(argument)),
        aoe::CMD_MASK => (mask_wire::HEADER_LEN, mask::list_len(argument)),
        _ => (reserve_wire::HEADER_LEN, reserve::list_len(argument)),
    };
    // What a request claims counts only as far as its frame goes.
    let mut bytes = [0u8; MAX_LIST_BYTES];
    let at = request.argument_at.saturating_add(header);
    let present = bytes
        .get_mut(..len)
        .map_or(0, |into| scatter::gather(&link.pieces(frame), at, into));
    let list = bytes.get(..len).filter(|_| present == len);
    match request.command {
        aoe::CMD_QUERY => {
            let string = list.filter(|string| string.len() <= MAX_CONFIG_STRING_BYTES);
            query::decide(query::subcommand(argument), string, now, wire_admin)
        }
        aoe::CMD_MASK => mask::decide(argument[mask_wire::SUBCOMMAND], list, now, wire_admin),
        _ => {
            let rcmd = argument[reserve_wire::SUBCOMMAND];
            reserve::decide(rcmd, list, request.source, now, wire_admin)
        }
    }
}

fn scope<C: Completions>(call: Call<'_, C>) -> Scope {
    let class = if call.request.command == aoe::CMD_QUERY {
        Class::Admin
    } else {
        Class::Fence
    };
    Scope {
        class,
        span: Span::NONE,
    }
}

impl<L: Link, C: Completions> Engine<L, C> {
    /// Serves one of the three commands to an exact address.
    pub fn administer(&mut self, link: &mut L, call: Call<'_, C>, frame: L::Frame) {
        {
            let state = call.export.state.read();
            if let Err(refusal) = Self::admit(call, &state) {
                return self.refuse(link, call, frame, refusal);
            }
            match decide(link, call, &frame, &state.persistent) {
                Decision::Silent(why) => return self.silent(link, frame, why),
                Decision::Answer(verdict) => {
                    return self.state(link, call, frame, &state.persistent, verdict);
                }
                Decision::Change(..) => {}
            }
        }
        // Others may have been quicker between the two locks: `change` decides again.
        let state = call.export.state.write();
        let token = self.parking.next_token();
        let max = call.export.max_in_flight();
        let placement = state
            .order
            .with(|table| table.place(scope(call), None, max, || self.asker(token)));
        match placement {
            Placement::Clear => self.change(link, call, frame, state, None),
            Placement::Waits(entry) => {
                drop(state);
                self.counters.waited.bump();
                let (export, request) = (call.export.clone(), *call.request);
                self.parking.park(Parked {
                    frame,
                    export,
                    request,
                    entry,
                    role: Role::Waiting,
                });
            }
            Placement::Watches(_) | Placement::Full => {
                drop(state);
                self.silent(link, frame, Silence::Full);
            }
        }
    }

    /// A change that waited may go on.
    pub fn resume_change(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        frame: L::Frame,
        entry: EntryId,
        token: Token,
    ) {
        let state = call.export.state.write();
        match state.order.with(|table| table.turn(entry, &self.handle, token)) {
            Turn::NotYet => {
                drop(state);
                self.put_back(call, frame, entry, token, Role::Waiting);
            }
            Turn::Superseded => {
                drop(state);
                self.parking.release(token);
                self.silent(link, frame, Silence::Superseded);
            }
            Turn::Go => self.change(link, call, frame, state, Some((entry, token))),
        }
    }

    /// Decides with nothing in the way, and saves and answers or only answers. `place` is what a request that
    /// waited has already.
    fn change(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        frame: L::Frame,
        mut state: RwLockWriteGuard<'_, State<C::Handle>>,
        place: Option<(EntryId, Token)>,
    ) {
        let decision = match Self::admit(call, &state) {
            Ok(_) => decide(link, call, &frame, &state.persistent),
            Err(refusal) => {
                self.vacate(&state, place);
                drop(state);
                return self.refuse(link, call, frame, refusal);
            }
        };
        match (decision, &call.export.state_store) {
            (Decision::Silent(why), _) => {
                self.vacate(&state, place);
                drop(state);
                self.silent(link, frame, why);
            }
            (Decision::Answer(verdict), _) => {
                self.vacate(&state, place);
                self.state(link, call, frame, &state.persistent, verdict);
            }
            (Decision::Change(new, change, verdict), None) => {
                state.persistent = *new;
                self.vacate(&state, place);
                self.state(link, call, frame, &state.persistent, verdict);
                drop(state);
                call.export.observer.changed(call.export.address(), change);
            }
            (Decision::Change(new, change, verdict), Some(state_store)) => {
                let token = place.map_or_else(|| self.parking.next_token(), |(_, token)| token);
                let entry = place.map_or_else(
                    || {
                        let asker = self.asker(token);
                        state.order.with(|table| table.run(scope(call), None, asker))
                    },
                    |(entry, _)| entry,
                );
                drop(state);
                state_store.save(call.export.address(), &new, self.handle.clone(), token);
                let role = Role::Saving(new, change, verdict);
                if place.is_some() {
                    self.put_back(call, frame, entry, token, role);
                } else {
                    let (export, request) = (call.export.clone(), *call.request);
                    self.parking.park(Parked {
                        frame,
                        export,
                        request,
                        entry,
                        role,
                    });
                }
            }
        }
    }

    /// The state store has saved a change, or could not.
    #[expect(clippy::too_many_arguments, reason = "a parked request taken apart")]
    pub fn saved(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        frame: L::Frame,
        place: (EntryId, Token),
        new: Persistent,
        change: Change,
        verdict: Verdict,
        outcome: Result<(), Fault>,
    ) {
        let mut state = call.export.state.write();
        match outcome {
            Ok(()) => {
                state.persistent = new;
                self.vacate(&state, Some(place));
                self.state(link, call, frame, &state.persistent, verdict);
                drop(state);
                call.export.observer.changed(call.export.address(), change);
            }
            Err(fault) => {
                self.vacate(&state, Some(place));
                drop(state);
                call.export.observer.fault(call.export.address(), &fault);
                self.silent(link, frame, Silence::Unsaved);
            }
        }
    }

    /// Gives up the entry and token of a change that has ended.
    fn vacate(&mut self, state: &State<C::Handle>, place: Option<(EntryId, Token)>) {
        if let Some((entry, token)) = place {
            self.parking.release(token);
            state.order.with(|table| table.finish(entry));
        }
    }
}

/// Tells whether a Query Config read, test or prefix is to be answered.
pub(super) fn test<L: Link, C: Completions>(
    link: &L,
    call: Call<'_, C>,
    frame: &L::Frame,
    now: &Persistent,
) -> Result<(), Silence> {
    match decide(link, call, frame, now) {
        Decision::Silent(why) => Err(why),
        _ => Ok(()),
    }
}
