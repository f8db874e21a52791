//! What all requests of a session share: completions, requests in flight, counters, and how answers are sent.

use aoe_common::wire::error;
use aoe_common::wire::query::subcommand;
use std::sync::Arc;

use aoe_common::Access;
use aoe_common::wire::{SECTOR_BYTES, aoe, sectors_per_frame};

use crate::ata::identify::{self, Facts};
use crate::ata::{Registers, Results};
use crate::commands::action::{Action, Refusal, ReplyCodes};
use crate::commands::mask;
use crate::commands::query;
use crate::commands::reserve;
use crate::counters::meter::{Meter, PutOff, Timed};
use crate::counters::{Counters, Silence};
use crate::export::state::Persistent;
use crate::export::{Export, State};
use crate::frames::link::Link;
use crate::frames::port::PortInfo;
use crate::frames::reply::{Envelope, build, put_head};
use crate::frames::request::{Command, Request};
use crate::frames::rx_frame::RxFrame;
use crate::mutants::{self, Mutant};
use crate::order::entry::{Entry, Requester};
use crate::order::place::Place;
use crate::session::completion::{Completions, Token};
use crate::session::in_flight::{InFlight, InFlightTable, Pending, Stage};

/// One request that is being worked on: who asked what of which export, and when.
pub(crate) struct Call<'a, C: Completions> {
    pub export: &'a Arc<Export<C>>,
    pub request: &'a Request,
    pub now_us: u64,
    pub meter: Meter<'a>,
}

impl<C: Completions> Clone for Call<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: Completions> Copy for Call<'_, C> {}

impl<'a, C: Completions> Call<'a, C> {
    /// A request that was put off, to go on with.
    pub(crate) fn resumed(
        export: &'a Arc<Export<C>>,
        request: &'a Request,
        put_off: Option<&'a PutOff>,
        now_us: u64,
    ) -> Call<'a, C> {
        Call {
            export,
            request,
            now_us,
            meter: put_off.map_or(Meter::Off, Meter::PutOff),
        }
    }

    /// Sectors in one command through this port, at least 1.
    pub(crate) fn per_frame(&self) -> u8 {
        per_frame(&self.request.port, self.export)
    }

    /// The request as a value of its own, to go on with later.
    pub(crate) fn in_flight<F>(
        self,
        frame: F,
        action: Action,
        place: Place<C::Handle>,
        stage: Stage,
    ) -> InFlight<F, C> {
        let meter = self.meter.row();
        InFlight {
            frame,
            export: Arc::clone(self.export),
            request: *self.request,
            action,
            token: place.token(),
            place,
            stage,
            put_off: meter.map(|meter| PutOff::new(meter, self.now_us)),
        }
    }
}

/// Sectors in one command of an export through a port, at least 1.
pub(crate) fn per_frame<C: Completions>(port: &PortInfo, export: &Export<C>) -> u8 {
    sectors_per_frame(port.mtu_bytes)
        .min(export.options.max_sectors)
        .max(1)
}

/// A session without its exports, so that both can be borrowed apart.
pub(crate) struct Server<L: Link, C: Completions> {
    /// Identifies the session in the exports' orders.
    pub handle: C::Handle,
    // Before `in_flight`: dropped first, so that what the queue itself still does has ended before order is given up.
    pub completions: C,
    pub in_flight: InFlightTable<RxFrame<L::Frame>, C>,
    pub counters: Arc<Counters>,
    /// Operations of this round, by the place of their export: how long they took is known when the round is over.
    pub untimed: Vec<(usize, Timed)>,
}

impl<L: Link, C: Completions> Server<L, C> {
    /// A request of this session, as the order knows it.
    pub(crate) fn requester(&self, token: Token) -> Requester<C::Handle> {
        Requester {
            session: self.handle.clone(),
            token,
        }
    }

    /// A place of this session's in an entry of the order.
    pub(crate) fn enter(
        &self,
        export: &Export<C>,
        entry: Arc<Entry<C::Handle>>,
        token: Token,
    ) -> Place<C::Handle> {
        Place::new(&export.order, entry, self.requester(token))
    }

