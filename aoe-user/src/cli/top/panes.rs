//! What each tab lists.

use std::time::{Duration, UNIX_EPOCH};

use super::grid::{Cell, Grid, GridColumn, Side, head};
use super::rates::{ExportNow, InitiatorNow, InterfaceNow};
use super::theme::Tone;
use crate::cli::live::show::{idle, reasons, rights, state_name};
use crate::cli::live::stat::time;
use crate::cli::table::size;
use crate::control::api::types::{Condition, DeniedInfo, LogLine};

const MIB: f64 = (1 << 20) as f64;

/// A rate in three or four characters.
fn short(rate: f64) -> String {
    match rate {
        rate if rate < 0.05 => "0".into(),
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate if rate < 9999.5 => format!("{rate:.0}"),
        rate if rate < 999_500.0 => format!("{:.0}k", rate / 1e3),
        rate => format!("{:.1}M", rate / 1e6),
    }
}

fn rate(rate: f64) -> Cell {
    Cell::number(rate, short(rate))
}

fn latency(us: Option<u64>) -> Cell {
    Cell::number(us.map_or(f64::NAN, |us| us as f64), time(us))
}

fn count(count: u64) -> Cell {
    Cell::number(count as f64, count.to_string())
}

/// Names of exports by their numbers: e1.2 before e1.10.
fn export_name(name: &str) -> Cell {
    let numbers = name.trim_start_matches('e').split_once('.');
    let number = numbers.and_then(|(shelf, slot)| {
        let (shelf, slot): (f64, f64) = (shelf.parse().ok()?, slot.parse().ok()?);
        Some(shelf * 256.0 + slot)
    });
    Cell::number(number.unwrap_or(f64::MAX), name)
}

fn condition(state: Condition) -> Cell {
    let place = match state {
        Condition::Failed => 0.0,
        Condition::FailedDegraded => 1.0,
        Condition::Waiting => 2.0,
        Condition::Paused => 3.0,
        Condition::Standby => 4.0,
        Condition::Ready => 5.0,
    };
    Cell::number(place, state_name(state))
}

fn tone(state: Condition) -> Tone {
    match state {
        Condition::Failed | Condition::FailedDegraded => Tone::Bad,
        Condition::Waiting | Condition::Paused => Tone::Odd,
        Condition::Ready | Condition::Standby => Tone::Plain,
    }
}

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Bars, the highest of which is full.
fn trend(now: &ExportNow) -> String {
    let both = now.reads.iter().zip(&now.writes).map(|(a, b)| a + b);
    let all: Vec<u64> = both.collect();
    let highest = all.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: &u64| match value {
        0 => ' ',
        value => BARS[(u128::from(*value) * 7 / u128::from(highest)) as usize],
    };
    all.iter().map(bar).collect()
}

const EXPORTS: [GridColumn<ExportNow>; 12] = [
    GridColumn(head("EXPORT", 8, 0, Side::Left), |now| {
        export_name(&now.export.export)
    }),
    GridColumn(head("STATE", 7, 0, Side::Left), |now| condition(now.export.state)),
    GridColumn(head("r/s", 6, 0, Side::Right), |now| {
        rate(now.rates.reads_per_second)
    }),
    GridColumn(head("rMiB/s", 6, 0, Side::Right), |now| {
        rate(now.rates.read_bytes_per_second / MIB)
    }),
    GridColumn(head("w/s", 6, 0, Side::Right), |now| {
        rate(now.rates.writes_per_second)
    }),
    GridColumn(head("wMiB/s", 6, 0, Side::Right), |now| {
        rate(now.rates.written_bytes_per_second / MIB)
    }),
    GridColumn(head("p50", 7, 76, Side::Right), |now| latency(now.rates.p50_us)),
    GridColumn(head("p99", 7, 0, Side::Right), |now| latency(now.rates.p99_us)),
    GridColumn(head("aqu-sz", 6, 84, Side::Right), |now| {
        Cell::number(now.rates.queue_size, format!("{:.2}", now.rates.queue_size))
    }),
    GridColumn(head("ERRORS", 6, 92, Side::Right), |now| {
        count(now.export.counters.counts.errors())
    }),
    GridColumn(head("SIZE", 9, 104, Side::Right), |now| {
        match now.export.size_bytes {
            Some(bytes) => Cell::number(bytes as f64, size(bytes / 512)),
            None => Cell::number(f64::NAN, "-"),
        }
    }),
    GridColumn(head("TREND", 6, 0, Side::End), |now| Cell::text(trend(now))),
];

/// Exports.
pub(super) fn exports(things: &[ExportNow]) -> Grid {
    Grid::of(&EXPORTS, things, |now| {
        let export = &now.export;
        let about = match reasons(export) {
            reasons if reasons.is_empty() => format!(
                "{}, {}, {}, on {}",
                export.path,
                export.store,
                rights(export),
                export.interfaces.join(" ")
            ),
            reasons => format!("{}: {reasons}", export.path),
        };
        let tone = match tone(export.state) {
            Tone::Plain if !export.kept_off.is_empty() => Tone::Odd,
            tone => tone,
        };
        (now.id(), tone, about)
    })
}

const INITIATORS: [GridColumn<InitiatorNow>; 8] = [
    GridColumn(head("EXPORT", 8, 0, Side::Left), |now| export_name(&now.export)),
    GridColumn(head("INITIATOR", 17, 0, Side::Left), |now| {
        Cell::text(&now.initiator.initiator)
    }),
    GridColumn(head("op/s", 6, 0, Side::Right), |now| rate(now.operations)),
    GridColumn(head("rMiB/s", 6, 0, Side::Right), |now| {
        rate(now.read_bytes / MIB)
    }),
    GridColumn(head("wMiB/s", 6, 0, Side::Right), |now| {
        rate(now.written_bytes / MIB)
    }),
    GridColumn(head("READS", 12, 80, Side::Right), |now| {
        count(now.initiator.reads)
    }),
    GridColumn(head("WRITES", 12, 94, Side::Right), |now| {
        count(now.initiator.writes)
    }),
    GridColumn(head("IDLE", 6, 0, Side::Left), |now| {
        match now.initiator.idle_seconds {
            Some(seconds) => Cell::number(seconds, idle(seconds)),
            None => Cell::number(f64::NAN, "-"),
        }
    }),
];

