//! What was counted of an export, over all its queues.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aoe_common::Mac;
use engine::{ExportMeter, Latency};

use super::counts::Counts;

/// What initiators, or one of them, did with an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct InitiatorCounts {
    /// Operations, sectors and errors.
    pub(crate) counted: engine::InitiatorTotals,
    /// When its last request came; `None`: before a port was opened again.
    pub(crate) last: Option<Instant>,
}

/// What was counted of one export.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ExportTotals {
    /// The counts.
    pub(crate) counts: Counts,
    /// Times of reads.
    pub(crate) read_time: Latency,
    /// Times of writes.
    pub(crate) write_time: Latency,
    /// Times of flushes.
    pub(crate) flush_time: Latency,
    /// By initiator; `None`: all that have no row of their own.
    pub(crate) initiators: BTreeMap<Option<Mac>, InitiatorCounts>,
}

impl ExportTotals {
    /// Adds what one session counted; its clock began at `start`.
    pub(super) fn add_meter(&mut self, meter: &ExportMeter, start: Instant) {
        self.counts.add(&Counts::of(meter));
        meter.read_time.add_to(&mut self.read_time);
        meter.write_time.add_to(&mut self.write_time);
        meter.flush_time.add_to(&mut self.flush_time);
        for (initiator, counted) in meter.initiators.totals() {
            let last = start + Duration::from_micros(counted.last_us);
            self.add_initiator(
                initiator,
                &InitiatorCounts {
                    counted,
                    last: Some(last),
                },
            );
        }
    }

    fn add_initiator(&mut self, initiator: Option<Mac>, more: &InitiatorCounts) {
        let row = self.initiators.entry(initiator).or_default();
        row.counted.add(&more.counted);
        row.last = row.last.max(more.last);
    }

    /// Adds what was counted elsewhere.
    pub(crate) fn add(&mut self, other: &ExportTotals) {
        self.counts.add(&other.counts);
        self.read_time.add(&other.read_time);
        self.write_time.add(&other.write_time);
        self.flush_time.add(&other.flush_time);
        for (initiator, row) in &other.initiators {
            self.add_initiator(*initiator, row);
        }
    }
}
