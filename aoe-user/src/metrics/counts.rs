//! The list of what is counted of an export: fields, control socket and OpenMetrics are all made from it.

use engine::{ExportMeter, SECTOR_BYTES};
use serde::{Deserialize, Serialize};

/// Where a count stands in OpenMetrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    /// `xblade_export_NAME_total`.
    Total(&'static str),
    /// `xblade_export_errors_total` with this `kind`.
    Error(&'static str),
    /// `xblade_export_NAME`, of this moment.
    Now(&'static str),
}

/// One of the counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    /// In OpenMetrics.
    pub(crate) metric: Metric,
    /// What is counted.
    pub(crate) help: &'static str,
    /// Its value.
    pub(crate) get: fn(&Counts) -> u64,
}

/// Makes the struct and everything that goes through all of its fields.
macro_rules! counts {
    ($($(#[doc = $help:literal])+ $field:ident: $metric:expr, $of:expr;)+) => {
        /// What was counted of one export, by one worker or by many. All but what is of the moment only grows.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub(crate) struct Counts {
            $($(#[doc = $help])+ pub $field: u64,)+
        }

        impl Counts {
            /// All of them, in the order in which they are told.
            pub(crate) const ALL: &[Count] = &[
                $(Count {
                    metric: $metric,
                    help: concat!($($help),+),
                    get: |counts| counts.$field,
                },)+
            ];

            /// What a worker has counted so far.
            pub(super) fn of(meter: &ExportMeter) -> Counts {
                let get = |of: fn(&ExportMeter) -> u64| of(meter);
                Counts { $($field: get($of),)+ }
            }

            /// Adds what was counted elsewhere.
            pub(crate) fn add(&mut self, other: &Counts) {
                $(self.$field += other.$field;)+
            }
        }
    };
}

counts! {
    /// READ commands answered with data.
    reads: Metric::Total("reads_completed"), |meter| meter.reads.get();
    /// Bytes sent in replies to reads.
    read_bytes: Metric::Total("read_bytes"), |meter| meter.read_sectors.get() * SECTOR_BYTES;
    /// WRITE commands acknowledged.
    writes: Metric::Total("writes_completed"), |meter| meter.writes.get();
    /// Bytes of acknowledged writes.
    written_bytes: Metric::Total("written_bytes"), |meter| meter.written_sectors.get() * SECTOR_BYTES;
    /// Flushes that succeeded.
    flushes: Metric::Total("flushes"), |meter| meter.flushes.get();
    /// DATA SET MANAGEMENT commands that succeeded.
    discards: Metric::Total("discards"), |meter| meter.discards.get();
    /// Other ATA commands that succeeded.
    others: Metric::Total("other_commands"), |meter| meter.others.get();
    /// Answers with an ATA error that the backing object has no part in.
    ata_errors: Metric::Error("ata"), |meter| meter.ata_errors.get();
    /// Answers with an AoE error.
    aoe_errors: Metric::Error("aoe"), |meter| meter.aoe_errors.get();
    /// Answers with an error because the backing object failed.
    medium_errors: Metric::Error("medium"), |meter| meter.medium_errors.get();
    /// Requests turned down without an answer: not allowed, or paused.
    silent: Metric::Total("silent"), |meter| meter.silent.get();
    /// Requests that waited for one that overlaps them.
    waited: Metric::Total("waits"), |meter| meter.waited.get();
    /// Requests that were in flight already.
    duplicates: Metric::Total("duplicates"), |meter| meter.duplicates.get();
    /// Requests in flight.
    in_flight: Metric::Now("inflight_requests"), ExportMeter::in_flight;
}

impl Counts {
    /// Nothing was read or written: nobody has it as a disk.
    pub(crate) fn is_unused(&self) -> bool {
        [
            self.reads,
            self.writes,
            self.flushes,
            self.discards,
            self.in_flight,
        ] == [0; 5]
    }

    /// Answers that were errors.
    pub(crate) fn errors(&self) -> u64 {
        let errors = Counts::ALL.iter();
        let errors = errors.filter(|count| matches!(count.metric, Metric::Error(_)));
        errors.map(|count| (count.get)(self)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_is_told_once_under_a_name_of_its_own() {
        let names: std::collections::HashSet<String> = Counts::ALL
            .iter()
            .map(|count| format!("{:?}", count.metric))
            .collect();
        assert_eq!(names.len(), Counts::ALL.len());
        let json = serde_json::to_value(Counts::default()).unwrap();
        assert_eq!(json.as_object().unwrap().len(), Counts::ALL.len());
    }

    #[test]
    fn counts_add_up() {
        let mut sum = Counts {
            medium_errors: 2,
            in_flight: 1,
            ..Counts::default()
        };
        sum.add(&Counts {
            aoe_errors: 3,
            in_flight: 4,
            ..Counts::default()
        });
        assert_eq!((sum.errors(), sum.in_flight), (5, 5));
    }
}
