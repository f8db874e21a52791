//! ATA commands: judged, entered into the export's order, and run at once or finished later.

use aoe_common::wire::error;
use std::sync::Arc;

use aoe_common::Access;
use aoe_common::wire::SECTOR_BYTES;
use crossbeam_utils::sync::ShardedLockReadGuard;

use crate::ata::{self, AtaDevice, Opcode, Registers};
use crate::commands::action::{Action, Refusal};
use crate::commands::duplicates::{remember_write, treatment};
use crate::commands::operation::OperationFailure;
use crate::counters::Silence;
use crate::export::State;
use crate::frames::link::{Link, Pieces};
use crate::frames::request::Command;
use crate::frames::rx_frame::RxFrame;
use crate::frames::scatter;
use crate::mutants::{self, Mutant};
use crate::order::late::Treatment;
use crate::order::place::AtOnce;
use crate::order::scope::Fingerprint;
use crate::order::{Placement, Turn};
use crate::session::completion::{Completions, Event, StoreResult, Token};
use crate::session::in_flight::{InFlight, Pending, Stage};
use crate::session::server::{Call, Server};
use crate::store::Step;

/// An operation that nothing stands against.
struct Begun<'a, C: Completions> {
    at_once: AtOnce<'a, C::Handle>,
    /// Nobody changes who may do what, nor pauses the export, before it is done or has a place.
    state: ShardedLockReadGuard<'a, State>,
    token: Token,
    action: Action,
    fingerprint: Option<Fingerprint>,
}

impl<L: Link, C: Completions> Server<L, C> {
    /// Serves an ATA command to an exact address.
    pub(crate) fn ata(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        registers: &Registers,
        frame: RxFrame<L::Frame>,
    ) {
        self.count(ata::opcode(registers.command));
        let export = call.export;
        let state = export.state.read();
        let action = match Self::judge(link, call, registers, &state, &frame) {
            Ok(action) => action,
            Err(refusal) => {
                drop(state);
                return self.refuse(link, call, frame, refusal);
            }
        };
        let Some(scope) = action.scope() else {
            drop(state);
            return self.reply(link, call, frame, &action, Ok(()));
        };

        let token = self.in_flight.next_token();
        let (source, max) = (call.request.source, export.max_in_flight());
        let mut fingerprint = None;
        let placement = if export.order.begin(scope, source, max) {
            Placement::Clear
        } else {
            fingerprint = action.fingerprint(link, &frame, call.request, registers);
            let requester = self.requester(token);
            export
                .order
                .place(scope, fingerprint, (source, max, call.now_us), &requester)
        };
        let (entry, stage) = match placement {
            Placement::Clear => {
                let begun = Begun {
                    at_once: AtOnce::new(&export.order, scope),
                    state,
                    token,
                    action,
                    fingerprint,
                };
                return self.begin(link, call, registers, frame, begun);
            }
            Placement::Full => {
                drop(state);
                return self.silent(link, frame, Silence::Full);
            }
            Placement::Duplicate(_)
                if mutants::is(Mutant::DuplicateAnsweredAtOnce) && matches!(action, Action::Write { .. }) =>
            {
                drop(state);
                return self.reply(link, call, frame, &action, Ok(()));
            }
            Placement::Waits(entry) => {
                self.counters.waited.bump();
                call.meter.row().inspect(|row| row.waited.bump());
                (entry, Stage::Waiting)
            }
            Placement::Duplicate(entry) => {
                self.counters.duplicates.bump();
                call.meter.row().inspect(|row| row.duplicates.bump());
                (entry, Stage::Duplicate)
            }
        };
        drop(state);
        let place = self.enter(export, entry, token);
        self.park(link, call.in_flight(frame, action, place, stage));
    }

    fn count(&self, opcode: Opcode) {
        let counters = &self.counters;
        let counter = match opcode {
            Opcode::Read { .. } => &counters.reads,
            Opcode::Write { .. } => &counters.writes,
            Opcode::Flush | Opcode::PowerDown => &counters.flushes,
            Opcode::DataSetManagement => &counters.trims,
            Opcode::Identify => &counters.identifies,
            _ => &counters.other_ata,
        };
        counter.bump();
    }

