//! What was counted of an export, over all its queues.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aoe_common::Mac;
use engine::{ExportMeter, Latency};

/// What initiators, or one of them, did with an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InitiatorTotals {
    /// Operations, sectors and errors.
    pub counted: engine::InitiatorTotals,
    /// When its last request came; `None`: before a port was opened again.
    pub last: Option<Instant>,
}

/// What was counted of one export.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExportTotals {
    /// READ commands answered with data.
    pub reads: u64,
    /// Sectors sent.
    pub read_sectors: u64,
    /// WRITE commands acknowledged.
    pub writes: u64,
    /// Sectors of these.
    pub written_sectors: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// DATA SET MANAGEMENT commands that succeeded.
    pub discards: u64,
    /// Other ATA commands that succeeded.
    pub others: u64,
    /// Answers with an ATA error that the backing object has no part in.
    pub ata_errors: u64,
    /// Answers with an AoE error.
    pub aoe_errors: u64,
    /// Answers with an error because the backing object failed.
    pub medium_errors: u64,
    /// Requests turned down without an answer.
    pub silent: u64,
    /// Requests that waited for one that overlaps them.
    pub waited: u64,
    /// Requests that were in flight already.
    pub duplicates: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Times of reads.
    pub read_time: Latency,
    /// Times of writes.
    pub write_time: Latency,
    /// Times of flushes.
    pub flush_time: Latency,
    /// By initiator; `None`: all that have no row of their own.
    pub initiators: BTreeMap<Option<Mac>, InitiatorTotals>,
}

impl ExportTotals {
    /// Adds what one session counted; its clock began at `start`.
    pub(super) fn add_meter(&mut self, meter: &ExportMeter, start: Instant) {
        self.reads += meter.reads.get();
        self.read_sectors += meter.read_sectors.get();
        self.writes += meter.writes.get();
        self.written_sectors += meter.written_sectors.get();
        self.flushes += meter.flushes.get();
        self.discards += meter.discards.get();
        self.others += meter.others.get();
        self.ata_errors += meter.ata_errors.get();
        self.aoe_errors += meter.aoe_errors.get();
        self.medium_errors += meter.medium_errors.get();
        self.silent += meter.silent.get();
        self.waited += meter.waited.get();
        self.duplicates += meter.duplicates.get();
        self.in_flight += meter.in_flight();
        meter.read_time.add_to(&mut self.read_time);
        meter.write_time.add_to(&mut self.write_time);
        meter.flush_time.add_to(&mut self.flush_time);
        for (initiator, counted) in meter.initiators.totals() {
            let last = start + Duration::from_micros(counted.last_us);
            self.add_initiator(
                initiator,
                &InitiatorTotals {
                    counted,
                    last: Some(last),
                },
            );
        }
    }

    fn add_initiator(&mut self, initiator: Option<Mac>, more: &InitiatorTotals) {
        let row = self.initiators.entry(initiator).or_default();
        row.counted.add(&more.counted);
        row.last = row.last.max(more.last);
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &ExportTotals) {
        self.reads += other.reads;
        self.read_sectors += other.read_sectors;
        self.writes += other.writes;
        self.written_sectors += other.written_sectors;
        self.flushes += other.flushes;
        self.discards += other.discards;
        self.others += other.others;
        self.ata_errors += other.ata_errors;
        self.aoe_errors += other.aoe_errors;
        self.medium_errors += other.medium_errors;
        self.silent += other.silent;
        self.waited += other.waited;
        self.duplicates += other.duplicates;
        self.in_flight += other.in_flight;
        self.read_time.add(&other.read_time);
        self.write_time.add(&other.write_time);
        self.flush_time.add(&other.flush_time);
        for (initiator, row) in &other.initiators {
            self.add_initiator(*initiator, row);
        }
    }
}
