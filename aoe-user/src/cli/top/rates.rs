//! What each thing did between two states of a target.

use std::collections::HashMap;

use crate::cli::live::rates::{Rates, between};
use crate::control::api::types::{DaemonState, ExportInfo, Initiator, InterfaceInfo};

/// An export now, and what it did lately.
#[derive(Debug, Clone, Default)]
pub(super) struct ExportNow {
    /// As the target tells it, without its initiators.
    pub(crate) export: ExportInfo,
    /// In the last interval.
    pub(crate) rates: Rates,
    /// Bytes a second of reads, the latest last.
    pub(crate) reads: Vec<u64>,
    /// The same of writes.
    pub(crate) writes: Vec<u64>,
}

impl ExportNow {
    /// What tells it from all others.
    pub(super) fn id(&self) -> String {
        format!("{}@{}", self.export.export, self.export.vlan)
    }
}

/// An initiator of an export now, and what it did lately.
#[derive(Debug, Clone, Default)]
pub(super) struct InitiatorNow {
    /// The export.
    pub(crate) export: String,
    /// Its VLAN.
    pub(crate) vlan: String,
    /// As the target tells it.
    pub(crate) initiator: Initiator,
    /// Reads and writes a second.
    pub(crate) operations: f64,
    /// Bytes a second of reads.
    pub(crate) read_bytes: f64,
    /// Bytes a second of writes.
    pub(crate) written_bytes: f64,
}

/// An interface now, and what went through it lately.
#[derive(Debug, Clone, Default)]
pub(super) struct InterfaceNow {
    /// As the target tells it.
    pub(crate) interface: InterfaceInfo,
    /// Frames taken by the workers a second.
    pub(crate) frames: f64,
    /// Replies sent a second.
    pub(crate) replies: f64,
    /// Frames lost since the start because xblade was too slow.
    pub(crate) dropped: u64,
    /// Frames that the XDP program turned down a second.
    pub(crate) denied: f64,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// By the order of the configuration.
    pub(crate) exports: Vec<ExportNow>,
    /// By export.
    pub(crate) initiators: Vec<InitiatorNow>,
    /// By name.
    pub(crate) interfaces: Vec<InterfaceNow>,
}

/// What happened between two states.
pub(super) fn sample(before: &DaemonState, after: &DaemonState) -> Sample {
    let (seconds, rates) = between(before, after);
    let exports = after.exports.iter().zip(rates).map(|(export, rates)| ExportNow {
        export: ExportInfo {
            initiators: Vec::new(),
            ..export.clone()
        },
        rates,
        ..ExportNow::default()
    });
    let none = DaemonState::default();
    // One that was started anew has counted from zero.
    let before = match before.pid == after.pid {
        true => before,
        false => &none,
    };
    Sample {
        exports: exports.collect(),
        initiators: initiators(before, after, seconds),
        interfaces: interfaces(before, after, seconds),
    }
}

fn rate(before: u64, after: u64, seconds: f64) -> f64 {
    after.saturating_sub(before) as f64 / seconds
}

fn initiators(before: &DaemonState, after: &DaemonState, seconds: f64) -> Vec<InitiatorNow> {
    fn rows(state: &DaemonState) -> impl Iterator<Item = (&ExportInfo, &Initiator)> {
        let of = |export| move |row| (export, row);
        let all = state.exports.iter();
        all.flat_map(move |export| export.initiators.iter().map(of(export)))
    }
    fn id<'a>((export, row): (&'a ExportInfo, &'a Initiator)) -> (&'a str, &'a str, &'a str) {
        (&export.export, &export.vlan, &row.initiator)
    }
    let known: HashMap<_, &Initiator> = rows(before).map(|row| (id(row), row.1)).collect();
    let none = Initiator::default();
    let now = |(export, row): (&ExportInfo, &Initiator)| {
        let before = known.get(&id((export, row))).copied().unwrap_or(&none);
        InitiatorNow {
            export: export.export.clone(),
            vlan: export.vlan.clone(),
            operations: rate(before.reads + before.writes, row.reads + row.writes, seconds),
            read_bytes: rate(before.read_bytes, row.read_bytes, seconds),
            written_bytes: rate(before.written_bytes, row.written_bytes, seconds),
            initiator: row.clone(),
        }
    };
    rows(after).map(now).collect()
}

fn counted(interface: &InterfaceInfo, name: &str) -> u64 {
    let queues = interface.queues.iter();
    queues.filter_map(|queue| queue.get(name)).sum()
}

/// Verdicts of the XDP program that say no.
const TURNED_DOWN: [&str; 2] = ["denied", "rate_limited"];

fn turned_down(interface: &InterfaceInfo) -> u64 {
    let verdicts = TURNED_DOWN.iter();
    verdicts
        .filter_map(|verdict| interface.filter.get(*verdict))
        .sum()
}

fn interfaces(before: &DaemonState, after: &DaemonState, seconds: f64) -> Vec<InterfaceNow> {
    let none = InterfaceInfo::default();
    let now = |interface: &InterfaceInfo| {
        let same = |old: &&InterfaceInfo| old.interface == interface.interface;
        let before = before.interfaces.iter().find(same).unwrap_or(&none);
        let of = |name: &str| rate(counted(before, name), counted(interface, name), seconds);
        InterfaceNow {
            frames: of("frames"),
            replies: of("replies"),
            dropped: counted(interface, "dropped"),
            denied: rate(turned_down(before), turned_down(interface), seconds),
            interface: interface.clone(),
        }
    };
    after.interfaces.iter().map(now).collect()
}
