//! A worker's part of the engine: frames and completions in, replies out.

pub(crate) mod advertisements;
pub(crate) mod completion;
pub(crate) mod in_flight;
pub(crate) mod remains;
pub(crate) mod server;

use std::sync::Arc;

use arrayvec::ArrayVec;

use aoe_common::wire::query::subcommand;

use crate::ata::{Opcode, opcode};
use crate::commands::choice::Chosen;
use crate::counters::meter::{ExportMeter, Meter, Meters};
use crate::counters::{Counters, Silence};
use crate::export::limiter::Introduction;
use crate::frames::link::Link;
use crate::frames::port::PortInfo;
use crate::frames::request::{Command, Request};
use crate::frames::rx_frame::RxFrame;
use crate::mutants::{self, Mutant};
use crate::session::advertisements::Advertisements;
use crate::session::completion::Completions;
use crate::session::in_flight::InFlightTable;
use crate::session::server::{Call, Server};
use crate::store::{Extent, Store};
use crate::{Export, Exports, Remains};

/// The engine of one worker: one receive queue of one port.
///
/// Sessions of other queues and ports share the exports; order among them is kept by the exports themselves.
pub struct Session<L: Link, C: Completions> {
    exports: Arc<Exports<C>>,
    server: Server<L, C>,
    advertisements: Advertisements<C>,
    meters: Arc<Meters>,
    /// The rows of `meters` by the place of their export, made with its first request.
    rows: Vec<Option<Arc<ExportMeter>>>,
    /// When the operations that wait for their time were taken up.
    round_us: u64,
}

impl<L: Link, C: Completions> Session<L, C> {
    /// A session that serves `exports` and learns of finished operations through `completions`, which are its own.
    pub fn new(exports: Arc<Exports<C>>, completions: C) -> Session<L, C> {
        let handle = completions.handle();
        let server = Server {
            in_flight: InFlightTable::new(),
            handle,
            completions,
            counters: Arc::default(),
            untimed: Vec::new(),
        };
        Session {
            rows: vec![None; exports.len()],
            exports,
            server,
            advertisements: Advertisements::default(),
            meters: Arc::default(),
            round_us: 0,
        }
    }

    /// Serves other exports from the next frame on; requests in flight finish with the ones they came for.
    pub fn set_exports(&mut self, exports: Arc<Exports<C>>) {
        self.advertisements.retain(&exports);
        // Their places are other exports' from here on; the times of one batch are not worth more.
        self.server.untimed.clear();
        self.rows = vec![None; exports.len()];
        self.exports = exports;
    }

    /// What is served.
    pub fn exports(&self) -> &Arc<Exports<C>> {
        &self.exports
    }

    /// Requests that wait for something else to happen. They hold no frame of the link.
    pub fn pending(&self) -> usize {
        self.server.in_flight.len()
    }

    /// Whether a store works on a request that came at this time or later, on the clock of [`Session::frame`]. What waits for others
    /// is not meant: it goes on with them.
    pub fn is_working_on(&self, since_us: u64) -> bool {
        self.server.in_flight.has_running(since_us)
    }

    /// Where operations end, for whoever waits for them.
    pub fn completion_queue(&mut self) -> &mut C {
        &mut self.server.completions
    }

    /// The session's counters; they may be read from any thread.
    pub fn counters(&self) -> Arc<Counters> {
        self.server.counters.clone()
    }

    /// What the session counts of each export; it may be read from any thread.
    pub fn meters(&self) -> Arc<Meters> {
        Arc::clone(&self.meters)
    }

    /// Serves one frame: answers it in place or gives it back. What must wait is copied as far as it is needed.
    ///
    /// `now_us` is any clock that does not go back, in microseconds.
    pub fn frame(&mut self, link: &mut L, port: &PortInfo, frame: L::Frame, now_us: u64) {
        self.time_last_round(now_us);
        let parsed = Request::parse(&link.pieces(&frame), port);
        self.serve(link, frame, parsed, now_us);
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
        self.time_last_round(now_us);
        let mut parsed: ArrayVec<Result<Request, Silence>, N> = ArrayVec::new();
        for frame in frames.iter() {
            parsed.push(Request::parse(&link.pieces(frame), port));
        }
        if parsed.len() > 1 {
            self.prefetch(&parsed);
        }
        // Drained where they lie: moving the arrays would cost more than serving a frame.
        for (frame, parsed) in frames.drain(..).zip(parsed.drain(..)) {
            self.serve(link, frame, parsed, now_us);
        }
    }

