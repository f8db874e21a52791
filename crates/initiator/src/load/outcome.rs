//! What a load came to.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Messages kept for the reader; the counters count all.
const NOTES: usize = 5;

/// Counters and latencies of a run. What was sent before measuring began is checked, but not counted as a request.
#[derive(Debug)]
pub struct LoadOutcome {
    /// Requests answered while measuring; a failed one counts too.
    pub requests: u64,
    /// Reads among them.
    pub(crate) reads: u64,
    /// Bytes moved by those that succeeded.
    pub(crate) bytes: u64,
    /// Answers that report an error, or that are too short.
    pub errors: u64,
    /// Reads that returned other data than were written.
    pub mismatches: u64,
    /// Copies sent because no answer came in time.
    pub retransmits: u64,
    /// Requests without any answer.
    pub timeouts: u64,
    /// Answers to nothing that is outstanding: to copies, mostly.
    pub(crate) stale: u64,
    /// Reads whose data were checked and right.
    pub verified: u64,
    /// Reads of data that no run with this seed has written.
    pub unstamped: u64,
    /// Requests of the reading back at the end.
    pub read_back: u64,
    /// Time measured.
    pub elapsed: Duration,
    /// Part of it that the generator had nothing to do: near 0, the generator was the limit.
    pub idle: Duration,
    /// Part of it that the generator waited for a cpu: more than a few percent, others disturbed the run.
    pub starved: Duration,
    /// The caller ended it before its time.
    pub interrupted: bool,
    /// The first errors, in words.
    pub notes: Vec<String>,
    latency_ns: Histogram<u64>,
}

impl Default for LoadOutcome {
    fn default() -> LoadOutcome {
        LoadOutcome {
            requests: 0,
            reads: 0,
            bytes: 0,
            errors: 0,
            mismatches: 0,
            retransmits: 0,
            timeouts: 0,
            stale: 0,
            verified: 0,
            unstamped: 0,
            read_back: 0,
            elapsed: Duration::ZERO,
            idle: Duration::ZERO,
            starved: Duration::ZERO,
            interrupted: false,
            notes: Vec::new(),
            latency_ns: Histogram::new_with_max(120_000_000_000, 3)
                .expect("two minutes at three digits is a valid histogram"),
        }
    }
}

impl LoadOutcome {
    /// True when every request was answered, without an error and with the right data.
    pub const fn holds(&self) -> bool {
        self.errors == 0 && self.mismatches == 0 && self.timeouts == 0
    }

    /// Counts a latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.latency_ns.saturating_record(latency.as_nanos() as u64);
    }

    /// Keeps an error message, if it is among the first.
    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.notes.len() < NOTES {
            self.notes.push(text());
        }
    }

    /// Requests a second.
    pub fn rps(&self) -> f64 {
        self.per_second(self.requests as f64)
    }

    /// Mebibytes a second.
    pub fn mibs(&self) -> f64 {
        self.per_second(self.bytes as f64 / f64::from(1 << 20))
    }

    /// Share of the time measured, in percent.
    pub fn percent(&self, part: Duration) -> f64 {
        100.0 * self.per_second(part.as_secs_f64())
    }

    /// A latency in µs, by quantile (0.5: the median).
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The longest latency in µs.
    pub fn max_us(&self) -> f64 {
        self.latency_ns.max() as f64 / 1e3
    }

    /// The mean latency in µs.
    pub fn mean_us(&self) -> f64 {
        self.latency_ns.mean() / 1e3
    }

    /// The figures as a JSON object.
    pub fn to_json(&self) -> Value {
        let round = |value: f64| (value * 1e3).round() / 1e3;
        json!({
            "requests": self.requests,
            "reads": self.reads,
            "writes": self.requests - self.reads,
            "bytes": self.bytes,
            "seconds": round(self.elapsed.as_secs_f64()),
            "rps": round(self.rps()),
            "mibs": round(self.mibs()),
            "errors": self.errors,
            "mismatches": self.mismatches,
            "retransmits": self.retransmits,
            "timeouts": self.timeouts,
            "stale": self.stale,
            "verified": self.verified,
            "unstamped": self.unstamped,
            "read_back": self.read_back,
            "lat_us": {
                "p50": round(self.latency_us(0.5)),
                "p90": round(self.latency_us(0.9)),
                "p99": round(self.latency_us(0.99)),
                "p999": round(self.latency_us(0.999)),
                "max": round(self.max_us()),
                "mean": round(self.mean_us()),
            },
            "generator_idle_pct": round(self.percent(self.idle)),
            "generator_starved_pct": round(self.percent(self.starved)),
            "interrupted": self.interrupted,
            "notes": self.notes,
        })
    }

    fn per_second(&self, value: f64) -> f64 {
        if self.elapsed.is_zero() {
            0.0
        } else {
            value / self.elapsed.as_secs_f64()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> LoadOutcome {
        let mut outcome = LoadOutcome {
            requests: 1000,
            reads: 600,
            bytes: 1 << 20,
            ..LoadOutcome::default()
        };
        outcome.elapsed = Duration::from_millis(500);
        outcome.idle = Duration::from_millis(50);
        for us in 1..=1000 {
            outcome.record(Duration::from_micros(us));
        }
        outcome
    }

    #[test]
    fn the_json_has_rates_and_quantiles_in_the_units_its_names_say() {
        let json = outcome().to_json();
        assert_eq!(json["rps"], 2000.0);
        assert_eq!(json["mibs"], 2.0);
        assert_eq!(json["writes"], 400);
        assert_eq!(json["generator_idle_pct"], 10.0);
        let near = |name: &str, us: f64| {
            let value = json["lat_us"][name].as_f64().unwrap();
            assert!(
                (value / us - 1.0).abs() < 0.01,
                "{name} is {value}, not about {us}"
            );
        };
        near("p50", 500.0);
        near("p90", 900.0);
        near("p99", 990.0);
        near("p999", 999.0);
        near("max", 1000.0);
        near("mean", 500.5);
    }

    #[test]
    fn nothing_measured_gives_zeros_and_no_nan() {
        let json = LoadOutcome::default().to_json();
        assert_eq!(json["rps"], 0.0);
        assert_eq!(json["lat_us"]["p50"], 0.0);
    }

    #[test]
    fn only_a_run_without_faults_holds() {
        assert!(LoadOutcome::default().holds());
        assert!(
            LoadOutcome {
                retransmits: 3,
                ..LoadOutcome::default()
            }
            .holds()
        );
        assert!(
            !LoadOutcome {
                errors: 1,
                ..LoadOutcome::default()
            }
            .holds()
        );
        assert!(
            !LoadOutcome {
                mismatches: 1,
                ..LoadOutcome::default()
            }
            .holds()
        );
        assert!(
            !LoadOutcome {
                timeouts: 1,
                ..LoadOutcome::default()
            }
            .holds()
        );
    }
}
