//! `xblade stat`: rates, as iostat shows them.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::args::StatArgs;
use super::client::ControlClient;
use super::columns::{Column, choose, table};
use super::rates::{Rates, between};
use crate::cli::output;
use crate::control::api::types::{ControlRequest, DaemonState, SCHEMA};

const MIB: f64 = (1 << 20) as f64;

const STAT: [Column<Rates>; 11] = [
    ("export", |row| row.export.clone()),
    ("r/s", |row| format!("{:.1}", row.reads_per_second)),
    ("rMiB/s", |row| format!("{:.2}", row.read_bytes_per_second / MIB)),
    ("w/s", |row| format!("{:.1}", row.writes_per_second)),
    ("wMiB/s", |row| {
        format!("{:.2}", row.written_bytes_per_second / MIB)
    }),
    ("aqu-sz", |row| format!("{:.2}", row.queue_size)),
    ("lat-p50", |row| time(row.p50_us)),
    ("lat-p99", |row| time(row.p99_us)),
    ("dup", |row| row.duplicates.to_string()),
    ("err", |row| row.errors.to_string()),
    ("dirty", |row| age(row.dirty_seconds)),
];

/// How long the oldest uncommitted write has waited; a dash where that is not known.
pub(in crate::cli) fn age(seconds: Option<f64>) -> String {
    match seconds {
        Some(0.0) => "0".into(),
        seconds => time(seconds.map(|seconds| (seconds * 1e6) as u64)),
    }
}

/// Microseconds, with a unit that keeps the number short.
pub(in crate::cli) fn time(us: Option<u64>) -> String {
    match us {
        None => "-".into(),
        Some(us) if us < 1000 => format!("{us}us"),
        Some(us) if us < 1_000_000 => format!("{:.1}ms", us as f64 / 1e3),
        Some(us) => format!("{:.1}s", us as f64 / 1e6),
    }
}

pub(in crate::cli) fn stat(args: &StatArgs) -> Result<ExitCode> {
    let columns = choose(&STAT, STAT.len(), &args.output)?;
    let (interval, exports) = args.split();
    let every = interval.unwrap_or(Duration::from_secs(1));
    let last = args.count.or(interval.is_none().then_some(1));
    let mut client = ControlClient::new(&args.target)?;
    let mut before: DaemonState = client.ask(&ControlRequest::State {
        exports: exports.to_vec(),
        every_ms: Some(u64::try_from(every.as_millis()).unwrap_or(u64::MAX)),
    })?;
    let mut told = 0;
    while last.is_none_or(|last| told < last) {
        let after: DaemonState = client.next()?;
        for gone in gone(&before, &after) {
            tracing::warn!("{gone} is not exported any more");
        }
        let (seconds, rates) = between(&before, &after);
        if args.output.json {
            output::line(json!({ "schema": SCHEMA, "seconds": seconds, "exports": rates }))?;
        } else {
            let end = if last == Some(1) { "" } else { "\n" };
            let text = table(&columns, &rates, &args.output).text();
            output::print(format_args!("{text}{end}"))?;
        }
        before = after;
        told += 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// The exports that a reload has taken out meanwhile.
fn gone<'a>(before: &'a DaemonState, after: &DaemonState) -> impl Iterator<Item = &'a str> {
    let left: HashSet<String> = after.exports.iter().map(|export| export.export.clone()).collect();
    let names = before.exports.iter().map(|export| export.export.as_str());
    names.filter(move |name| !left.contains(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_that_keeps_them_short() {
        let all = [None, Some(7), Some(1500), Some(2_500_000)].map(time);
        assert_eq!(all, ["-", "7us", "1.5ms", "2.5s"]);
        assert_eq!([None, Some(0.0), Some(0.25)].map(age), ["-", "0", "250.0ms"]);
    }
}
