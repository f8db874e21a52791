//! What the supervisor knows, in the words of the control socket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::overlays::{CopiesInfo, MachineInfo, SilentMachine};
pub(in crate::control) use super::selection::Selection;
use super::times::Times;
use super::types::{
    Condition, DaemonState, DeniedInfo, ExportCounters, ExportInfo, Initiator, InterfaceInfo, KeptOff,
    LostWritesInfo,
};
use crate::config::ExportConfig;
use crate::control::machines::{MachineCounts, Troubles};
use crate::control::open::Served;
use crate::control::pauses::Pause;
use crate::control::plan::{ExportStatus, PortStatus, Progress};
use crate::control::state::{StateDir, StateKey};
use crate::control::supervisor::Supervisor;
use crate::metrics::{ExportTotals, Snapshot};
use crate::store::{Health, LostWrites, SECTOR_BYTES};

/// Everything at this moment.
pub(in crate::control) fn state(supervisor: &Supervisor, selection: &Selection, now: Instant) -> DaemonState {
    let status = supervisor.plan.status();
    let snapshot = supervisor.metrics.snapshot();
    // Exports of one address on different interfaces count apart.
    let mut namesakes: HashMap<_, usize> = HashMap::new();
    for export in &status.exports {
        *namesakes.entry((export.address, export.config.vlan)).or_default() += 1;
    }
    let chosen = status
        .exports
        .iter()
        .filter(|export| selection.has(&export.config));
    let exports = chosen.map(|status| {
        let is_only = namesakes[&(status.address, status.config.vlan)] == 1;
        export(supervisor, status, &snapshot, is_only, now)
    });
    let interfaces = status
        .ports
        .iter()
        .map(|port| interface(supervisor, port, &snapshot));
    let mut state = DaemonState {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: now.duration_since(supervisor.start).as_secs_f64(),
        healthy: true,
        problems: Vec::new(),
        config_file: supervisor.config_file.clone(),
        reload: supervisor.last_reload.clone(),
        exports: exports.collect(),
        interfaces: interfaces.collect(),
        failover: supervisor.groups(now),
        denied: denied(supervisor, now),
    };
    state.problems = problems(&state);
    let problem = supervisor.state.as_ref().and_then(|dir| dir.problem());
    state.problems.extend(problem);
    state.healthy = state.problems.is_empty();
    state
}

/// What is configured and not served, one line each.
fn problems(state: &DaemonState) -> Vec<String> {
    let exports = state.exports.iter().flat_map(|export| {
        let name = &export.export;
        let own = match export.state {
            Condition::Ready | Condition::Standby => None,
            Condition::Paused | Condition::Waiting | Condition::FailedDegraded | Condition::Failed => Some(
                format!("{name}: {}", export.reason.as_deref().unwrap_or("not open yet")),
            ),
        };
        let off = export
            .kept_off
            .iter()
            .map(move |off| format!("{name} on {}: {}", off.interface, off.reason));
        own.into_iter().chain(off)
    });
    let interfaces = state.interfaces.iter().filter_map(|port| {
        let reason = port.reason.as_deref()?;
        (port.state != Condition::Ready).then(|| format!("{}: {reason}", port.interface))
    });
    // Standing by is what a standby is for, unless it does so because something is wrong.
    let groups = state.failover.iter().filter_map(|group| {
        Some(format!(
            "failover group {}: {}",
            group.group,
            group.reason.as_deref()?
        ))
    });
    exports.chain(interfaces).chain(groups).collect()
}

fn condition(state: &Progress) -> (Condition, Option<String>, u32) {
    match state {
        Progress::Open => (Condition::Ready, None, 0),
        Progress::Standby(what) => (Condition::Standby, Some(what.clone()), 0),
        Progress::Waiting(what) => (Condition::Waiting, Some(what.clone()), 0),
        Progress::Failed { reason, tries, .. } => (Condition::Failed, Some(reason.clone()), *tries),
    }
}

/// As it is told; none where the operator has not paused it.
fn paused(pause: Option<Pause>, left: Option<Duration>) -> Option<(Condition, String)> {
    let (state, mut why) = match pause? {
        Pause::Pausing => (
            Condition::Waiting,
            "being paused: not on the medium yet".to_owned(),
        ),
        Pause::Paused => (Condition::Paused, "paused by the operator".to_owned()),
    };
    if let Some(left) = left.filter(|_| state == Condition::Paused) {
        let left = Duration::from_secs(left.as_secs_f64().ceil() as u64);
        why += &format!("; served again in {}", humantime::format_duration(left));
    }
    Some((state, why))
}

impl From<LostWrites> for LostWritesInfo {
    fn from(lost: LostWrites) -> LostWritesInfo {
        LostWritesInfo {
            offset: lost.extent.lba * SECTOR_BYTES,
            bytes: lost.extent.count * SECTOR_BYTES,
            cause: lost.cause,
            stopped: lost.stopped,
        }
    }
}