    /// Decides what an ATA command asks for, in the order: visible, version, reserved, registers.
    pub(crate) fn judge(
        link: &L,
        call: Call<'_, C>,
        registers: &Registers,
        state: &State,
        frame: &RxFrame<L::Frame>,
    ) -> Result<Action, Refusal> {
        let access = Self::admit(call, state)?;
        let export = call.export;
        let opcode = ata::opcode(registers.command);
        let holders = &state.persistent.reserve;
        let passes =
            opcode.passes_reservation() || (opcode.has_payload() && mutants::is(Mutant::ReservationIgnored));
        if !holders.is_empty() && !holders.contains(&call.request.source) && !passes {
            return Err(Refusal::Aoe(error::RESERVED));
        }
        // A read's payload (Linux probes paths with such) is nobody's business.
        let payload = if opcode.has_payload() {
            payload(link, call, frame)
        } else {
            Pieces::new()
        };
        ata::decode(
            registers,
            &AtaDevice {
                sectors: export.store.sectors(),
                per_frame: call.per_frame(),
                read_only: export.options.read_only
                    || (access == Access::ReadOnly && !mutants::is(Mutant::ReadOnlyMemberWrites)),
                sync: export.options.sync,
                traits: export.store.traits(),
                multiple: state.multiple(),
                smart: state.smart(export.options.smart),
                payload: &payload,
            },
        )
    }

    /// Has the store do what has been entered in the order.
    fn begin(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        registers: &Registers,
        mut frame: RxFrame<L::Frame>,
        begun: Begun<'_, C>,
    ) {
        let Begun {
            at_once,
            state,
            token,
            action,
            mut fingerprint,
        } = begun;
        if call.export.options.late_duplicates && matches!(action, Action::Write { .. }) {
            fingerprint = fingerprint.or_else(|| action.fingerprint(link, &frame, call.request, registers));
            let treatment = treatment(call, &action, fingerprint);
            if treatment != Treatment::Execute {
                drop((at_once, state));
                return self.late(link, call, frame, &action, treatment);
            }
        }
        let step = action.run(
            call.export,
            (&mut self.completions, token),
            link,
            &mut frame,
            call.request,
        );
        if matches!(step, Ok(Step::Later)) {
            let fingerprint =
                fingerprint.or_else(|| action.fingerprint(link, &frame, call.request, registers));
            let place = at_once.go_on(fingerprint, call.request.source, self.requester(token));
            drop(state);
            self.counters.deferred.bump();
            return self.park(link, call.in_flight(frame, action, place, Stage::Running));
        }
        if step.is_ok() {
            remember_write(call, &action, fingerprint);
        }
        drop((at_once, state));
        self.reply(link, call, frame, &action, step.map(|_| ()));
    }

    /// A request that waited may start: everything is judged again, for what it waited for may have changed it.
    pub(crate) fn resume(&mut self, link: &mut L, mut in_flight: Pending<L, C>, now_us: u64) {
        let export = Arc::clone(&in_flight.export);
        let state = export.state.read();
        match in_flight.place.turn() {
            Turn::Superseded => return self.superseded(link, in_flight),
            Turn::NotYet => return self.in_flight.put(in_flight),
            Turn::Go => {}
        }
        let Command::Ata(registers) = in_flight.request.command else {
            return self.superseded(link, in_flight);
        };
        let put_off = in_flight.put_off.as_ref();
        let call = Call::resumed(&in_flight.export, &in_flight.request, put_off, now_us);
        let action = match Self::judge(link, call, &registers, &state, &in_flight.frame) {
            Ok(action) => action,
            Err(_) if mutants::is(Mutant::NotJudgedAgain) => {
                std::mem::replace(&mut in_flight.action, Action::Flush)
            }
            Err(refusal) => {
                drop(state);
                self.in_flight.release(in_flight.token);
                // It came to nothing; a duplicate of it goes without an answer, too.
                drop(in_flight.place);
                return self.refuse(link, call, in_flight.frame, refusal);
            }
        };
        let fingerprint = if export.options.late_duplicates && matches!(action, Action::Write { .. }) {
            action.fingerprint(link, &in_flight.frame, call.request, &registers)
        } else {
            None
        };
        let treatment = treatment(call, &action, fingerprint);
        drop(state);
        if treatment == Treatment::Execute {
            in_flight.action = action;
            self.run(link, in_flight, now_us);
        } else {
            self.in_flight.release(in_flight.token);
            drop(in_flight.place);
            self.late(link, call, in_flight.frame, &action, treatment);
        }
    }

    /// Starts or repeats an operation that has an entry: what conflicts with it waits, no lock is needed.
    pub(crate) fn run(&mut self, link: &mut L, mut in_flight: Pending<L, C>, now_us: u64) {
        let step = in_flight.action.run(
            &in_flight.export,
            (&mut self.completions, in_flight.token),
            link,
            &mut in_flight.frame,
            &in_flight.request,
        );
        match step {
            Ok(Step::Later) => {
                in_flight.stage = Stage::Running;
                self.park(link, in_flight);
            }
            done => self.conclude(link, in_flight, done.map(|_| ()), now_us),
        }
    }

    /// The store has finished an operation of this session.
    pub(crate) fn finished(
        &mut self,
        link: &mut L,
        mut in_flight: Pending<L, C>,
        result: StoreResult,
        now_us: u64,
    ) {
        // A flush may find nothing to do.
        if result.is_ok() && !matches!(in_flight.action, Action::Flush) {
            in_flight.export.reached();
        }
        let result = in_flight.fill(link, result);
        self.conclude(link, in_flight, result, now_us);
    }

