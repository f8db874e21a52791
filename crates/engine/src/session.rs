//! A worker's part of the engine: frames and completions in, replies out.

use std::sync::Arc;

use aoe_common::Mac;
use aoe_common::wire::{MIN_FRAME_BYTES, aoe, ata as ata_wire, mask, query as query_wire, reserve};
use arrayvec::ArrayVec;

use super::adverts::Adverts;
use super::ata::{Action, Opcode, Refusal, Registers, opcode};
use super::counters::{Counters, Silence};
use super::engine::{Call, Engine};
use super::link::Link;
use super::parked::{Parked, Parking, Role};
use super::reply::error;
use super::request::Request;
use super::{Export, Exports, query};
use crate::completion::{Completion, Completions, Event};
use crate::store::{Extent, Store};

/// The port a frame came through. MAC and MTU may differ from call to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its address: replies come from it, and only frames to it or to everyone are answered.
    pub mac: Mac,
    /// Its MTU, which bounds the sectors in a frame.
    pub mtu_bytes: u32,
}

/// The engine of one worker: one receive queue of one port.
///
/// Sessions of other queues and ports share the exports; order among them is kept by the exports themselves.
pub struct Session<L: Link, C: Completions> {
    exports: Arc<Exports<C>>,
    engine: Engine<L, C>,
    adverts: Adverts<C>,
}

impl<L: Link, C: Completions> Session<L, C> {
    /// A session that serves `exports` and learns of finished operations through `completions`, which are its own.
    pub fn new(exports: Arc<Exports<C>>, completions: C) -> Session<L, C> {
        let handle = completions.handle();
        let engine = Engine {
            parking: Parking::new(handle.clone()),
            handle,
            completions,
            counters: Arc::default(),
        };
        Session {
            exports,
            engine,
            adverts: Adverts::default(),
        }
    }

    /// Serves other exports from the next frame on; requests in flight finish with the ones they came for.
    pub fn set_exports(&mut self, exports: Arc<Exports<C>>) {
        self.adverts.retain(&exports);
        self.exports = exports;
    }

    /// What is served.
    pub fn exports(&self) -> &Arc<Exports<C>> {
        &self.exports
    }

    /// Requests that hold a frame until something else happens.
    pub fn pending(&self) -> usize {
        self.engine.parking.len()
    }

    /// Where operations end, for whoever waits for them.
    pub fn completion_queue(&mut self) -> &mut C {
        &mut self.engine.completions
    }

    /// The session's counters; they may be read from any thread.
    pub fn counters(&self) -> Arc<Counters> {
        self.engine.counters.clone()
    }

    /// Serves one frame: answers it in place, gives it back, or keeps it until an operation ends.
    ///
    /// `now_us` is any clock that does not go back, in microseconds.
    pub fn frame(&mut self, link: &mut L, port: &PortInfo, frame: L::Frame, now_us: u64) {
        let parsed = Request::parse(&link.pieces(&frame), port.mac);
        self.serve(link, port, frame, parsed, now_us);
    }

    /// Serves frames in order. All are parsed before the first is served, so that the memory of the last is on its way to
    /// the CPU meanwhile.
    pub fn batch<const N: usize>(
        &mut self,
        link: &mut L,
        port: &PortInfo,
        frames: &mut ArrayVec<L::Frame, N>,
        now_us: u64,
    ) {
        let mut parsed: ArrayVec<Result<Request, Silence>, N> = ArrayVec::new();
        for frame in frames.iter() {
            parsed.push(Request::parse(&link.pieces(frame), port.mac));
        }
        if parsed.len() > 1 {
            self.prefetch(&parsed);
        }
        // Drained where they lie: moving the arrays would cost more than serving a frame.
        for (frame, parsed) in frames.drain(..).zip(parsed.drain(..)) {
            self.serve(link, port, frame, parsed, now_us);
        }
    }

    /// Has the stores fetch what reads and writes will touch. Only a hint: nothing has been judged yet.
    ///
    /// Where to is found out for all first: the hints go out so close to each other that their page walks overlap.
    fn prefetch<const N: usize>(&self, parsed: &ArrayVec<Result<Request, Silence>, N>) {
        let mut hints: ArrayVec<(&dyn Store<C>, Extent), N> = ArrayVec::new();
        for request in parsed.iter().flatten() {
            if request.command != aoe::CMD_ATA {
                continue;
            }
            let registers = Registers::read(&request.argument);
            let (Opcode::Read { extended, .. } | Opcode::Write { extended, .. }) = opcode(registers.command)
            else {
                continue;
            };
            if let Some(export) = self.exports.find(request) {
                let extent = Extent {
                    lba: registers.lba(extended),
                    count: registers.count.into(),
                };
                hints.push((&*export.store, extent));
            }
        }
        for (store, extent) in hints {
            store.prefetch(extent);
        }
    }