    /// Lets a request wait. It keeps its headers and what it has to write, in memory of its own: the link's is for those that come.
    pub(crate) fn park(&mut self, link: &mut L, mut in_flight: Pending<L, C>) {
        let needed = match (in_flight.stage, &in_flight.action) {
            (Stage::Waiting | Stage::Running, Action::Write { .. } | Action::Trim(_) | Action::Change(_)) => {
                usize::MAX
            }
            _ => in_flight.request.payload_at,
        };
        in_flight.frame = in_flight.frame.keep(link, needed);
        self.in_flight.put(in_flight);
    }

    /// What every command needs first: it was sent to the export, whose source may see it and speaks its version.
    pub(crate) fn admit(call: Call<'_, C>, state: &State) -> Result<Access, Refusal> {
        // A gateway that is paused still has the group: another one that hears nothing would take it, and serve what is to stand still.
        if state.paused && !call.export.is_asked_by_peer(call.request) {
            return Err(Refusal::Silent(Silence::Paused));
        }
        if call.export.is_silenced() {
            return Err(Refusal::Silent(Silence::Fenced));
        }
        let (request, mac) = (call.request, call.export.mac(&call.request.port));
        if !request.broadcast && request.destination != mac {
            return Err(Refusal::Silent(Silence::Destination));
        }
        if request.source == mac {
            return Err(Refusal::Silent(Silence::Source));
        }
        let access = call.export.access_of(state, request.source);
        let access = access.or(call.export.is_asked_by_peer(request).then_some(Access::ReadOnly));
        let shown = matches!(call.request.command, Command::Query { .. })
            && mutants::is(Mutant::MaskIgnoredByQueries);
        let Some(access) = access.or(shown.then_some(Access::ReadOnly)) else {
            return Err(Refusal::Silent(Silence::Denied));
        };
        if call.request.version != aoe::VERSION {
            return Err(Refusal::Aoe(error::VERSION));
        }
        Ok(access)
    }

    /// Counts a request that was carried out.
    pub(crate) fn measure(&mut self, call: Call<'_, C>, action: &Action) {
        let Some(row) = call.meter.row() else { return };
        let timed = row.succeeded(action, call.request.source, call.now_us);
        match (timed, call.meter) {
            (Some(timed), Meter::ThisRound(_, place)) => self.untimed.push((place, timed)),
            (Some(timed), Meter::PutOff(put_off)) => {
                put_off
                    .meter
                    .took(timed, call.now_us.saturating_sub(put_off.since_us));
            }
            _ => {}
        }
    }

    /// Gives no answer.
    pub(crate) fn silent(&self, link: &mut L, frame: RxFrame<L::Frame>, why: Silence) {
        self.counters.silent(why);
        frame.free(link);
    }

    /// Answers with `parts`, the first of them the headers.
    pub(crate) fn send(&self, link: &mut L, call: Call<'_, C>, frame: RxFrame<L::Frame>, parts: &[&[u8]]) {
        if call.export.is_silenced() {
            return self.silent(link, frame, Silence::Fenced);
        }
        self.send_unconditionally(link, call, frame, parts);
    }

    /// Tells another gateway of the failover group that the storage is not heard. From the port's own address: the group's would have
    /// the switches send here what may be another gateway's by now.
    pub(crate) fn tell_unheard(&self, link: &mut L, call: Call<'_, C>, frame: RxFrame<L::Frame>) {
        self.counters.aoe_errors.bump();
        let envelope = Envelope::answer(call.request, call.request.port.mac, call.export.address());
        let head = envelope.head(error::UNAVAILABLE, &[]);
        self.send_unconditionally(link, call, frame, &[&head]);
    }

    /// Tells another gateway of the failover group that this one has the export, paused or not. From the port's own address: both may have the
    /// group's, and which one answers is what is asked.
    pub(crate) fn tell_standing(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        frame: RxFrame<L::Frame>,
        standing: &str,
    ) {
        let envelope = Envelope::answer(call.request, call.request.port.mac, call.export.address());
        let head = envelope.head(0, &[]);
        let text = standing.as_bytes();
        let fixed = query_argument(&call.request.port, call.export, subcommand::READ, text);
        self.send(link, call, frame, &[&head, &fixed, text]);
    }