/// A loss in words, and whether a restart would forget it.
fn why_lost(supervisor: &Supervisor, config: &ExportConfig, lost: &LostWritesInfo) -> String {
    let is_unkept = |dir: &Arc<StateDir>| dir.has_unkept(&StateKey::from(config));
    match supervisor.state.as_ref().is_some_and(is_unkept) {
        true => {
            format!("{lost}; a restart would forget it, its mark cannot be written to the state directory")
        }
        false => lost.to_string(),
    }
}

/// What is wrong with an export that is open: what was lost of it, and what it is called.
fn wrong(
    supervisor: &Supervisor,
    config: &ExportConfig,
    health: Option<Health>,
    troubles: Option<&Troubles>,
) -> (Option<LostWritesInfo>, Option<(Condition, String)>) {
    let of_machines = troubles.and_then(Troubles::reason);
    let (lost, why) = match health {
        Some(Health::Silent(why)) => return (None, Some((Condition::Failed, why))),
        Some(Health::Degraded(why)) => (None, Some(why)),
        Some(Health::LostWrites(lost)) => {
            let lost = LostWritesInfo::from(lost);
            let why = why_lost(supervisor, config, &lost);
            (Some(lost), Some(why))
        }
        Some(Health::Healthy) | None => (None, None),
    };
    let all: Vec<String> = why.into_iter().chain(of_machines).collect();
    let wrong = (!all.is_empty()).then(|| (Condition::FailedDegraded, all.join("; ")));
    (lost, wrong)
}

fn export(
    supervisor: &Supervisor,
    status: &ExportStatus,
    snapshot: &Snapshot,
    is_only: bool,
    now: Instant,
) -> ExportInfo {
    let config = &status.config;
    let served = supervisor.exports.get(&status.id);
    let key = (status.address, config.vlan);
    let left = supervisor.pauses.left(key, now);
    let (mut state, mut reason, tries) = condition(&status.state);
    if state == Condition::Ready
        && let Some((paused, why)) = paused(supervisor.pauses.of(key), left)
    {
        (state, reason) = (paused, Some(why));
    }
    if state == Condition::Ready && status.served_on.is_empty() && status.kept_off.is_empty() {
        (state, reason) = (Condition::Waiting, Some("served on no interface".to_owned()));
    }
    let on = |name: &str| is_only || status.served_on.iter().any(|served| served == name);
    let troubles = served.and_then(|served| served.disks.as_ref().map(|disks| disks.troubles()));
    let health = served.map(|served| served.export.store().health());
    let (lost_writes, wrong) = wrong(supervisor, config, health, troubles.as_ref());
    if let Some((how, why)) = wrong.filter(|_| state == Condition::Ready) {
        (state, reason) = (how, Some(why));
    }
    let totals = snapshot.export(status.address, config.vlan, on);
    ExportInfo {
        export: status.address.to_string(),
        vlan: config.vlan.to_string(),
        state,
        reason,
        resumes_in_seconds: left.map(|left| left.as_secs_f64()),
        tries,
        lost_writes,
        dirty_seconds: served.and_then(|served| uncommitted_seconds(served)),
        flush_interval_seconds: config.flush_interval.as_secs_f64(),
        size_bytes: served.map(|served| served.export.store().sectors() * SECTOR_BYTES),
        read_only: config.read_only,
        sync: config.sync,
        allow: (!config.allow.is_empty()).then_some(config.allow.len()),
        store: config.store.to_string(),
        path: config.path.display().to_string(),
        interfaces: status.served_on.clone(),
        kept_off: status.kept_off.iter().map(kept_off).collect(),
        store_counters: served
            .map(|served| served.export.store().counters())
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        initiators: initiators(&totals, now),
        machines: served.map_or_else(Vec::new, |served| machines(served)),
        copies: troubles.map(copies),
        counters: counters(&totals),
    }
}

/// How long the oldest acknowledged write has waited for its commit: of the export's own store, or of a machine's copy.
fn uncommitted_seconds(served: &Served) -> Option<f64> {
    let us = match &served.disks {
        Some(disks) => disks.uncommitted_us()?,
        None => served.export.store().uncommitted_us()?,
    };
    Some(us as f64 / 1e6)
}

fn kept_off((interface, reason): &(String, String)) -> KeptOff {
    KeptOff {
        interface: interface.clone(),
        reason: reason.clone(),
    }
}

fn counters(totals: &ExportTotals) -> ExportCounters {
    ExportCounters {
        counts: totals.counts,
        read_time: Times::from(&totals.read_time),
        write_time: Times::from(&totals.write_time),
        flush_time: Times::from(&totals.flush_time),
    }
}