    /// Has the stores fetch what reads and writes will touch. Only a hint: nothing has been judged yet.
    ///
    /// Where to is found out for all first: the hints go out so close to each other that their page walks overlap.
    fn prefetch<const N: usize>(&self, parsed: &ArrayVec<Result<Request, Silence>, N>) {
        let mut hints: ArrayVec<(&dyn Store<C>, Extent), N> = ArrayVec::new();
        for request in parsed.iter().flatten() {
            let Command::Ata(registers) = &request.command else {
                continue;
            };
            let (Opcode::Read { extended, .. } | Opcode::Write { extended, .. }) = opcode(registers.command)
            else {
                continue;
            };
            if let Some((_, export)) = self.exports.find(request) {
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

    fn serve(&mut self, link: &mut L, frame: L::Frame, parsed: Result<Request, Silence>, now_us: u64) {
        let server = &mut self.server;
        server.counters.frames.bump();
        let request = match parsed {
            Ok(request) => request,
            Err(why) => return server.silent(link, RxFrame::Frame(frame), why),
        };
        if request.is_cut {
            server.counters.cut.bump();
        }
        if request.is_wildcard() {
            link.share(&frame);
            let turn = server.discover(link, &self.exports, &request, RxFrame::Frame(frame), now_us);
            let ask = |export| self.advertisements.ask(export);
            match turn {
                Introduction::Advertise => self.exports.matching(&request).for_each(ask),
                Introduction::AdvertiseAll => self.exports.iter().for_each(ask),
                Introduction::Answer | Introduction::Silence => {}
            }
            return;
        }
        let Some((place, export)) = self.exports.find(&request) else {
            return server.silent(link, RxFrame::Frame(frame), Silence::NoExport);
        };
        let Some(row) = self.rows.get_mut(place) else {
            return server.silent(link, RxFrame::Frame(frame), Silence::NoExport);
        };
        let options = &export.options;
        let row = &*row.get_or_insert_with(|| self.meters.of(options.address, options.vlan));
        let call = Call {
            export,
            request: &request,
            now_us,
            meter: Meter::ThisRound(row, place),
        };
        if request.changes() && is_old(link.age_us(&frame), options.stale_after_us) {
            row.silent.bump();
            return server.silent(link, RxFrame::Frame(frame), Silence::Old);
        }
        let frame = RxFrame::Frame(frame);
        let own;
        let call = match Server::<L, C>::choose(call) {
            Chosen::Shared => call,
            Chosen::Own(export) => {
                own = export;
                Call { export: &own, ..call }
            }
            Chosen::Nobody => return server.refuse(link, call, frame, Server::<L, C>::nobody()),
        };
        if request.broadcast && !changes_string(&request) {
            server.broadcast(link, call, frame);
        } else {
            server.serve(link, call, frame);
        }
    }

    /// Goes on with every request that something has happened to; false when there was none.
    pub fn completions(&mut self, link: &mut L, now_us: u64) -> bool {
        self.time_last_round(now_us);
        let mut any = false;
        while let Some(completion) = self.server.completions.next() {
            any = true;
            self.server.complete(link, completion, now_us);
        }
        any
    }

    /// The operations that were answered in the round they came in took as long as it did.
    fn time_last_round(&mut self, now_us: u64) {
        let took_us = now_us.saturating_sub(std::mem::replace(&mut self.round_us, now_us));
        for (place, timed) in self.server.untimed.drain(..) {
            if let Some(Some(row)) = self.rows.get(place) {
                row.took(timed, took_us);
            }
        }
    }

    /// Advertises exports on this port, now or, some at a time and each once a second at most, in later calls of
    /// [`Session::tick`]; returns when that is due. The pace is the session's: a port with several queues advertises through
    /// one of them.
    pub fn advertise(
        &mut self,
        link: &mut L,
        port: &PortInfo,
        exports: &[Arc<Export<C>>],
        now_us: u64,
    ) -> Option<u64> {
        exports.iter().for_each(|export| self.advertisements.ask(export));
        self.tick(link, port, now_us)
    }

    /// Whether an advertisement waits for [`Session::tick`].
    pub fn has_to_advertise(&self) -> bool {
        self.advertisements.has_some()
    }

    /// Sends advertisements that are due; returns the time at which the next one is, if any waits.
    pub fn tick(&mut self, link: &mut L, port: &PortInfo, now_us: u64) -> Option<u64> {
        self.advertisements
            .tick(link, port, self.exports.len(), &self.server.counters, now_us)
    }

    /// Ends the session: requests that still wait go unanswered and give up their place, and their frames are freed. What a store
    /// has begun stays in the order until it is over: see [`Remains`]. For an orderly end, stop giving it frames and call
    /// [`Session::completions`] until [`Session::pending`] is 0 first.
    #[must_use = "what the stores have begun is not over"]
    pub fn close(self, link: &mut L) -> Remains<C> {
        let Server {
            completions,
            in_flight,
            ..
        } = self.server;
        Remains {
            completions,
            in_flight: in_flight.into_running(|frame| frame.free(link)),
        }
    }
}

impl<L: Link, C: Completions> std::fmt::Debug for Session<L, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("completions", &self.server.completions)
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

/// Whether a request that changes something has come too late. Whoever sent it has sent it again by now, perhaps by another way, and
/// may have been answered, and may have written anew.
fn is_old(age_us: u64, stale_after_us: u64) -> bool {
    age_us > stale_after_us && !mutants::is(Mutant::OldFramesServed)
}

/// True for Query Config set and force set: `aoecfg` sends them to the broadcast MAC and one export's own address,
/// which names that export as well as its MAC would.
fn changes_string(request: &Request) -> bool {
    matches!(
        request.command,
        Command::Query {
            subcommand: subcommand::SET | subcommand::FORCE_SET,
            ..
        }
    )
}
