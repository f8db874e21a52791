//! Query Config, MAC Mask and Reserve: answers from the state in force, and changes to it.
//!
//! A change is decided under the export's lock, saved by the state store, put in force, and only then answered. Changes
//! run one at a time; those of mask and reservation also wait for every request in flight and keep later ones
//! waiting, so that their answer is a fence: nothing accepted under the old rules happens after it.

use std::sync::Arc;

use aoe_common::Access;
use aoe_common::wire::{MAX_CONFIG_STRING_BYTES, mask as mask_wire};
use crossbeam_utils::sync::ShardedLockWriteGuard;

use crate::WireAdmin;
use crate::commands::action::{Action, Decision, StateChange};
use crate::commands::mask;
use crate::commands::query;
use crate::commands::reserve;
use crate::counters::Silence;
use crate::export::State;
use crate::export::state::Persistent;
use crate::frames::link::Link;
use crate::frames::request::Command;
use crate::frames::rx_frame::RxFrame;
use crate::frames::scatter;
use crate::mutants::{self, Mutant};
use crate::order::place::AtOnce;
use crate::order::{Placement, Turn};
use crate::session::completion::Completions;
use crate::session::in_flight::{InFlight, Pending, Stage};
use crate::session::server::{Call, Server};
use crate::store::Fault;

/// Longest list or string of a request: 255 directives of a MAC mask.
const MAX_LIST_BYTES: usize = 255 * mask_wire::DIRECTIVE_LEN;

/// Decides on the request in `frame`.
fn decide<L: Link, C: Completions>(
    link: &L,
    call: Call<'_, C>,
    frame: &RxFrame<L::Frame>,
    now: &Persistent,
) -> Decision {
    let request = call.request;
    let wire_admin = call.export.options.wire_admin;
    // Who may only read shuts out nobody who may write.
    let reads_only = call.export.options.access.of(request.source) == Some(Access::ReadOnly);
    let may_shut_out = wire_admin == WireAdmin::All && !reads_only;
    let len = request.command.payload_bytes();
    // What a request claims counts only as far as its frame goes.
    let mut bytes = [0u8; MAX_LIST_BYTES];
    let present = bytes.get_mut(..len).map_or(0, |into| {
        scatter::gather(&frame.pieces(link), request.payload_at, into)
    });
    let list = bytes.get(..len).filter(|_| present == len);
    match request.command {
        Command::Query { subcommand, .. } => {
            let string = list.filter(|string| string.len() <= MAX_CONFIG_STRING_BYTES);
            query::decide(subcommand, string, now, wire_admin != WireAdmin::Nothing)
        }
        Command::Mask { subcommand, .. } => mask::decide(subcommand, list, now, may_shut_out),
        Command::Reserve { subcommand, .. } => {
            reserve::decide(subcommand, list, request.source, now, may_shut_out)
        }
        Command::Ata(_) | Command::Unknown(_) => Decision::Silent(Silence::NoMatch),
    }
}

impl<L: Link, C: Completions> Server<L, C> {
    /// Serves one of the three commands to an exact address.
    pub(crate) fn administer(&mut self, link: &mut L, call: Call<'_, C>, frame: RxFrame<L::Frame>) {
        if call.export.is_asked_by_peer(call.request) && call.export.store.is_unheard() {
            return self.tell_unheard(link, call, frame);
        }
        if let Some(standing) = call.export.standing_for(call.request) {
            return self.tell_standing(link, call, frame, standing);
        }
        let action = {
            let state = call.export.state.read();
            if let Err(refusal) = Self::admit(call, &state) {
                return self.refuse(link, call, frame, refusal);
            }
            match decide(link, call, &frame, &state.persistent) {
                Decision::Silent(why) => return self.silent(link, frame, why),
                Decision::Answer(codes) => return self.state(link, call, frame, &state.persistent, codes),
                Decision::Change(change) => Action::Change(change),
            }
        };
        // Others may have been quicker between the two locks: `change` decides again.
        let state = call.export.state.write();
        let token = self.in_flight.next_token();
        let (source, max) = (call.request.source, call.export.max_in_flight());
        let Some(scope) = action.scope() else {
            drop(state);
            return self.silent(link, frame, Silence::Full);
        };
        let requester = self.requester(token);
        let order = &call.export.order;
        match order.place(scope, None, (source, max, call.now_us), &requester) {
            Placement::Clear => {
                let place = AtOnce::new(order, scope).go_on(None, source, requester);
                let in_flight = call.in_flight(frame, action, place, Stage::Running);
                self.change(link, in_flight, state, call.now_us);
            }
            Placement::Waits(entry) => {
                let place = self.enter(call.export, entry, token);
                drop(state);
                self.counters.waited.bump();
                self.park(link, call.in_flight(frame, action, place, Stage::Waiting));
            }
            Placement::Duplicate(_) | Placement::Full => {
                drop(state);
                self.silent(link, frame, Silence::Full);
            }
        }
    }

