//! ATA commands: judged and run under the export's lock, or entered into its order and finished later.

use std::ops::Deref;

use aoe_common::Access;
use aoe_common::wire::SECTOR_BYTES;

use super::ata::{self, Action, Device, Opcode, Refusal, Registers};
use super::counters::Silence;
use super::engine::{Call, Engine};
use super::export::State;
use super::late::{self, Written};
use super::link::{Link, Pieces};
use super::order::{EntryId, Likeness, Outcome, Placement, Turn};
use super::parked::{Parked, Role};
use super::reply::error;
use super::scatter;
use super::work::{Trouble, Work};
use crate::completion::{Completions, Event, Token};
use crate::store::Step;

impl<L: Link, C: Completions> Engine<L, C> {
    /// Serves an ATA command to an exact address.
    pub fn ata(&mut self, link: &mut L, call: Call<'_, C>, frame: L::Frame) {
        let opcode = ata::opcode(call.request.argument[aoe_common::wire::ata::COMMAND]);
        self.count(opcode);
        // Writes and trims alone, everything else side by side: what a store does at once never overlaps a write.
        if opcode.has_payload() {
            self.begin(link, call, frame, call.export.state.write());
        } else {
            self.begin(link, call, frame, call.export.state.read());
        }
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
    pub fn judge(
        link: &L,
        call: Call<'_, C>,
        state: &State<C::Handle>,
        frame: &L::Frame,
    ) -> Result<Action, Refusal> {
        let access = Self::admit(call, state)?;
        let export = call.export;
        let registers = Registers::read(&call.request.argument);
        let opcode = ata::opcode(registers.command);
        let holders = &state.persistent.reserve;
        if !holders.is_empty() && !holders.contains(&call.request.source) && !opcode.passes_reservation() {
            return Err(Refusal::Aoe(error::RESERVED));
        }
        // A read's payload (Linux probes paths with such) is nobody's business.
        let payload = if opcode.has_payload() {
            payload(link, call, frame)
        } else {
            Pieces::new()
        };
        ata::decode(
            &registers,
            &Device {
                sectors: export.store.sectors(),
                per_frame: call.per_frame(),
                read_only: export.options.read_only || access == Access::ReadOnly,
                sync: export.options.sync,
                traits: export.store.traits(),
                multiple: state.multiple(),
                smart: state.smart(export.options.smart),
                payload: &payload,
            },
        )
    }

    fn begin(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        mut frame: L::Frame,
        state: impl Deref<Target = State<C::Handle>>,
    ) {
        let work = match Self::judge(link, call, &state, &frame) {
            Err(refusal) => {
                drop(state);
                return self.refuse(link, call, frame, refusal);
            }
            Ok(action) => match Work::of(action) {
                Ok(work) => work,
                Err(action) => return self.at_once(link, call, frame, state, &action),
            },
        };

        let mut likeness = None;
        let remember = call.export.options.late_duplicates && matches!(work, Work::Write { .. });
        if remember || state.order.len() != 0 {
            likeness = work.likeness(link, &frame, call.request);
            let token = self.parking.next_token();
            let max = call.export.max_in_flight();
            let (scope, asker) = (work.scope(), || self.asker(token));
            match state.order.with(|table| table.place(scope, likeness, max, asker)) {
                Placement::Clear => {}
                Placement::Full => {
                    drop(state);
                    return self.silent(link, frame, Silence::Full);
                }
                Placement::Waits(entry) => {
                    self.counters.waited.bump();
                    return self.park(call, frame, entry, Role::Waiting);
                }
                Placement::Watches(entry) => {
                    self.counters.duplicates.bump();
                    return self.park(call, frame, entry, Role::Watching(work));
                }
            }
            if remember {
                match late_verdict(call, &state, &work, likeness) {
                    late::Verdict::Execute => {}
                    verdict => {
                        drop(state);
                        return self.late(link, call, frame, &work, verdict);
                    }
                }
            }
        }

        let token = self.parking.next_token();
        let outcome = work.run(
            call.export,
            &mut self.completions,
            token,
            link,
            &mut frame,
            call.request,
        );
        match outcome {
            Ok(Step::Later) => {
                let likeness = likeness.or_else(|| work.likeness(link, &frame, call.request));
                let asker = self.asker(token);
                let entry = state.order.with(|table| table.run(work.scope(), likeness, asker));
                drop(state);
                self.counters.deferred.bump();
                self.park(call, frame, entry, Role::Running(work));
            }
            Ok(Step::Done) => {
                if remember && let Some(written) = written(call, &work, likeness) {
                    state.order.with(|table| table.late.record(written));
                }
                drop(state);
                self.reply(link, call, frame, &work, Ok(()));
            }
            Err(trouble) => {
                drop(state);
                self.reply(link, call, frame, &work, Err(trouble));
            }
        }
    }

    fn park(&mut self, call: Call<'_, C>, frame: L::Frame, entry: EntryId, role: Role) {
        let (export, request) = (call.export.clone(), *call.request);
        self.parking.park(Parked {
            frame,
            export,
            request,
            entry,
            role,
        });
    }

    /// Actions that need no store operation.
    fn at_once(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        frame: L::Frame,
        state: impl Deref<Target = State<C::Handle>>,
        action: &Action,
    ) {
        let success = Registers::read(&call.request.argument).success();
        let smart: [u8; SECTOR_BYTES];
        let (results, data): (_, &[u8]) = match action {
            Action::Identify => {
                drop(state);
                return self.identify(link, call, frame);
            }
            Action::Answer(results) => (*results, &[]),
            Action::SetMultiple(multiple) => {
                state.set_multiple(*multiple);
                (success, &[])
            }
            Action::SetSmart(enabled) => {
                state.set_smart(*enabled);
                (success, &[])
            }
            _ => {
                smart = ata::smart_data();
                (success, &smart)
            }
        };
        drop(state);
        self.results(link, call, frame, results, data);
    }

    /// A late duplicate: answered or dropped, not run.
    fn late(&self, link: &mut L, call: Call<'_, C>, frame: L::Frame, work: &Work, verdict: late::Verdict) {
        if verdict == late::Verdict::Answer {
            self.counters.late_answered.bump();
            self.reply(link, call, frame, work, Ok(()));
        } else {
            self.silent(link, frame, Silence::Stale);
        }
    }

    /// A request that waited may start: everything is judged again, for what it waited for may have changed it.
    pub fn resume(&mut self, link: &mut L, call: Call<'_, C>, frame: L::Frame, entry: EntryId, token: Token) {
        let state = call.export.state.read();
        match state.order.with(|table| table.turn(entry, &self.handle, token)) {
            Turn::Superseded => {
                drop(state);
                self.parking.release(token);
                self.silent(link, frame, Silence::Superseded);
            }
            Turn::NotYet => {
                drop(state);
                self.put_back(call, frame, entry, token, Role::Waiting);
            }
            Turn::Go => {
                let judged = Self::judge(link, call, &state, &frame).map(Work::of);
                if let Ok(Ok(work)) = judged {
                    let late = call.export.options.late_duplicates && matches!(work, Work::Write { .. });
                    let likeness = if late {
                        work.likeness(link, &frame, call.request)
                    } else {
                        None
                    };
                    let verdict = late_verdict(call, &state, &work, likeness);
                    drop(state);
                    if verdict == late::Verdict::Execute {
                        return self.run(link, call, frame, entry, token, work);
                    }
                    self.leave(call, entry, token);
                    return self.late(link, call, frame, &work, verdict);
                }
                drop(state);
                self.leave(call, entry, token);
                match judged {
                    Err(refusal) => self.refuse(link, call, frame, refusal),
                    // The opcode has not changed meanwhile, so this cannot be; the initiator asks again.
                    Ok(_) => self.silent(link, frame, Silence::Superseded),
                }
            }
        }
    }

    /// Ends an entry that came to nothing; a duplicate of it goes without an answer, too.
    fn leave(&mut self, call: Call<'_, C>, entry: EntryId, token: Token) {
        self.parking.release(token);
        let (newest, _) = call.export.state.read().order.with(|table| table.finish(entry));
        if let Some(asker) = newest {
            asker.call();
        }
    }

    pub fn put_back(&mut self, call: Call<'_, C>, frame: L::Frame, entry: EntryId, token: Token, role: Role) {
        let (export, request) = (call.export.clone(), *call.request);
        self.parking.put_back(
            token,
            Parked {
                frame,
                export,
                request,
                entry,
                role,
            },
        );
    }

    /// Starts or repeats an operation that has an entry: what conflicts with it waits, no lock is needed.
    pub fn run(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        mut frame: L::Frame,
        entry: EntryId,
        token: Token,
        work: Work,
    ) {
        let result = match work.run(
            call.export,
            &mut self.completions,
            token,
            link,
            &mut frame,
            call.request,
        ) {
            Ok(Step::Later) => return self.put_back(call, frame, entry, token, Role::Running(work)),
            Ok(Step::Done) => Ok(()),
            Err(trouble) => Err(trouble),
        };
        self.conclude(link, call, frame, entry, token, &work, result);
    }

    /// The store has finished an operation of this session.
    #[expect(clippy::too_many_arguments, reason = "a parked request taken apart")]
    pub fn finished(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        mut frame: L::Frame,
        entry: EntryId,
        token: Token,
        work: &Work,
        outcome: Outcome,
    ) {
        let result = match outcome {
            Ok(bytes) => {
                // A flush may find nothing to do.
                if !matches!(work, Work::Flush) {
                    call.export.reached();
                }
                work.fill(bytes.as_deref(), link, &mut frame, call.request)
            }
            Err(fault) => Err(Trouble::Fault(fault)),
        };
        self.conclude(link, call, frame, entry, token, work, result);
    }

    /// Takes an operation out of the order and answers whoever asked last.
    #[expect(clippy::too_many_arguments, reason = "a parked request taken apart")]
    fn conclude(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        frame: L::Frame,
        entry: EntryId,
        token: Token,
        work: &Work,
        result: Result<(), Trouble>,
    ) {
        self.parking.release(token);
        let newest = call.export.state.read().order.with(|table| {
            let (newest, likeness) = table.finish(entry);
            if call.export.options.late_duplicates
                && result.is_ok()
                && let Some(written) = written(call, work, likeness)
            {
                table.late.record(written);
            }
            newest
        });
        let Some(asker) = newest else {
            return self.reply(link, call, frame, work, result);
        };
        match result {
            Ok(()) => asker.post(Event::Finished(Ok(work.copy(link, &frame, call.request)))),
            Err(Trouble::Fault(fault)) => asker.post(Event::Finished(Err(fault))),
            Err(Trouble::NoMemory) => asker.call(),
        }
        self.silent(link, frame, Silence::Superseded);
    }

    /// The outcome of a duplicate that another request, perhaps on another worker, has run.
    pub fn watched(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        mut frame: L::Frame,
        work: &Work,
        outcome: Outcome,
    ) {
        let result = match outcome {
            Ok(bytes) => work.fill(bytes.as_deref(), link, &mut frame, call.request),
            Err(fault) => Err(Trouble::Fault(fault)),
        };
        self.reply(link, call, frame, work, result);
    }

    /// Answers with the end of an operation; a read's data is in the frame.
    fn reply(
        &self,
        link: &mut L,
        call: Call<'_, C>,
        frame: L::Frame,
        work: &Work,
        result: Result<(), Trouble>,
    ) {
        let registers = Registers::read(&call.request.argument);
        match (result, work) {
            (Ok(()), Work::Read { extent, .. }) => {
                self.counters.sectors_read.add(extent.count);
                self.data_in(link, call, frame);
            }
            (Ok(()), _) => {
                if let Work::Write { extent, .. } = work {
                    self.counters.sectors_written.add(extent.count);
                }
                self.results(link, call, frame, registers.success(), &[]);
            }
            (Err(Trouble::NoMemory), _) => self.silent(link, frame, Silence::NoMemory),
            (Err(Trouble::Fault(fault)), _) => {
                call.export.failed(&fault);
                let refusal = registers
                    .fault(&fault, work.extent())
                    .map_or_else(Refusal::Aoe, Refusal::Ata);
                self.refuse(link, call, frame, refusal);
            }
        }
    }
}

/// The bytes after the ATA header.
fn payload<'a, L: Link, C: Completions>(link: &'a L, call: Call<'_, C>, frame: &'a L::Frame) -> Pieces<'a> {
    let pieces = link.pieces(frame);
    let at = call.request.data_at();
    let len = scatter::total(&pieces).saturating_sub(at);
    scatter::part(&pieces, at, len).unwrap_or_default()
}

fn written<C: Completions>(call: Call<'_, C>, work: &Work, likeness: Option<Likeness>) -> Option<Written> {
    let span = work.scope().span;
    matches!(work, Work::Write { .. }).then_some(())?;
    likeness.map(|likeness| {
        Written::new(
            call.now_us,
            call.request.source,
            call.request.tag,
            span,
            &likeness,
        )
    })
}

fn late_verdict<C: Completions>(
    call: Call<'_, C>,
    state: &State<C::Handle>,
    work: &Work,
    likeness: Option<Likeness>,
) -> late::Verdict {
    match written(call, work, likeness) {
        Some(write) if call.export.options.late_duplicates => {
            state.order.with(|table| table.late.judge(&write))
        }
        _ => late::Verdict::Execute,
    }
}
