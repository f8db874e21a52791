//! Requests by a wildcard or to the broadcast MAC: each export they are for answers, or stays silent, for itself.

use aoe_common::wire::MIN_FRAME_BYTES;
use aoe_common::wire::query::subcommand;

use crate::ata::{Opcode, opcode};
use crate::commands::action::{Action, Refusal, ReplyCodes};
use crate::commands::choice::Chosen;
use crate::counters::Silence;
use crate::counters::meter::Meter;
use crate::export::exports::Exports;
use crate::export::limiter::Introduction;
use crate::frames::link::Link;
use crate::frames::request::{Command, Request};
use crate::frames::rx_frame::RxFrame;
use crate::session::completion::Completions;
use crate::session::server::{Call, Server};

impl<L: Link, C: Completions> Server<L, C> {
    /// Answers a request to the broadcast MAC and one export's own address.
    pub(crate) fn broadcast(&mut self, link: &mut L, call: Call<'_, C>, frame: RxFrame<L::Frame>) {
        match self.may_introduce(link, call, &frame) {
            Ok(()) => self.introduce(link, call, frame),
            Err(why) => self.silent(link, frame, why),
        }
    }

    /// Answers a request with a wildcard once for each export it is for. Returns what became of the last of them: one that gets no answer
    /// may be advertised instead, with those behind it.
    pub(crate) fn discover(
        &mut self,
        link: &mut L,
        exports: &Exports<C>,
        request: &Request,
        frame: RxFrame<L::Frame>,
        now_us: u64,
    ) -> Introduction {
        let (mut found, mut last) = (false, Introduction::Answer);
        for export in exports.matching(request) {
            found = true;
            let call = Call {
                export,
                request,
                now_us,
                meter: Meter::Off,
            };
            let own;
            let call = match Self::choose(call) {
                Chosen::Shared => call,
                Chosen::Own(export) => {
                    own = export;
                    Call { export: &own, ..call }
                }
                Chosen::Nobody => {
                    self.counters.silent(Silence::NoExport);
                    continue;
                }
            };
            match self.may_introduce(link, call, &frame) {
                Err(Silence::Wildcard) => {
                    self.counters.silent(Silence::Wildcard);
                    break;
                }
                Err(why) => {
                    self.counters.silent(why);
                    continue;
                }
                Ok(()) => {}
            }
            match exports.turn_of(request, call.export.is_shut(), now_us) {
                Introduction::Answer => match link.allocate(MIN_FRAME_BYTES) {
                    Some(reply) => self.introduce(link, call, RxFrame::Frame(reply)),
                    None => {
                        self.counters.silent(Silence::NoMemory);
                        break;
                    }
                },
                turn => {
                    self.counters.silent(Silence::Limited);
                    last = turn;
                    break;
                }
            }
        }
        if found {
            frame.free(link);
        } else {
            self.silent(link, frame, Silence::NoExport);
        }
        last
    }

    /// Decides whether an export answers a request by a wildcard or to the broadcast MAC. Only Query Config read,
    /// test and prefix and IDENTIFY are: a stray WRITE to everyone must change nothing, and errors stay unsaid.
    fn may_introduce(&self, link: &L, call: Call<'_, C>, frame: &RxFrame<L::Frame>) -> Result<(), Silence> {
        let state = call.export.state.read();
        match Self::admit(call, &state) {
            Ok(_) => {}
            Err(Refusal::Silent(why)) => return Err(why),
            Err(_) => return Err(Silence::Wildcard),
        }
        match &call.request.command {
            Command::Query { subcommand, .. } if *subcommand <= subcommand::PREFIX => {
                self.counters.queries.bump();
                crate::commands::admin::test(link, call, frame, &state.persistent)
            }
            Command::Ata(registers) if opcode(registers.command) == Opcode::Identify => {
                self.counters.identifies.bump();
                match Self::judge(link, call, registers, &state, frame) {
                    Ok(Action::Identify) => Ok(()),
                    _ => Err(Silence::Wildcard),
                }
            }
            _ => Err(Silence::Wildcard),
        }
    }

    /// Answers what [`Server::may_introduce`] let through, into `frame`.
    fn introduce(&self, link: &mut L, call: Call<'_, C>, frame: RxFrame<L::Frame>) {
        if let Command::Ata(registers) = &call.request.command {
            self.identify(link, call, registers, frame);
        } else {
            let state = call.export.state.read();
            self.state(link, call, frame, &state.persistent, ReplyCodes::default());
        }
    }
}