    fn send_unconditionally(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        mut frame: RxFrame<L::Frame>,
        parts: &[&[u8]],
    ) {
        if build(link, &mut frame, &call.request.tags, parts) {
            self.counters.replies.bump();
            frame.send(link);
        } else {
            self.silent(link, frame, Silence::NoMemory);
        }
    }

    fn envelope<'a>(call: &Call<'a, C>) -> Envelope<'a> {
        let mac = call.export.mac(&call.request.port);
        Envelope::answer(call.request, mac, call.export.address())
    }

    /// Turns a request down.
    pub(crate) fn refuse(&self, link: &mut L, call: Call<'_, C>, frame: RxFrame<L::Frame>, refusal: Refusal) {
        if let Some(row) = call.meter.row() {
            match refusal {
                Refusal::Silent(_) => row.silent.bump(),
                Refusal::Aoe(_) => row.failed(&row.aoe_errors, call.request.source, call.now_us),
                Refusal::Ata(_) => row.failed(&row.ata_errors, call.request.source, call.now_us),
            }
        }
        self.answer_refusal(link, call, frame, refusal);
    }

    /// Turns a request down that was counted as what it is.
    pub(crate) fn answer_refusal(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        frame: RxFrame<L::Frame>,
        refusal: Refusal,
    ) {
        match (refusal, &call.request.command) {
            (Refusal::Silent(why), _) => self.silent(link, frame, why),
            (Refusal::Ata(results), Command::Ata(registers)) => {
                self.results(link, call, registers, frame, results, &[]);
            }
            (Refusal::Ata(_), _) => self.silent(link, frame, Silence::Runt),
            (Refusal::Aoe(code), command) => {
                self.counters.aoe_errors.bump();
                let echo = match command {
                    Command::Ata(registers) if code != error::VERSION => Some(registers.echo()),
                    _ => None,
                };
                let argument = echo.as_ref().map_or(&[][..], |echo| &echo[..]);
                let head = Self::envelope(&call).head(code, argument);
                self.send(link, call, frame, &[&head]);
            }
        }
    }

    /// Answers an ATA command, with data that is not in the frame yet.
    pub(crate) fn results(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        registers: &Registers,
        frame: RxFrame<L::Frame>,
        results: Results,
        data: &[u8],
    ) {
        if results.is_error() {
            self.counters.ata_errors.bump();
        }
        let head = Self::envelope(&call).head(0, &results.write(registers.aflags));
        self.send(link, call, frame, &[&head, data]);
    }

    /// Answers an ATA read whose data is in the frame already, which has its final length.
    pub(crate) fn data_in(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        registers: &Registers,
        mut frame: RxFrame<L::Frame>,
    ) {
        let argument = registers.success().write(registers.aflags);
        let head = Self::envelope(&call).head(0, &argument);
        put_head(link, &mut frame, &head);
        self.counters.replies.bump();
        frame.send(link);
    }

    /// Answers IDENTIFY DEVICE. The size is read again each time: growth is served without a restart.
    pub(crate) fn identify(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        registers: &Registers,
        frame: RxFrame<L::Frame>,
    ) {
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
        self.results(link, call, registers, frame, registers.success(), &block);
    }

    /// Answers Query Config, MAC Mask and Reserve: the command's own header and the state in force.
    pub(crate) fn state(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        frame: RxFrame<L::Frame>,
        state: &Persistent,
        codes: ReplyCodes,
    ) {
        if codes.error != 0 {
            self.counters.aoe_errors.bump();
        }
        let head = Self::envelope(&call).head(codes.error, &[]);
        match call.request.command {
            Command::Query { subcommand, .. } => {
                let fixed = query_argument(&call.request.port, call.export, subcommand, &state.string);
                self.send(link, call, frame, &[&head, &fixed, &state.string]);
            }
            Command::Mask { subcommand, .. } => {
                let argument = mask::argument(subcommand, &state.mask, codes);
                self.send(link, call, frame, &[&head, &argument]);
            }
            Command::Reserve { subcommand, .. } => {
                let argument = reserve::argument(subcommand, &state.reserve);
                self.send(link, call, frame, &[&head, &argument]);
            }
            Command::Ata(_) | Command::Unknown(_) => self.send(link, call, frame, &[&head]),
        }
    }
}

/// The fixed part of a Query Config reply or advertisement.
pub(crate) fn query_argument<C: Completions>(
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
