//! Which part of the engine goes on with a request or a completion.

use aoe_common::wire::error;

use crate::commands::action::{Action, Refusal};
use crate::counters::Silence;
use crate::frames::link::Link;
use crate::frames::request::Command;
use crate::frames::rx_frame::RxFrame;
use crate::session::completion::{Completion, Completions, Event};
use crate::session::in_flight::{Pending, Stage};
use crate::session::server::{Call, Server};

impl<L: Link, C: Completions> Server<L, C> {
    /// Serves a request with an exact address, sent to the port's own MAC.
    pub(crate) fn serve(&mut self, link: &mut L, call: Call<'_, C>, frame: RxFrame<L::Frame>) {
        let counters = &self.counters;
        match &call.request.command {
            Command::Ata(registers) => return self.ata(link, call, registers, frame),
            Command::Query { .. } => counters.queries.bump(),
            Command::Mask { .. } => counters.masks.bump(),
            Command::Reserve { .. } => counters.reserves.bump(),
            Command::Unknown(_) => {
                counters.unknown_commands.bump();
                let admitted = Self::admit(call, &call.export.state.read());
                let refusal = admitted.err().unwrap_or(Refusal::Aoe(error::COMMAND));
                return self.refuse(link, call, frame, refusal);
            }
        }
        self.administer(link, call, frame);
    }

    /// Goes on with the request that a completion is for.
    pub(crate) fn complete(&mut self, link: &mut L, completion: Completion, now_us: u64) {
        let Completion { token, event } = completion;
        let Some(in_flight) = self.in_flight.take(token) else {
            // Of a request that has ended, as when two calls to look again cross.
            return;
        };
        let is_change = matches!(in_flight.action, Action::Change(_));
        match (in_flight.stage, event) {
            (Stage::Waiting, Event::Again) if is_change => self.resume_change(link, in_flight, now_us),
            (Stage::Waiting, Event::Again) => self.resume(link, in_flight, now_us),
            (Stage::Running, Event::Finished(result)) if is_change => {
                self.saved(link, in_flight, result.map(drop), now_us);
            }
            (Stage::Running, Event::Finished(result)) => self.finished(link, in_flight, result, now_us),
            (Stage::Running, Event::Again) if !is_change => self.run(link, in_flight, now_us),
            (Stage::Duplicate, Event::Finished(result)) => {
                self.duplicate_finished(link, in_flight, result, now_us);
            }
            (Stage::Duplicate, Event::Again) => self.check_duplicate(link, in_flight),
            (Stage::Waiting, Event::Finished(_)) | (Stage::Running, Event::Again) => {
                self.in_flight.put(in_flight);
            }
        }
    }

    /// Ends a request that a newer copy has taken the place of.
    pub(crate) fn superseded(&mut self, link: &mut L, in_flight: Pending<L, C>) {
        self.in_flight.release(in_flight.token);
        self.silent(link, in_flight.frame, Silence::Superseded);
    }
}
