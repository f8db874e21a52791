//! What a session counts of each export: operations, errors, times, initiators.
//!
//! A row belongs to one session and one export. The session's thread alone writes it, plainly, on cache lines that no
//! other thread writes; any thread may read.

use std::sync::Arc;

use aoe_common::{Mac, Vlan};
use parking_lot::Mutex;

use crate::Address;
use crate::commands::action::Action;
use crate::counters::EventCount;
use crate::counters::histogram::Histogram;
use crate::counters::initiators::{Done, Initiators};

/// Operations whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timed {
    Read,
    Write,
    Flush,
}

/// What one session counts of one export.
#[derive(Debug)]
#[repr(align(128))]
pub struct ExportMeter {
    /// Shelf and slot.
    pub address: Address,
    /// Frames that the export answers to.
    pub vlan: Vlan,
    /// READ commands answered with data.
    pub reads: EventCount,
    /// Sectors sent.
    pub read_sectors: EventCount,
    /// WRITE commands acknowledged.
    pub writes: EventCount,
    /// Sectors of these.
    pub written_sectors: EventCount,
    /// Flushes that succeeded.
    pub flushes: EventCount,
    /// DATA SET MANAGEMENT commands that succeeded.
    pub discards: EventCount,
    /// Other requests answered with success.
    pub others: EventCount,
    /// Answers with an ATA error that the backing object has no part in.
    pub ata_errors: EventCount,
    /// Answers with an AoE error.
    pub aoe_errors: EventCount,
    /// Answers with an error because the backing object failed.
    pub medium_errors: EventCount,
    /// Requests that got no answer.
    pub silent: EventCount,
    /// Requests that waited for one that overlaps them.
    pub waited: EventCount,
    /// Requests that were in flight already.
    pub duplicates: EventCount,
    /// Requests that have been put off, and of these the ones that have ended.
    put_off: [EventCount; 2],
    /// Times of READ, from the round of the worker that took it up to the end of the round that answered it.
    pub read_time: Histogram,
    /// Times of WRITE.
    pub write_time: Histogram,
    /// Times of flushes.
    pub flush_time: Histogram,
    /// By initiator.
    pub initiators: Initiators,
}

impl ExportMeter {
    fn new(address: Address, vlan: Vlan) -> ExportMeter {
        ExportMeter {
            address,
            vlan,
            reads: EventCount::default(),
            read_sectors: EventCount::default(),
            writes: EventCount::default(),
            written_sectors: EventCount::default(),
            flushes: EventCount::default(),
            discards: EventCount::default(),
            others: EventCount::default(),
            ata_errors: EventCount::default(),
            aoe_errors: EventCount::default(),
            medium_errors: EventCount::default(),
            silent: EventCount::default(),
            waited: EventCount::default(),
            duplicates: EventCount::default(),
            put_off: Default::default(),
            read_time: Histogram::default(),
            write_time: Histogram::default(),
            flush_time: Histogram::default(),
            initiators: Initiators::default(),
        }
    }

    /// Requests that wait now: for the store or for each other.
    pub fn in_flight(&self) -> u64 {
        let [begun, ended] = &self.put_off;
        // The end first: read the other way round, one that begins and ends between the two would be a negative one.
        let ended = ended.get();
        begun.get().saturating_sub(ended)
    }

    /// Counts a request that was carried out; returns which histogram takes its time.
    pub(crate) fn succeeded(&self, action: &Action, source: Mac, now_us: u64) -> Option<Timed> {
        let (done, timed) = match action {
            Action::Read { extent, .. } => {
                self.reads.bump();
                self.read_sectors.add(extent.count);
                (Done::Read(extent.count), Some(Timed::Read))
            }
            Action::Write { extent, .. } => {
                self.writes.bump();
                self.written_sectors.add(extent.count);
                (Done::Write(extent.count), Some(Timed::Write))
            }
            Action::Flush => {
                self.flushes.bump();
                (Done::Other, Some(Timed::Flush))
            }
            Action::Trim(_) => {
                self.discards.bump();
                (Done::Other, None)
            }
            _ => {
                self.others.bump();
                (Done::Other, None)
            }
        };
        self.initiators.count(source, done, now_us);
        timed
    }

    /// Counts an answer that is an error.
    pub(crate) fn failed(&self, counter: &EventCount, source: Mac, now_us: u64) {
        counter.bump();
        self.initiators.count(source, Done::Error, now_us);
    }

    /// Takes the time of an operation.
    #[inline]
    pub(crate) fn took(&self, timed: Timed, us: u64) {
        match timed {
            Timed::Read => self.read_time.record(us),
            Timed::Write => self.write_time.record(us),
            Timed::Flush => self.flush_time.record(us),
        }
    }
}

/// A request that was put off, counted as in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct PutOff {
    pub meter: Arc<ExportMeter>,
    /// The worker's time of the round that took it up.
    pub since_us: u64,
}

impl PutOff {
    pub(crate) fn new(meter: &Arc<ExportMeter>, since_us: u64) -> PutOff {
        meter.put_off[0].bump();
        PutOff {
            meter: Arc::clone(meter),
            since_us,
        }
    }
}

impl Drop for PutOff {
    fn drop(&mut self) {
        self.meter.put_off[1].bump();
    }
}

/// How the request that is being worked on is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meter<'a> {
    /// Not at all: one answer of many to a request for everybody.
    Off,
    /// It came in this round; the place of its export in the session's list.
    ThisRound(&'a Arc<ExportMeter>, usize),
    /// It was put off.
    PutOff(&'a PutOff),
}

impl<'a> Meter<'a> {
    /// The row to count in.
    pub(crate) fn row(self) -> Option<&'a Arc<ExportMeter>> {
        match self {
            Meter::Off => None,
            Meter::ThisRound(meter, _) => Some(meter),
            Meter::PutOff(put_off) => Some(&put_off.meter),
        }
    }
}

/// All rows of one session. They stay for its life, so that what they count never goes back.
#[derive(Debug, Default)]
pub struct Meters(Mutex<Vec<Arc<ExportMeter>>>);

impl Meters {
    /// The rows that there are now: of exports that had a request.
    pub fn rows(&self) -> Vec<Arc<ExportMeter>> {
        self.0.lock().clone()
    }

    /// The row of an export.
    pub(crate) fn of(&self, address: Address, vlan: Vlan) -> Arc<ExportMeter> {
        let mut rows = self.0.lock();
        let known = rows.iter().find(|row| (row.address, row.vlan) == (address, vlan));
        if let Some(row) = known {
            return Arc::clone(row);
        }
        let row = Arc::new(ExportMeter::new(address, vlan));
        rows.push(Arc::clone(&row));
        row
    }
}