    fn serve(
        &mut self,
        link: &mut L,
        port: &PortInfo,
        frame: L::Frame,
        parsed: Result<Request, Silence>,
        now_us: u64,
    ) {
        let engine = &mut self.engine;
        engine.counters.frames.bump();
        let request = match parsed {
            Ok(request) => request,
            Err(why) => return engine.silent(link, frame, why),
        };
        if request.is_wildcard() {
            return engine.discover(link, port, &self.exports, &request, frame, now_us);
        }
        let Some(export) = self.exports.find(&request) else {
            return engine.silent(link, frame, Silence::NoExport);
        };
        let call = Call {
            port,
            export,
            request: &request,
            now_us,
        };
        if request.broadcast && !changes_string(&request) {
            match engine.discovered(link, call, &frame) {
                Ok(()) => engine.introduce(link, call, frame),
                Err(why) => engine.silent(link, frame, why),
            }
        } else {
            engine.serve(link, call, frame);
        }
    }

    /// Goes on with every request that something has happened to; false when there was none.
    pub fn completions(&mut self, link: &mut L, port: &PortInfo, now_us: u64) -> bool {
        let mut any = false;
        while let Some(completion) = self.engine.completions.next() {
            any = true;
            self.engine.complete(link, port, completion, now_us);
        }
        any
    }

    /// Advertises an export on this port, now or, to keep the pace of one a second, in a later
    /// [`Session::tick`]. The pace is the session's: a port with several queues advertises through one of them.
    pub fn advertise(&mut self, link: &mut L, port: &PortInfo, export: &Arc<Export<C>>, now_us: u64) {
        self.adverts.ask(export);
        self.tick(link, port, now_us);
    }

    /// Sends advertisements that are due; returns the time at which the next one is, if any waits.
    pub fn tick(&mut self, link: &mut L, port: &PortInfo, now_us: u64) -> Option<u64> {
        self.adverts.tick(link, port, &self.engine.counters, now_us)
    }

    /// Ends the session: requests that still wait go unanswered, and nobody waits for them any more. For an orderly
    /// end, stop giving it frames and call [`Session::completions`] until [`Session::pending`] is 0 first: nobody else
    /// can tell when what the store has begun for this session is over, and others may then overlap it.
    pub fn close(mut self, link: &mut L) {
        while let Some(parked) = self.engine.parking.evict() {
            link.free(parked.frame);
        }
    }
}

impl<L: Link, C: Completions> std::fmt::Debug for Session<L, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("completions", &self.engine.completions)
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

/// True for Query Config set and force set: `aoecfg` sends them to the broadcast MAC and one export's own address,
/// which names that export as well as its MAC would.
fn changes_string(request: &Request) -> bool {
    request.command == aoe::CMD_QUERY
        && request.argument_len >= query_wire::HEADER_LEN
        && matches!(
            query::subcommand(&request.argument),
            query::subcommand::SET | query::subcommand::FORCE_SET
        )
}

impl<L: Link, C: Completions> Engine<L, C> {
    /// Serves a request with an exact address, sent to the port's own MAC.
    fn serve(&mut self, link: &mut L, call: Call<'_, C>, frame: L::Frame) {
        let (counter, least) = match call.request.command {
            aoe::CMD_ATA => (None, ata_wire::HEADER_LEN),
            aoe::CMD_QUERY => (Some(&self.counters.queries), query_wire::HEADER_LEN),
            aoe::CMD_MASK => (Some(&self.counters.masks), mask::HEADER_LEN),
            aoe::CMD_RESERVE => (Some(&self.counters.reserves), reserve::HEADER_LEN),
            _ => (Some(&self.counters.unknown_commands), 0),
        };
        if call.request.argument_len < least {
            return self.silent(link, frame, Silence::Runt);
        }
        if let Some(counter) = counter {
            counter.bump();
        }
        match call.request.command {
            aoe::CMD_ATA => self.ata(link, call, frame),
            aoe::CMD_QUERY | aoe::CMD_MASK | aoe::CMD_RESERVE => self.administer(link, call, frame),
            _ => {
                let admitted = Self::admit(call, &call.export.state.read());
                let refusal = admitted.err().unwrap_or(Refusal::Aoe(error::COMMAND));
                self.refuse(link, call, frame, refusal);
            }
        }
    }

