//! What all requests of a session share: the lane, parked requests, counters, and how answers are sent.

use std::sync::Arc;

use aoe_common::Access;
use aoe_common::wire::{SECTOR_BYTES, aoe, sectors_per_frame};

use super::admin::Verdict;
use super::ata::identify::{self, Facts};
use super::ata::{Refusal, Registers, Results};
use super::counters::{Counters, Silence};
use super::export::State;
use super::link::Link;
use super::order::Asker;
use super::parked::Parking;
use super::reply::{Envelope, build, error, put_head};
use super::request::Request;
use super::{Export, Persistent, PortInfo, mask, query, reserve};
use crate::completion::{Completions, Token};

/// One request on its way: who asked what of which export through which port, and when.
pub(super) struct Call<'a, C: Completions> {
    pub port: &'a PortInfo,
    pub export: &'a Arc<Export<C>>,
    pub request: &'a Request,
    pub now_us: u64,
}

impl<C: Completions> Clone for Call<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: Completions> Copy for Call<'_, C> {}

impl<C: Completions> Call<'_, C> {
    /// Sectors in one command through this port, at least 1.
    pub fn per_frame(&self) -> u8 {
        per_frame(self.port, self.export)
    }
}

/// Sectors in one command of an export through a port, at least 1.
pub(super) fn per_frame<C: Completions>(port: &PortInfo, export: &Export<C>) -> u8 {
    sectors_per_frame(port.mtu_bytes)
        .min(export.options.max_sectors)
        .max(1)
}

/// A session without its exports, so that both can be borrowed apart.
pub(super) struct Engine<L: Link, C: Completions> {
    /// Identifies the session in the exports' order tables.
    pub handle: C::Handle,
    // Before `parking`: dropped first, so that what stores still do for it has ended before order is given up.
    pub completions: C,
    pub parking: Parking<L::Frame, C>,
    pub counters: Arc<Counters>,
}

impl<L: Link, C: Completions> Engine<L, C> {
    /// The next request to be parked, as the order table knows it.
    pub fn asker(&self, token: Token) -> Asker<C::Handle> {
        Asker {
            session: self.handle.clone(),
            token,
        }
    }

    /// What every command needs first: the source may see the export, and speaks its version.
    pub fn admit(call: Call<'_, C>, state: &State<C::Handle>) -> Result<Access, Refusal> {
        let Some(access) = call.export.access_of(state, call.request.source) else {
            return Err(Refusal::Silent(Silence::Denied));
        };
        if call.request.version != aoe::VERSION {
            return Err(Refusal::Aoe(error::VERSION));
        }
        Ok(access)
    }

    /// Gives no answer.
    pub fn silent(&self, link: &mut L, frame: L::Frame, why: Silence) {
        self.counters.silent(why);
        link.free(frame);
    }

    /// Answers with `parts`, the first of them the headers.
    pub fn send(&self, link: &mut L, call: Call<'_, C>, mut frame: L::Frame, parts: &[&[u8]]) {
        if build(link, &mut frame, &call.request.tags, parts) {
            self.counters.replies.bump();
            link.send(frame);
        } else {
            self.silent(link, frame, Silence::NoMemory);
        }
    }

    fn envelope<'a>(call: &Call<'a, C>) -> Envelope<'a> {
        Envelope::answer(call.request, call.port.mac, call.export.address())
    }

    /// Turns a request down.
    pub fn refuse(&self, link: &mut L, call: Call<'_, C>, frame: L::Frame, refusal: Refusal) {
        match refusal {
            Refusal::Silent(why) => self.silent(link, frame, why),
            Refusal::Ata(results) => self.results(link, call, frame, results, &[]),
            Refusal::Aoe(code) => {
                self.counters.aoe_errors.bump();
                let echo = Registers::read(&call.request.argument).echo();
                let is_ata = call.request.command == aoe::CMD_ATA && code != error::VERSION;
                let argument: &[u8] = if is_ata { &echo } else { &[] };
                let head = Self::envelope(&call).head(code, argument);
                self.send(link, call, frame, &[&head]);
            }
        }
    }

    /// Answers an ATA command, with data that is not in the frame yet.
    pub fn results(&self, link: &mut L, call: Call<'_, C>, frame: L::Frame, results: Results, data: &[u8]) {
        if results.is_error() {
            self.counters.ata_errors.bump();
        }
        let aflags = Registers::read(&call.request.argument).aflags;
        let head = Self::envelope(&call).head(0, &results.write(aflags));
        self.send(link, call, frame, &[&head, data]);
    }

    /// Answers an ATA read whose data is in the frame already, which has its final length.
    pub fn data_in(&self, link: &mut L, call: Call<'_, C>, mut frame: L::Frame) {
        let registers = Registers::read(&call.request.argument);
        let argument = registers.success().write(registers.aflags);
        let head = Self::envelope(&call).head(0, &argument);
        put_head(link, &mut frame, &head);
        self.counters.replies.bump();
        link.send(frame);
    }

    /// Answers IDENTIFY DEVICE. The size is read again each time: growth is served without a restart.
    pub fn identify(&self, link: &mut L, call: Call<'_, C>, frame: L::Frame) {
        let export = call.export;
        let Ok(sectors) = export.refresh() else {
            let refusal = if call.request.is_discovery() {
                Refusal::Silent(Silence::Wildcard)
            } else {
                Refusal::Aoe(error::UNAVAILABLE)
            };
            return self.refuse(link, call, frame, refusal);
        };
        let block: [u8; SECTOR_BYTES] = {
            let state = export.state.read();
            identify::block(&Facts {
                identity: &export.options.identity,
                sectors,
                per_frame: call.per_frame(),
                sync: export.options.sync,
                traits: export.store.traits(),
                multiple: state.multiple(),
                smart: state.smart(export.options.smart),
            })
        };
        let success = Registers::read(&call.request.argument).success();
        self.results(link, call, frame, success, &block);
    }

    /// Answers Query Config, MAC Mask and Reserve: the command's own header and the state in force.
    pub fn state(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        frame: L::Frame,
        state: &Persistent,
        verdict: Verdict,
    ) {
        if verdict.error != 0 {
            self.counters.aoe_errors.bump();
        }
        let head = Self::envelope(&call).head(verdict.error, &[]);
        let argument = &call.request.argument;
        match call.request.command {
            aoe::CMD_QUERY => {
                let ccmd = query::subcommand(argument);
                let fixed = query_argument(call.port, call.export, ccmd, &state.string);
                self.send(link, call, frame, &[&head, &fixed, &state.string]);
            }
            aoe::CMD_MASK => {
                let mcmd = argument[aoe_common::wire::mask::SUBCOMMAND];
                self.send(
                    link,
                    call,
                    frame,
                    &[&head, &mask::argument(mcmd, &state.mask, verdict)],
                );
            }
            _ => {
                let rcmd = argument[aoe_common::wire::reserve::SUBCOMMAND];
                self.send(
                    link,
                    call,
                    frame,
                    &[&head, &reserve::argument(rcmd, &state.reserve)],
                );
            }
        }
    }
}

/// The fixed part of a Query Config reply or advertisement.
pub(super) fn query_argument<C: Completions>(
    port: &PortInfo,
    export: &Export<C>,
    ccmd: u8,
    string: &[u8],
) -> [u8; aoe_common::wire::query::HEADER_LEN] {
    // Linux cannot use fewer than two buffers.
    let buffers = export.options.buffers.max(2);
    query::argument(
        buffers,
        export.options.firmware_version,
        per_frame(port, export),
        ccmd,
        string,
    )
}
