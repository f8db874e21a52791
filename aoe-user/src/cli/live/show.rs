//! `xblade status`, `ls`, `initiators`, `denied`: what is, at one moment.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::args::{DeniedArgs, ListArgs, StatusArgs};
use super::columns::{Column, choose, table};
use super::stat::age;
use super::{DEGRADED, client};
use crate::cli::{output, table::size};
use crate::control::api::overlays::CopiesInfo;
use crate::control::api::types::{Condition, DaemonState, DeniedInfo, ExportInfo, Initiator, SCHEMA};

/// Not everything is served: exit code 3.
fn code(healthy: bool) -> ExitCode {
    if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DEGRADED)
    }
}

pub(in crate::cli) fn status(args: &StatusArgs) -> Result<ExitCode> {
    let state = client::state(&args.target, &[])?;
    if args.json {
        output::line(status_json(&state))?;
    } else {
        output::print(status_text(&state))?;
    }
    Ok(code(state.healthy))
}

fn ready(state: &DaemonState) -> usize {
    let ready = |export: &&ExportInfo| export.state == Condition::Ready;
    state.exports.iter().filter(ready).count()
}

/// Addresses that have asked for something.
fn active(state: &DaemonState) -> usize {
    let rows = state.exports.iter().flat_map(|export| &export.initiators);
    let all: BTreeSet<&str> = rows.map(|row| row.initiator.as_str()).collect();
    all.len()
}

/// A number over all exports with copies for machines; none where there is no such export.
fn copies(state: &DaemonState, count: fn(&CopiesInfo) -> usize) -> Option<usize> {
    let known = state.exports.iter().filter_map(|export| export.copies.as_ref());
    let counts: Vec<usize> = known.map(count).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// The export whose oldest uncommitted write has waited longest, and how long; none where no store knows.
fn most_behind(state: &DaemonState) -> Option<(&str, f64)> {
    let known = state.exports.iter();
    let known = known.filter_map(|export| Some((export.export.as_str(), export.dirty_seconds?)));
    known.max_by(|(_, one), (_, other)| one.total_cmp(other))
}

fn status_json(state: &DaemonState) -> serde_json::Value {
    let interfaces: Vec<_> = state
        .interfaces
        .iter()
        .map(|port| json!({ "interface": port.interface, "state": port.state, "mode": port.mode }))
        .collect();
    json!({
        "schema": SCHEMA,
        "healthy": state.healthy,
        "problems": state.problems,
        "version": state.version,
        "pid": state.pid,
        "uptime_seconds": state.uptime_seconds,
        "exports": { "ready": ready(state), "configured": state.exports.len() },
        "interfaces": interfaces,
        "initiators": active(state),
        "silent_machines": copies(state, |copies| copies.silent.len()),
        "full_copies": copies(state, |copies| copies.full.len()),
        "dirty_seconds": most_behind(state).map(|(_, seconds)| seconds),
        "reload": state.reload,
    })
}

fn status_text(state: &DaemonState) -> String {
    let mut text = String::new();
    let up = humantime::format_duration(Duration::from_secs(state.uptime_seconds as u64));
    let health = if state.healthy { "healthy" } else { "DEGRADED" };
    let _ = writeln!(
        text,
        "xblade {} (process {}), up {up}: {health}",
        state.version, state.pid
    );
    let _ = writeln!(
        text,
        "exports     {} of {} ready",
        ready(state),
        state.exports.len()
    );
    for port in &state.interfaces {
        let what = port
            .mode
            .as_deref()
            .or(port.reason.as_deref())
            .unwrap_or("opening");
        let degraded = match port.state {
            Condition::FailedDegraded => "FAILED-DEGRADED, ",
            _ => "",
        };
        let exports = if port.exports == 1 { "export" } else { "exports" };
        let _ = writeln!(
            text,
            "interface   {}: {degraded}{what}, {} {exports}",
            port.interface, port.exports
        );
    }
    let _ = writeln!(text, "initiators  {}", active(state));
    match most_behind(state) {
        Some((name, seconds)) if seconds > 0.0 => {
            let oldest = age(Some(seconds));
            let _ = writeln!(text, "uncommitted {name}: acknowledged {oldest} ago");
        }
        Some(_) => text.push_str("uncommitted nothing\n"),
        None => {}
    }
    for group in &state.failover {
        let _ = writeln!(text, "failover    {}: {}", group.group, group.role);
    }
    if state.reload.as_ref().is_some_and(|reload| !reload.ok) {
        text.push_str("The last reload failed: the configuration before it is in force.\n");
    }
    for problem in &state.problems {
        let _ = writeln!(text, "  {problem}");
    }
    text
}

const LS: [Column<ExportInfo>; 15] = [
    ("export", |export| export.export.clone()),
    ("state", |export| state_name(export.state).to_owned()),
    ("size", |export| {
        export
            .size_bytes
            .map_or_else(|| "-".into(), |bytes| size(bytes / 512))
    }),
    ("rights", rights),
    ("store", |export| export.store.clone()),
    ("interfaces", |export| or_dash(&export.interfaces.join(","))),
    ("initiators", |export| export.initiators.len().to_string()),
    ("file", file),
    ("vlan", |export| export.vlan.clone()),
    ("reads", |export| export.counters.counts.reads.to_string()),
    ("writes", |export| export.counters.counts.writes.to_string()),
    ("errors", |export| export.counters.counts.errors().to_string()),
    ("in-flight", |export| export.counters.counts.in_flight.to_string()),
    ("dirty", |export| age(export.dirty_seconds)),
    ("reason", |export| or_dash(&reasons(export))),
];

/// The word for it, loud where it is bad.
pub(in crate::cli) fn state_name(state: Condition) -> &'static str {
    match state {
        Condition::Ready => "ready",
        Condition::Paused => "paused",
        Condition::Standby => "standby",
        Condition::Waiting => "waiting",
        Condition::FailedDegraded => "FAILED-DEGRADED",
        Condition::Failed => "FAILED",
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// Who may use it, and how.
pub(in crate::cli) fn rights(export: &ExportInfo) -> String {
    let mode = if export.read_only { "ro" } else { "rw" };
    export
        .allow
        .map_or_else(|| format!("{mode} any"), |count| format!("{mode} {count}"))
}

/// Why it is not served, or not everywhere; empty: it is.
pub(in crate::cli) fn reasons(export: &ExportInfo) -> String {
    let own = export.reason.iter().cloned();
    let off = export
        .kept_off
        .iter()
        .map(|off| format!("{}: {}", off.interface, off.reason));
    own.chain(off).collect::<Vec<_>>().join("; ")
}

fn file(export: &ExportInfo) -> String {
    match reasons(export) {
        reasons if reasons.is_empty() => export.path.clone(),
        // Most begin with it.
        reasons if reasons.starts_with(&export.path) => reasons,
        reasons => format!("{}: {reasons}", export.path),
    }
}

pub(in crate::cli) fn ls(args: &ListArgs) -> Result<ExitCode> {
    let columns = choose(&LS, 8, &args.output)?;
    let state = client::state(&args.target, &args.exports)?;
    if args.output.json {
        output::line(json!({ "schema": SCHEMA, "exports": state.exports }))?;
    } else {
        table(&columns, &state.exports, &args.output).print()?;
    }
    // What another gateway is to serve is not missing here.
    let served = |export: &ExportInfo| {
        matches!(export.state, Condition::Ready | Condition::Standby) && export.kept_off.is_empty()
    };
    Ok(code(state.exports.iter().all(served)))
}

type Row = (String, Initiator);

const INITIATORS: [Column<Row>; 8] = [
    ("export", |(export, _)| export.clone()),
    ("initiator", |(_, row)| row.initiator.clone()),
    ("reads", |(_, row)| row.reads.to_string()),
    ("read", |(_, row)| size(row.read_bytes / 512)),
    ("writes", |(_, row)| row.writes.to_string()),
    ("written", |(_, row)| size(row.written_bytes / 512)),
    ("errors", |(_, row)| row.errors.to_string()),
    ("idle", |(_, row)| {
        row.idle_seconds.map_or_else(|| "-".into(), idle)
    }),
];

pub(in crate::cli) fn idle(seconds: f64) -> String {
    humantime::format_duration(Duration::from_secs(seconds as u64)).to_string()
}

pub(in crate::cli) fn initiators(args: &ListArgs) -> Result<ExitCode> {
    let columns = choose(&INITIATORS, 8, &args.output)?;
    let state = client::state(&args.target, &args.exports)?;
    let exports = state.exports.into_iter();
    let rows: Vec<Row> = exports
        .flat_map(|export| {
            let name = export.export;
            export.initiators.into_iter().map(move |row| (name.clone(), row))
        })
        .collect();
    if args.output.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(export, row)| {
                let mut row = json!(row);
                row["export"] = json!(export);
                row
            })
            .collect();
        output::line(json!({ "schema": SCHEMA, "initiators": rows }))?;
    } else {
        table(&columns, &rows, &args.output).print()?;
    }
    Ok(ExitCode::SUCCESS)
}