    /// A change that waited may go on.
    pub(crate) fn resume_change(&mut self, link: &mut L, in_flight: Pending<L, C>, now_us: u64) {
        let export = Arc::clone(&in_flight.export);
        let state = export.state.write();
        match in_flight.place.turn() {
            Turn::NotYet => self.in_flight.put(in_flight),
            Turn::Superseded => self.superseded(link, in_flight),
            Turn::Go => self.change(link, in_flight, state, now_us),
        }
    }

    /// Decides with nothing in the way, and saves and answers or only answers.
    fn change(
        &mut self,
        link: &mut L,
        mut in_flight: Pending<L, C>,
        mut state: ShardedLockWriteGuard<'_, State>,
        now_us: u64,
    ) {
        let export = Arc::clone(&in_flight.export);
        let put_off = in_flight.put_off.as_ref();
        let call = Call::resumed(&in_flight.export, &in_flight.request, put_off, now_us);
        let decision = match Self::admit(call, &state) {
            Ok(_) => decide(link, call, &in_flight.frame, &state.persistent),
            Err(refusal) => {
                self.in_flight.release(in_flight.token);
                drop(in_flight.place);
                drop(state);
                return self.refuse(link, call, in_flight.frame, refusal);
            }
        };
        let state_store = export.state_store.as_ref();
        let before_saved = mutants::is(Mutant::AnsweredBeforeSaved);
        match (decision, state_store.filter(|_| !before_saved)) {
            (Decision::Silent(why), _) => {
                self.in_flight.release(in_flight.token);
                drop(in_flight.place);
                drop(state);
                self.silent(link, in_flight.frame, why);
            }
            (Decision::Answer(codes), _) => {
                self.in_flight.release(in_flight.token);
                drop(in_flight.place);
                self.state(link, call, in_flight.frame, &state.persistent, codes);
            }
            (Decision::Change(decided), None) => {
                if let Some(store) = state_store {
                    store.save(
                        export.address(),
                        &decided.new,
                        self.handle.clone(),
                        crate::Token::MAX,
                    );
                }
                state.persistent = decided.new;
                self.in_flight.release(in_flight.token);
                drop(in_flight.place);
                self.state(link, call, in_flight.frame, &state.persistent, decided.codes);
                drop(state);
                export.observer.changed(export.address(), decided.change);
            }
            (Decision::Change(decided), Some(state_store)) => {
                drop(state);
                state_store.save(
                    export.address(),
                    &decided.new,
                    self.handle.clone(),
                    in_flight.token,
                );
                in_flight.action = Action::Change(decided);
                in_flight.stage = Stage::Running;
                self.park(link, in_flight);
            }
        }
    }

    /// The state store has saved a change, or could not.
    pub(crate) fn saved(
        &mut self,
        link: &mut L,
        in_flight: Pending<L, C>,
        result: Result<(), Fault>,
        now_us: u64,
    ) {
        let export = Arc::clone(&in_flight.export);
        let mut state = export.state.write();
        self.in_flight.release(in_flight.token);
        drop(in_flight.place);
        let InFlight {
            frame,
            request,
            action,
            put_off,
            ..
        } = in_flight;
        match (result, action) {
            (Ok(()), Action::Change(decided)) => {
                let StateChange { new, change, codes } = *decided;
                state.persistent = new;
                let call = Call::resumed(&export, &request, put_off.as_ref(), now_us);
                self.state(link, call, frame, &state.persistent, codes);
                drop(state);
                export.observer.changed(export.address(), change);
            }
            // Whoever keeps states says what went wrong with them: the store with the sectors is well.
            _ => {
                drop(state);
                self.silent(link, frame, Silence::Unsaved);
            }
        }
    }
}

/// Tells whether a Query Config read, test or prefix is to be answered.
pub(crate) fn test<L: Link, C: Completions>(
    link: &L,
    call: Call<'_, C>,
    frame: &RxFrame<L::Frame>,
    now: &Persistent,
) -> Result<(), Silence> {
    match decide(link, call, frame, now) {
        Decision::Silent(why) => Err(why),
        _ => Ok(()),
    }
}
