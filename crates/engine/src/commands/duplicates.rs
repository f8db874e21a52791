//! Requests that were asked before: copies of a write that was done lately, and those that wait for another one like them.

use crate::commands::action::Action;
use crate::counters::Silence;
use crate::frames::link::Link;
use crate::frames::rx_frame::RxFrame;
use crate::mutants::{self, Mutant};
use crate::order::late::{Treatment, Written};
use crate::order::scope::{Fingerprint, Span};
use crate::session::completion::{Completions, StoreResult};
use crate::session::in_flight::Pending;
use crate::session::server::{Call, Server};

impl<L: Link, C: Completions> Server<L, C> {
    /// A late duplicate: answered or dropped, not run.
    pub(crate) fn late(
        &mut self,
        link: &mut L,
        call: Call<'_, C>,
        frame: RxFrame<L::Frame>,
        action: &Action,
        treatment: Treatment,
    ) {
        if treatment == Treatment::Answer {
            self.counters.late_answered.bump();
            self.reply(link, call, frame, action, Ok(()));
        } else {
            self.silent(link, frame, Silence::Stale);
        }
    }

    /// The end of a request that another one like it, perhaps on another worker, has run.
    pub(crate) fn duplicate_finished(
        &mut self,
        link: &mut L,
        mut in_flight: Pending<L, C>,
        result: StoreResult,
        now_us: u64,
    ) {
        self.in_flight.release(in_flight.token);
        let result = in_flight.fill(link, result);
        let result = if mutants::is(Mutant::DuplicateToldSuccess) {
            Ok(())
        } else {
            result
        };
        let (export, put_off) = (&in_flight.export, in_flight.put_off.as_ref());
        let call = Call::resumed(export, &in_flight.request, put_off, now_us);
        self.reply(link, call, in_flight.frame, &in_flight.action, result);
    }

    /// A duplicate is told to look whether it is still the one to be answered.
    pub(crate) fn check_duplicate(&mut self, link: &mut L, in_flight: Pending<L, C>) {
        if in_flight.place.is_newest() {
            self.in_flight.put(in_flight);
        } else {
            self.superseded(link, in_flight);
        }
    }
}

/// A write as the memory of writes done knows it; `None` for what is no write, or where nothing is remembered.
fn written<C: Completions>(
    call: Call<'_, C>,
    action: &Action,
    fingerprint: Option<Fingerprint>,
) -> Option<Written> {
    let Action::Write { extent, .. } = action else {
        return None;
    };
    let fingerprint = fingerprint.filter(|_| call.export.options.late_duplicates)?;
    let (source, tag) = (call.request.source, call.request.tag);
    Some(Written::new(
        call.now_us,
        source,
        tag,
        Span::of(*extent),
        &fingerprint,
    ))
}

pub(crate) fn remember_write<C: Completions>(
    call: Call<'_, C>,
    action: &Action,
    fingerprint: Option<Fingerprint>,
) {
    if let Some(written) = written(call, action, fingerprint) {
        call.export.order.late.lock().record(written);
    }
}

/// What is to become of a write, in the light of those that were done lately.
pub(crate) fn treatment<C: Completions>(
    call: Call<'_, C>,
    action: &Action,
    fingerprint: Option<Fingerprint>,
) -> Treatment {
    match written(call, action, fingerprint) {
        Some(write) => call.export.order.late.lock().judge(&write),
        None => Treatment::Execute,
    }
}