    /// Answers a request with a wildcard once for each export it is for.
    fn discover(
        &mut self,
        link: &mut L,
        port: &PortInfo,
        exports: &Exports<C>,
        request: &Request,
        frame: L::Frame,
        now_us: u64,
    ) {
        let mut found = false;
        for export in exports.matching(request) {
            found = true;
            let call = Call {
                port,
                export,
                request,
                now_us,
            };
            match self.discovered(link, call, &frame) {
                Err(Silence::Wildcard | Silence::Runt) => {
                    self.counters.silent(Silence::Wildcard);
                    break;
                }
                Err(why) => self.counters.silent(why),
                Ok(()) if !exports.may_answer(request.source, now_us) => {
                    self.counters.silent(Silence::Limited);
                    break;
                }
                Ok(()) => match link.allocate(MIN_FRAME_BYTES) {
                    Some(reply) => self.introduce(link, call, reply),
                    None => {
                        self.counters.silent(Silence::NoMemory);
                        break;
                    }
                },
            }
        }
        if found {
            link.free(frame);
        } else {
            self.silent(link, frame, Silence::NoExport);
        }
    }

    /// Decides whether an export answers a request by a wildcard or to the broadcast MAC. Only Query Config read,
    /// test and prefix and IDENTIFY are: a stray WRITE to everyone must change nothing, and errors stay unsaid.
    fn discovered(&self, link: &L, call: Call<'_, C>, frame: &L::Frame) -> Result<(), Silence> {
        let request = call.request;
        let state = call.export.state.read();
        match Self::admit(call, &state) {
            Ok(_) => {}
            Err(Refusal::Silent(why)) => return Err(why),
            Err(_) => return Err(Silence::Wildcard),
        }
        match request.command {
            aoe::CMD_QUERY if request.argument_len < query_wire::HEADER_LEN => Err(Silence::Runt),
            aoe::CMD_QUERY if query::subcommand(&request.argument) <= query::subcommand::PREFIX => {
                self.counters.queries.bump();
                super::admin::test(link, call, frame, &state.persistent)
            }
            aoe::CMD_ATA if request.argument_len < ata_wire::HEADER_LEN => Err(Silence::Runt),
            aoe::CMD_ATA if opcode(request.argument[ata_wire::COMMAND]) == Opcode::Identify => {
                self.counters.identifies.bump();
                match Self::judge(link, call, &state, frame) {
                    Ok(Action::Identify) => Ok(()),
                    _ => Err(Silence::Wildcard),
                }
            }
            _ => Err(Silence::Wildcard),
        }
    }

    /// Answers what [`Engine::discovered`] let through, into `frame`.
    fn introduce(&self, link: &mut L, call: Call<'_, C>, frame: L::Frame) {
        if call.request.command == aoe::CMD_ATA {
            self.identify(link, call, frame);
        } else {
            let state = call.export.state.read();
            self.state(
                link,
                call,
                frame,
                &state.persistent,
                super::admin::Verdict::default(),
            );
        }
    }

    /// Goes on with the request that a completion is for.
    fn complete(&mut self, link: &mut L, port: &PortInfo, completion: Completion, now_us: u64) {
        let Completion { token, event } = completion;
        let Some(Parked {
            frame,
            export,
            request,
            entry,
            role,
        }) = self.parking.take(token)
        else {
            // Of a request that has ended, as when two calls to look again cross.
            return;
        };
        let call = Call {
            port,
            export: &export,
            request: &request,
            now_us,
        };
        match (role, event) {
            (Role::Waiting, Event::Again) if request.command == aoe::CMD_ATA => {
                self.resume(link, call, frame, entry, token);
            }
            (Role::Waiting, Event::Again) => self.resume_change(link, call, frame, entry, token),
            (Role::Running(work), Event::Again) => self.run(link, call, frame, entry, token, work),
            (Role::Running(work), Event::Finished(outcome)) => {
                self.finished(link, call, frame, entry, token, &work, outcome);
            }
            (Role::Watching(work), Event::Finished(outcome)) => {
                self.parking.release(token);
                self.watched(link, call, frame, &work, outcome);
            }
            (Role::Watching(work), Event::Again) => {
                let state = export.state.read();
                if state
                    .order
                    .with(|table| table.is_newest(entry, &self.handle, token))
                {
                    drop(state);
                    self.put_back(call, frame, entry, token, Role::Watching(work));
                } else {
                    drop(state);
                    self.parking.release(token);
                    self.silent(link, frame, Silence::Superseded);
                }
            }
            (Role::Saving(new, change, verdict), Event::Finished(outcome)) => {
                let outcome = outcome.map(|_| ());
                self.saved(link, call, frame, (entry, token), *new, change, verdict, outcome);
            }
            (role @ (Role::Waiting | Role::Saving(..)), _) => {
                self.put_back(call, frame, entry, token, role);
            }
        }
    }
}
