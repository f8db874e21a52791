//! A load, and what a run of it gave.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{SHELF, SLOT};

/// What the generator is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    /// Writes instead of reads.
    pub write: bool,
    /// In order instead of at random.
    pub sequential: bool,
    /// Sectors in a request.
    pub sectors: u32,
    /// Requests outstanding.
    pub depth: u32,
    /// How long.
    pub seconds: f64,
    /// How long before that is counted.
    pub warm_up: f64,
    /// Or how many.
    pub count: Option<u64>,
    /// Which link.
    pub link: u32,
    /// By AF_XDP instead of a packet socket: where that is the limit. It shifts work from the generator's cpu to the target's.
    pub af_xdp: bool,
}

impl Load {
    /// Random reads.
    pub(super) const fn reads(sectors: u32, depth: u32) -> Load {
        Load {
            write: false,
            sequential: false,
            sectors,
            depth,
            seconds: 1.0,
            warm_up: 0.2,
            count: None,
            link: 0,
            af_xdp: false,
        }
    }

    /// Random writes.
    pub(super) const fn writes(sectors: u32, depth: u32) -> Load {
        Load {
            write: true,
            ..Load::reads(sectors, depth)
        }
    }

    /// The same in order.
    pub(super) const fn in_order(self) -> Load {
        Load {
            sequential: true,
            ..self
        }
    }

    /// The same from the faster generator.
    pub(super) const fn by_af_xdp(self) -> Load {
        Load { af_xdp: true, ..self }
    }

    /// True for reads that are not in order.
    pub(super) const fn is_random_read(&self) -> bool {
        !self.write && !self.sequential
    }

    /// A name that is unique among the loads of a stage: `random 1 KiB reads, depth 16`.
    pub(super) fn name(&self) -> String {
        let order = if self.sequential { "sequential" } else { "random" };
        let what = if self.write { "writes" } else { "reads" };
        format!(
            "{order} {} KiB {what}, depth {}",
            f64::from(self.sectors) / 2.0,
            self.depth
        )
    }

    /// The arguments after `xblade bench NETIF`.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut words = vec![format!("{SHELF}.{SLOT}"), "--json".into()];
        words.extend(["--sectors".into(), self.sectors.to_string()]);
        words.extend(["--depth".into(), self.depth.to_string()]);
        words.extend(match self.count {
            Some(count) => ["--count".into(), count.to_string()],
            None => ["--duration".into(), self.seconds.to_string()],
        });
        words.extend(["--warmup".into(), self.warm_up.to_string()]);
        if self.write {
            words.extend(["--write".into(), "--destroy-data".into()]);
        }
        words.extend(self.sequential.then(|| "--sequential".into()));
        words.extend(self.af_xdp.then(|| "--af-xdp".into()));
        words
    }
}

/// The part of `xblade bench --json` that is used here.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct LoadResult {
    /// Requests answered.
    pub requests: u64,
    /// Requests a second.
    pub rps: f64,
    /// MiB a second.
    pub mibs: f64,
    /// Seconds measured.
    pub seconds: f64,
    /// Refused, short or late for ever.
    pub errors: u64,
    /// Without any answer.
    pub timeouts: u64,
    /// Sent again.
    pub retransmits: u64,
    /// Latencies.
    pub lat_us: Latency,
    /// Near 0, the generator was the limit.
    pub generator_idle_pct: f64,
    /// More than a few percent, others disturbed the run.
    pub generator_starved_pct: f64,
    /// What the generator sent and received by.
    pub transport: String,
}

impl LoadResult {
    /// Whether the generator used AF_XDP.
    pub(super) fn by_af_xdp(&self) -> bool {
        self.transport.starts_with("AF_XDP")
    }
}

/// Latencies in µs.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    /// What the generator measured.
    #[serde(flatten)]
    pub result: LoadResult,
    /// CPU of the target (and its NAPI threads) for a request.
    pub target_us: f64,
    /// CPU of the whole machine for a request, the generator's and other people's included.
    pub system_us: f64,
}

impl Run {
    /// Divides CPU time by requests.
    pub(super) fn new(load: &Load, result: LoadResult, target: Duration, system: Duration) -> Run {
        // the warm-up's requests cost CPU too, and are not among those measured
        let measured = result.seconds / (result.seconds + load.warm_up);
        let each = |time: Duration| time.as_secs_f64() * 1e6 * measured / result.requests.max(1) as f64;
        Run {
            target_us: each(target),
            system_us: each(system),
            result,
        }
    }
}

/// Median of some values; NaN of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_says_what_the_generator_is_asked_for() {
        let load = Load {
            seconds: 0.5,
            ..Load::writes(16, 64).in_order().by_af_xdp()
        };
        assert_eq!(load.name(), "sequential 8 KiB writes, depth 64");
        assert_eq!(
            load.arguments().join(" "),
            "1.2 --json --sectors 16 --depth 64 --duration 0.5 --warmup 0.2 --write --destroy-data --sequential --af-xdp"
        );
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