const DENIED: [Column<DeniedInfo>; 5] = [
    ("source", |row| row.source.clone()),
    ("interface", |row| row.interface.clone()),
    ("export", |row| row.export.clone()),
    ("frames", |row| row.frames.to_string()),
    ("idle", |row| idle(row.idle_seconds)),
];

pub(in crate::cli) fn denied(args: &DeniedArgs) -> Result<ExitCode> {
    let columns = choose(&DENIED, 5, &args.output)?;
    let state = client::state(&args.target, &[])?;
    if args.output.json {
        output::line(json!({ "schema": SCHEMA, "denied": state.denied }))?;
    } else {
        table(&columns, &state.denied, &args.output).print()?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::status_text;
    use crate::control::api::types::{Condition, DaemonState, InterfaceInfo};

    #[test]
    fn an_interface_where_nothing_arrives_is_told_in_its_own_line() {
        for (state, wanted) in [
            (Condition::Ready, "interface   eth1: native copy, 2 exports"),
            (
                Condition::FailedDegraded,
                "interface   eth1: FAILED-DEGRADED, native copy, 2 exports",
            ),
        ] {
            let port = InterfaceInfo {
                interface: "eth1".into(),
                mode: Some("native copy".into()),
                exports: 2,
                state,
                ..InterfaceInfo::default()
            };
            let text = status_text(&DaemonState {
                interfaces: vec![port],
                ..DaemonState::default()
            });
            assert!(text.lines().any(|line| line == wanted), "{text}");
        }
    }
}