/// Initiators.
pub(super) fn initiators(things: &[InitiatorNow]) -> Grid {
    Grid::of(&INITIATORS, things, |now| {
        let row = &now.initiator;
        let about = format!(
            "{} reads ({}), {} writes ({}), {} errors",
            row.reads,
            size(row.read_bytes / 512),
            row.writes,
            size(row.written_bytes / 512),
            row.errors
        );
        let id = format!("{}@{} {}", now.export, now.vlan, row.initiator);
        (id, Tone::Plain, about)
    })
}

const INTERFACES: [GridColumn<InterfaceNow>; 8] = [
    GridColumn(head("INTERFACE", 9, 0, Side::Left), |now| {
        Cell::text(&now.interface.interface)
    }),
    GridColumn(head("STATE", 7, 0, Side::Left), |now| {
        condition(now.interface.state)
    }),
    GridColumn(head("frame/s", 7, 0, Side::Right), |now| rate(now.frames)),
    GridColumn(head("reply/s", 7, 0, Side::Right), |now| rate(now.replies)),
    GridColumn(head("deny/s", 6, 0, Side::Right), |now| rate(now.denied)),
    GridColumn(head("DROPPED", 8, 66, Side::Right), |now| count(now.dropped)),
    GridColumn(head("MTU", 6, 80, Side::Right), |now| {
        count(u64::from(now.interface.mtu_bytes.unwrap_or(0)))
    }),
    GridColumn(head("MODE", 12, 0, Side::Left), |now| {
        Cell::text(now.interface.mode.as_deref().unwrap_or("-"))
    }),
];

/// Interfaces.
pub(super) fn interfaces(things: &[InterfaceNow]) -> Grid {
    Grid::of(&INTERFACES, things, |now| {
        let port = &now.interface;
        let about = match &port.reason {
            Some(reason) => reason.clone(),
            None => format!(
                "{}, exports: {}, queues: {}, {}, frames dropped: {}",
                port.mac.as_deref().unwrap_or("-"),
                port.exports,
                port.queues.len(),
                port.mode.as_deref().unwrap_or("-"),
                now.dropped
            ),
        };
        (port.interface.clone(), tone(port.state), about)
    })
}

const DENIED: [GridColumn<DeniedInfo>; 5] = [
    GridColumn(head("SOURCE", 17, 0, Side::Left), |row| Cell::text(&row.source)),
    GridColumn(head("INTERFACE", 9, 0, Side::Left), |row| {
        Cell::text(&row.interface)
    }),
    GridColumn(head("EXPORT", 8, 0, Side::Left), |row| export_name(&row.export)),
    GridColumn(head("FRAMES", 8, 0, Side::Right), |row| count(row.frames)),
    GridColumn(head("IDLE", 8, 0, Side::Left), |row| {
        Cell::number(row.idle_seconds, idle(row.idle_seconds))
    }),
];

/// Sources that were turned away.
pub(super) fn denied(things: &[DeniedInfo]) -> Grid {
    Grid::of(&DENIED, things, |row| {
        let about = format!("not on the access list of {}", row.export);
        (format!("{} {}", row.interface, row.source), Tone::Plain, about)
    })
}

const LOG: [GridColumn<LogLine>; 3] = [
    GridColumn(head("TIME", 9, 0, Side::Left), |line| {
        let time = UNIX_EPOCH + Duration::try_from_secs_f64(line.time).unwrap_or_default();
        let text = humantime::format_rfc3339_seconds(time).to_string();
        // 2026-11-26T04:16:01Z
        Cell::number(line.number as f64, text.get(11..).unwrap_or(&text))
    }),
    GridColumn(head("LEVEL", 5, 0, Side::Left), |line| {
        let place = ["error", "warn", "info", "debug", "trace"].map(|level| level == line.level);
        let place = place.iter().position(|is_it| *is_it).unwrap_or(5);
        Cell::number(place as f64, line.level.to_uppercase())
    }),
    GridColumn(head("MESSAGE", 20, 0, Side::Left), |line| Cell::text(&line.text)),
];

/// The log.
pub(super) fn log(things: &[LogLine]) -> Grid {
    Grid::of(&LOG, things, |line| {
        let tone = match line.level.as_str() {
            "error" => Tone::Bad,
            "warn" => Tone::Odd,
            "info" => Tone::Plain,
            _ => Tone::Faint,
        };
        (line.number.to_string(), tone, line.text.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        let all = [0.0, 0.04, 3.25, 12.3, 9999.0, 12_345.0, 1_234_567.0].map(short);
        assert_eq!(all, ["0", "0", "3.2", "12", "9999", "12k", "1.2M"]);
    }

    #[test]
    fn exports_sort_by_their_numbers() {
        let names = ["e1.2", "e1.10", "e10.0"].map(|name| export_name(name).number);
        assert!(names[0] < names[1] && names[1] < names[2], "{names:?}");
    }

    #[test]
    fn a_trend_is_as_high_as_its_highest() {
        let now = ExportNow {
            reads: vec![0, 1, 50, 0],
            writes: vec![0, 0, 50, 50],
            ..ExportNow::default()
        };
        assert_eq!(trend(&now), " ▁█▄");
    }
}
