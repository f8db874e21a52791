//! What happened between two states of a target.

use std::collections::HashMap;

use engine::Latency;
use serde::Serialize;

use crate::control::api::times::Times;
use crate::control::api::types::{DaemonState, ExportCounters, ExportInfo};

/// What one export did in an interval.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(in crate::cli) struct Rates {
    /// As in `e1.2`.
    pub(crate) export: String,
    /// Reads a second.
    pub(crate) reads_per_second: f64,
    /// Bytes of these a second.
    pub(crate) read_bytes_per_second: f64,
    /// Writes a second.
    pub(crate) writes_per_second: f64,
    /// Bytes of these a second.
    pub(crate) written_bytes_per_second: f64,
    /// Requests in work on average.
    pub(crate) queue_size: f64,
    /// The time that half of all reads and writes did not exceed, in microseconds.
    pub(crate) p50_us: Option<u64>,
    /// And 99 of 100.
    pub(crate) p99_us: Option<u64>,
    /// Retransmissions that came while the first copy was in flight.
    pub(crate) duplicates: u64,
    /// Answers that were errors.
    pub(crate) errors: u64,
    /// At its end, since the oldest acknowledged write that was not on the medium yet.
    pub(crate) dirty_seconds: Option<f64>,
}

fn since(before: &Times, after: &Times) -> Latency {
    Latency::from(after).since(&Latency::from(before))
}

impl Rates {
    fn new(before: &ExportCounters, after: &ExportInfo, seconds: f64) -> Rates {
        let (now, then) = (&after.counters.counts, &before.counts);
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let mut times = since(&before.read_time, &after.counters.read_time);
        times.add(&since(&before.write_time, &after.counters.write_time));
        Rates {
            export: after.export.clone(),
            reads_per_second: rate(then.reads, now.reads),
            read_bytes_per_second: rate(then.read_bytes, now.read_bytes),
            writes_per_second: rate(then.writes, now.writes),
            written_bytes_per_second: rate(then.written_bytes, now.written_bytes),
            // Little's law: the time that all of them took together, in the time that passed.
            queue_size: times.sum_us as f64 / 1e6 / seconds,
            p50_us: times.quantile_us(500),
            p99_us: times.quantile_us(990),
            duplicates: now.duplicates.saturating_sub(then.duplicates),
            errors: now.errors().saturating_sub(then.errors()),
            dirty_seconds: after.dirty_seconds,
        }
    }
}

/// The time between two states in seconds, and what each export of the second one did in it.
pub(in crate::cli) fn between(before: &DaemonState, after: &DaemonState) -> (f64, Vec<Rates>) {
    // A target that was started in between has counted from zero.
    let is_same = before.pid == after.pid && before.uptime_seconds <= after.uptime_seconds;
    let passed = if is_same {
        after.uptime_seconds - before.uptime_seconds
    } else {
        after.uptime_seconds
    };
    let seconds = passed.max(1e-3);
    let name = |export: &ExportInfo| (export.export.clone(), export.vlan.clone());
    let known: HashMap<_, _> = before
        .exports
        .iter()
        .filter(|_| is_same)
        .map(|export| (name(export), &export.counters))
        .collect();
    let none = ExportCounters::default();
    let rates = after.exports.iter().map(|export| {
        let before = known.get(&name(export)).copied().unwrap_or(&none);
        Rates::new(before, export, seconds)
    });
    (seconds, rates.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counts;

    fn state(uptime_seconds: f64, reads: u64, times: &[(u64, u64)]) -> DaemonState {
        let counters = ExportCounters {
            counts: Counts {
                reads,
                read_bytes: reads * 1024,
                ..Counts::default()
            },
            read_time: Times {
                buckets: times.to_vec(),
                sum_us: reads * 500,
            },
            ..ExportCounters::default()
        };
        DaemonState {
            uptime_seconds,
            exports: vec![ExportInfo {
                export: "e1.1".into(),
                counters,
                ..ExportInfo::default()
            }],
            ..DaemonState::default()
        }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let (before, after) = (
            state(10.0, 100, &[(8, 100)]),
            state(12.0, 300, &[(8, 298), (1024, 2)]),
        );
        let (seconds, rates) = between(&before, &after);
        assert_eq!((seconds, rates[0].reads_per_second), (2.0, 100.0));
        assert_eq!(rates[0].read_bytes_per_second, 102_400.0);
        assert_eq!((rates[0].p50_us, rates[0].p99_us), (Some(8), Some(8)));
        assert_eq!(rates[0].queue_size, 0.05);
        // Started anew: from zero.
        let (seconds, rates) = between(&after, &state(1.0, 50, &[(8, 50)]));
        assert_eq!((seconds, rates[0].reads_per_second), (1.0, 50.0));
    }
}