    /// Takes an operation out of the order and answers whoever asked last.
    fn conclude(
        &mut self,
        link: &mut L,
        in_flight: Pending<L, C>,
        result: Result<(), OperationFailure>,
        now_us: u64,
    ) {
        self.in_flight.release(in_flight.token);
        let (export, put_off) = (&in_flight.export, in_flight.put_off.as_ref());
        let call = Call::resumed(export, &in_flight.request, put_off, now_us);
        if result.is_ok() {
            // While nothing that overlaps can be judged by what is remembered.
            remember_write(call, &in_flight.action, in_flight.place.fingerprint());
        }
        let Some(requester) = in_flight.place.finish() else {
            return self.reply(link, call, in_flight.frame, &in_flight.action, result);
        };
        match result {
            Ok(()) => {
                let copy = in_flight.action.copy(link, &in_flight.frame, call.request);
                requester.post(Event::Finished(Ok(copy)));
            }
            Err(OperationFailure::Store(fault)) => requester.post(Event::Finished(Err(fault))),
            Err(OperationFailure::NoMemory) => requester.call(),
        }
        self.silent(link, in_flight.frame, Silence::Superseded);
    }

    /// Answers with the end of an action; a read's data is in the frame.
    pub(crate) fn reply(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        frame: RxFrame<L::Frame>,
        action: &Action,
        result: Result<(), OperationFailure>,
    ) {
        let Command::Ata(registers) = &call.request.command else {
            return self.silent(link, frame, Silence::Runt);
        };
        // However it ended: a fault is the fence's, and what was read may have been overwritten elsewhere since.
        if call.export.is_silenced() {
            call.meter.row().inspect(|row| row.silent.bump());
            return self.silent(link, frame, Silence::Fenced);
        }
        match result {
            Ok(()) => {
                self.measure(call, action);
                self.succeed(link, call, registers, frame, action);
            }
            Err(OperationFailure::NoMemory) => self.silent(link, frame, Silence::NoMemory),
            Err(OperationFailure::Store(_)) if mutants::is(Mutant::FaultToldAsSuccess) => {
                self.results(link, call, registers, frame, registers.success(), &[]);
            }
            Err(OperationFailure::Store(fault)) => {
                call.export.failed(&fault);
                let refusal = registers
                    .fault(&fault, action.extent())
                    .map_or_else(Refusal::Aoe, Refusal::Ata);
                if let Some(row) = call.meter.row() {
                    row.failed(&row.medium_errors, call.request.source, call.now_us);
                }
                self.answer_refusal(link, call, frame, refusal);
            }
        }
    }

    fn succeed(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        registers: &Registers,
        frame: RxFrame<L::Frame>,
        action: &Action,
    ) {
        let success = registers.success();
        let smart: [u8; SECTOR_BYTES];
        let (results, data): (_, &[u8]) = match action {
            Action::Read { extent, .. } => {
                self.counters.sectors_read.add(extent.count);
                return self.data_in(link, call, registers, frame);
            }
            Action::Identify => return self.identify(link, call, registers, frame),
            Action::Write { extent, .. } => {
                self.counters.sectors_written.add(extent.count);
                (success, &[])
            }
            Action::Answer(results) => (*results, &[]),
            Action::SetMultiple(multiple) => {
                call.export.state.read().set_multiple(*multiple);
                (success, &[])
            }
            Action::SetSmart(enabled) => {
                call.export.state.read().set_smart(*enabled);
                (success, &[])
            }
            Action::SmartData => {
                smart = ata::smart_data();
                (success, &smart)
            }
            Action::Verify { .. } | Action::Flush | Action::Trim(_) | Action::Change(_) => (success, &[]),
        };
        self.results(link, call, registers, frame, results, data);
    }
}

impl<F, C: Completions> InFlight<RxFrame<F>, C> {
    /// Puts what the store brought into the frame.
    pub(crate) fn fill<L: Link<Frame = F>>(
        &mut self,
        link: &mut L,
        result: StoreResult,
    ) -> Result<(), OperationFailure> {
        let bytes = result?;
        self.action
            .fill(bytes.as_deref(), link, &mut self.frame, &self.request)
    }
}

/// The bytes after the ATA header.
fn payload<'a, L: Link, C: Completions>(
    link: &'a L,
    call: Call<'_, C>,
    frame: &'a RxFrame<L::Frame>,
) -> Pieces<'a> {
    let pieces = frame.pieces(link);
    let at = call.request.payload_at;
    let len = scatter::total(&pieces).saturating_sub(at);
    scatter::part(&pieces, at, len).unwrap_or_default()
}