fn initiators(totals: &ExportTotals, now: Instant) -> Vec<Initiator> {
    let row = |(mac, row): (&Option<aoe_common::Mac>, &crate::metrics::InitiatorCounts)| Initiator {
        initiator: mac.map_or_else(|| "other".to_owned(), |mac| mac.to_string()),
        reads: row.counted.reads,
        read_bytes: row.counted.read_sectors * SECTOR_BYTES,
        writes: row.counted.writes,
        written_bytes: row.counted.written_sectors * SECTOR_BYTES,
        errors: row.counted.errors,
        idle_seconds: row.last.map(|last| seconds(now, last)),
    };
    totals.initiators.iter().map(row).collect()
}

fn machines(served: &Served) -> Vec<MachineInfo> {
    let counts = served.disks.iter().flat_map(|disks| disks.counts());
    let row = |counts: MachineCounts| MachineInfo {
        machine: counts.machine,
        image_read_bytes: counts.image_read,
        copy_read_bytes: counts.copy_read,
        written_bytes: counts.written,
    };
    counts.map(row).collect()
}

fn copies(troubles: Troubles) -> CopiesInfo {
    let silent = troubles.silent.into_iter();
    CopiesInfo {
        silent: silent
            .map(|(name, reason)| SilentMachine {
                machine: name.to_string(),
                reason,
            })
            .collect(),
        full: troubles.full.keys().map(ToString::to_string).collect(),
        free_bytes: troubles.free_bytes,
    }
}

fn seconds(now: Instant, then: Instant) -> f64 {
    // To the millisecond: the clock of a worker's round is no better.
    let passed = now.saturating_duration_since(then);
    Duration::from_millis(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)).as_secs_f64()
}

fn interface(supervisor: &Supervisor, status: &PortStatus, snapshot: &Snapshot) -> InterfaceInfo {
    let (mut state, mut reason, _) = condition(&status.state);
    let port = status.id.and_then(|id| supervisor.ports.get(&id));
    let about = port.and_then(crate::control::port_thread::PortHandle::about);
    let fault = about.as_ref().and_then(|about| about.fault.clone());
    if state == Condition::Ready && fault.is_some() {
        (state, reason) = (Condition::FailedDegraded, fault);
    }
    let counted = snapshot.ports.get(status.name.as_str());
    let named = |(name, value): (&str, u64)| (name.to_owned(), value);
    InterfaceInfo {
        interface: status.name.clone(),
        state,
        reason,
        mode: about.as_ref().map(|about| about.mode.clone()),
        mac: about.as_ref().map(|about| about.mac.to_string()),
        mtu_bytes: about.as_ref().map(|about| about.mtu_bytes),
        exports: status.exports,
        opens: counted.map_or(0, |port| port.opens),
        deaf: counted.map_or(0, |port| port.deaf),
        queues: counted
            .into_iter()
            .flat_map(|port| port.queues.values())
            .map(|queue| queue.named().into_iter().map(named).collect())
            .collect(),
        filter: counted
            .into_iter()
            .flat_map(|port| port.filter.iter())
            .map(|(verdict, frames)| (verdict.name().to_owned(), frames))
            .collect(),
    }
}

fn denied(supervisor: &Supervisor, now: Instant) -> Vec<DeniedInfo> {
    let mut all = Vec::new();
    for port in supervisor.ports.values() {
        all.extend(port.denied().into_iter().map(|source| DeniedInfo {
            interface: port.name.clone(),
            source: source.latest.source.to_string(),
            export: source.latest.wanted(),
            frames: source.frames,
            idle_seconds: seconds(now, source.seen),
        }));
    }
    all.sort_by(|a, b| b.frames.cmp(&a.frames).then_with(|| a.source.cmp(&b.source)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Address;

    #[test]
    fn exports_are_chosen_by_globs() {
        let config = |slot| ExportConfig::new(1, slot, "/x".into());
        for (globs, first, second) in [
            (&[][..], true, true),
            (&["e1.1"], true, false),
            (&["1.1"], true, false),
            (&["e1.*"], true, true),
            (&["e2.*", "*.2"], false, true),
            (&["e1.[2-9]"], false, true),
        ] {
            let globs: Vec<String> = globs.iter().map(ToString::to_string).collect();
            let selection = Selection::new(&globs).unwrap();
            assert_eq!(
                (selection.has(&config(1)), selection.has(&config(2))),
                (first, second),
                "{globs:?}"
            );
        }
        assert!(Selection::new(&["e1.[".into()]).is_err());
    }

    #[test]
    fn each_glob_is_to_match_something() {
        let known = [Address { shelf: 1, slot: 1 }, Address { shelf: 1, slot: 2 }];
        for (globs, unmatched) in [
            (&[][..], None),
            (&["e1.1", "1.*"], None),
            (&["e1.*", "e7.7"], Some("e7.7")),
            (&["nope", "e1.1"], Some("nope")),
        ] {
            let globs: Vec<String> = globs.iter().map(ToString::to_string).collect();
            assert_eq!(
                Selection::new(&globs).unwrap().unmatched(known),
                unmatched,
                "{globs:?}"
            );
        }
    }
}
