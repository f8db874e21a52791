//! All counters as OpenMetrics or in Prometheus' older text format.

use std::fmt::Write as _;

use engine::Latency;

use super::failover::Role;
use super::overlays::MachineInfo;
use super::times::Times;
use super::types::{Condition, DaemonState, ExportInfo, Initiator, MetricsFormat};
use crate::metrics::{Counts, Metric};

/// Limits of the histograms' buckets that are told, in microseconds: powers of two, where our buckets end.
const LIMITS_US: [u64; 13] = [
    4,
    16,
    64,
    128,
    256,
    512,
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 24,
];

/// Writes one metric after the other.
struct Writer(String, MetricsFormat);

impl Writer {
    /// Begins a metric: a name without `_total`, a kind, and what it is.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.trim().trim_end_matches('.');
        // The older format knows no `info`, and calls families as their samples.
        let (suffix, kind) = match (self.1, kind) {
            (MetricsFormat::Text, "info") => ("_info", "gauge"),
            (MetricsFormat::Text, "counter") => ("_total", "counter"),
            _ => ("", kind),
        };
        let _ = writeln!(
            self.0,
            "# TYPE {name}{suffix} {kind}\n# HELP {name}{suffix} {help}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let pairs: Vec<String> = labels
                .iter()
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            let _ = write!(self.0, "{{{}}}", pairs.join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], times: &Times) {
        let latency = Latency::from(times);
        for limit_us in LIMITS_US {
            let limit = (limit_us as f64 / 1e6).to_string();
            let labels = [labels, &[("le", limit.as_str())]].concat();
            self.sample(&format!("{name}_bucket"), &labels, latency.count_up_to(limit_us));
        }
        let rest = [labels, &[("le", "+Inf")]].concat();
        self.sample(&format!("{name}_bucket"), &rest, latency.count());
        self.sample(&format!("{name}_sum"), labels, latency.sum_us as f64 / 1e6);
        self.sample(&format!("{name}_count"), labels, latency.count());
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// The text of a state.
pub(crate) fn text(state: &DaemonState, format: MetricsFormat) -> String {
    let mut to = Writer(String::new(), format);
    to.family("xblade_build", "info", "The running program");
    to.sample("xblade_build_info", &[("version", &state.version)], 1);
    to.family(
        "xblade_uptime_seconds",
        "gauge",
        "Time since the start of the process",
    );
    to.sample("xblade_uptime_seconds", &[], state.uptime_seconds);
    to.family(
        "xblade_healthy",
        "gauge",
        "1 where everything that is configured is served",
    );
    to.sample("xblade_healthy", &[], u8::from(state.healthy));
    if let Some(reload) = &state.reload {
        to.family(
            "xblade_reload_success",
            "gauge",
            "1 where the last config file was taken over",
        );
        to.sample("xblade_reload_success", &[], u8::from(reload.ok));
        to.family(
            "xblade_reload_timestamp_seconds",
            "gauge",
            "When the config file was read last",
        );
        to.sample("xblade_reload_timestamp_seconds", &[], reload.time);
    }
    exports(&mut to, state);
    groups(&mut to, state);
    initiators(&mut to, state);
    machines(&mut to, state);
    copies(&mut to, state);
    interfaces(&mut to, state);
    if format == MetricsFormat::OpenMetrics {
        to.0.push_str("# EOF\n");
    }
    to.0
}

fn groups(to: &mut Writer, state: &DaemonState) {
    if state.failover.is_empty() {
        return;
    }
    let active = "xblade_failover_active";
    to.family(
        active,
        "gauge",
        "1 where this gateway answers for the failover group",
    );
    for group in &state.failover {
        let value = u8::from(group.role == Role::Active && !group.is_silent);
        to.sample(active, &[("group", &group.group)], value);
    }
    let heard = "xblade_failover_heard_seconds";
    to.family(
        heard,
        "gauge",
        "Time since another gateway was heard that answers for the failover group",
    );
    for group in &state.failover {
        if let Some(seconds) = group.heard_seconds {
            to.sample(heard, &[("group", &group.group)], seconds);
        }
    }
}

/// What tells an export from all others.
fn labels(export: &ExportInfo) -> Vec<(&str, &str)> {
    let mut labels = vec![("export", export.export.as_str())];
    if export.vlan != "untagged" {
        labels.push(("vlan", &export.vlan));
    }
    labels
}

fn exports(to: &mut Writer, state: &DaemonState) {
    let all = || state.exports.iter().map(|export| (export, labels(export)));
    to.family("xblade_export", "info", "What an export is");
    for (export, mut labels) in all() {
        labels.extend([("path", export.path.as_str()), ("store", &export.store)]);
        labels.push(("mode", if export.read_only { "ro" } else { "rw" }));
        to.sample("xblade_export_info", &labels, 1);
    }
    to.family("xblade_export_up", "gauge", "1 where an export is served");
    // A standby is not down, and is not said to be.
    for (export, labels) in all().filter(|(export, _)| export.state != Condition::Standby) {
        to.sample(
            "xblade_export_up",
            &labels,
            u8::from(matches!(
                export.state,
                Condition::Ready | Condition::FailedDegraded
            )),
        );
    }
    to.family(
        "xblade_export_lost_writes",
        "gauge",
        "1 where acknowledged writes were lost and the operator has not accepted it",
    );
    for (export, labels) in all() {
        let lost = u8::from(export.lost_writes.is_some());
        to.sample("xblade_export_lost_writes", &labels, lost);
    }
    durability(to, state);
    to.family(
        "xblade_export_size_bytes",
        "gauge",
        "Size of an export that is open",
    );
    for (export, labels) in all() {
        if let Some(size) = export.size_bytes {
            to.sample("xblade_export_size_bytes", &labels, size);
        }
    }
    let commits = |export: &ExportInfo| export.store_counters.get("commits").copied().unwrap_or(0);
    to.family("xblade_export_commits", "counter", "Commits of the store");
    for (export, labels) in all() {
        to.sample("xblade_export_commits_total", &labels, commits(export));
    }
    export_counts(to, state);
    export_times(to, state);
}

/// How far the medium is behind, of stores that know.
fn durability(to: &mut Writer, state: &DaemonState) {
    let known = || {
        let exports = state.exports.iter();
        exports.filter_map(|export| Some((export, export.dirty_seconds?)))
    };
    if known().next().is_none() {
        return;
    }
    let dirty = "xblade_export_dirty_seconds";
    to.family(
        dirty,
        "gauge",
        "Time since the oldest acknowledged write that is not on the medium yet",
    );
    for (export, seconds) in known() {
        to.sample(dirty, &labels(export), seconds);
    }
    let interval = "xblade_export_flush_interval_seconds";
    to.family(
        interval,
        "gauge",
        "Time within which acknowledged writes are put on the medium",
    );
    for (export, _) in known() {
        to.sample(interval, &labels(export), export.flush_interval_seconds);
    }
}

fn export_counts(to: &mut Writer, state: &DaemonState) {
    let all = || state.exports.iter().map(|export| (export, labels(export)));
    for count in Counts::ALL {
        let (family, kind, suffix) = match count.metric {
            Metric::Total(name) => (format!("xblade_export_{name}"), "counter", "_total"),
            Metric::Now(name) => (format!("xblade_export_{name}"), "gauge", ""),
            Metric::Error(_) => continue,
        };
        to.family(&family, kind, count.help);
        for (export, labels) in all() {
            let value = (count.get)(&export.counters.counts);
            to.sample(&format!("{family}{suffix}"), &labels, value);
        }
    }
    to.family(
        "xblade_export_errors",
        "counter",
        "Answers that were errors, by cause",
    );
    for (export, labels) in all() {
        for count in Counts::ALL {
            let Metric::Error(kind) = count.metric else {
                continue;
            };
            let labels = [&labels[..], &[("kind", kind)]].concat();
            let value = (count.get)(&export.counters.counts);
            to.sample("xblade_export_errors_total", &labels, value);
        }
    }
}

fn export_times(to: &mut Writer, state: &DaemonState) {
    let all = || state.exports.iter().map(|export| (export, labels(export)));
    let name = "xblade_export_request_duration_seconds";
    to.family(
        name,
        "histogram",
        "Time from the round of a worker that took a request to the end of the one that answered it",
    );
    for (export, labels) in all() {
        let counters = &export.counters;
        for (op, times) in [
            ("read", &counters.read_time),
            ("write", &counters.write_time),
            ("flush", &counters.flush_time),
        ] {
            to.histogram(name, &[&labels[..], &[("op", op)]].concat(), times);
        }
    }
}

/// What is told of a row: name, what it is, and its value.
type OfRow<T> = (&'static str, &'static str, fn(&T) -> u64);

const OF_INITIATOR: [OfRow<Initiator>; 3] = [
    ("read_bytes", "Bytes sent to an initiator", |row| row.read_bytes),
    (
        "written_bytes",
        "Bytes of an initiator's acknowledged writes",
        |row| row.written_bytes,
    ),
    ("errors", "Answers to an initiator that were errors", |row| {
        row.errors
    }),
];

fn initiators(to: &mut Writer, state: &DaemonState) {
    for (name, help, value) in OF_INITIATOR {
        let family = format!("xblade_initiator_{name}");
        to.family(&family, "counter", help);
        for export in &state.exports {
            for row in &export.initiators {
                let mut labels = labels(export);
                labels.push(("initiator", &row.initiator));
                to.sample(&format!("{family}_total"), &labels, value(row));
            }
        }
    }
}

/// What is counted of a machine's copy. It begins anew when the machine boots.
const OF_MACHINE: [OfRow<MachineInfo>; 3] = [
    (
        "image_read_bytes",
        "Bytes that a machine has read from the golden image",
        |row| row.image_read_bytes,
    ),
    (
        "copy_read_bytes",
        "Bytes that a machine has read from its copy",
        |row| row.copy_read_bytes,
    ),
    (
        "written_bytes",
        "Bytes that a machine has written to its copy",
        |row| row.written_bytes,
    ),
];

fn machines(to: &mut Writer, state: &DaemonState) {
    if state.exports.iter().all(|export| export.machines.is_empty()) {
        return;
    }
    for (name, help, value) in OF_MACHINE {
        let family = format!("xblade_machine_{name}");
        to.family(&family, "counter", help);
        for export in &state.exports {
            for row in &export.machines {
                let mut labels = labels(export);
                labels.push(("machine", &row.machine));
                to.sample(&format!("{family}_total"), &labels, value(row));
            }
        }
    }
}

/// How machines' copies are.
fn copies(to: &mut Writer, state: &DaemonState) {
    let known = || {
        let exports = state.exports.iter();
        exports.filter_map(|export| Some((export, export.copies.as_ref()?)))
    };
    if known().next().is_none() {
        return;
    }
    let silent = "xblade_overlay_silent_machines";
    to.family(
        silent,
        "gauge",
        "Machines that hear nothing because their copies cannot be served",
    );
    for (export, copies) in known() {
        to.sample(silent, &labels(export), copies.silent.len());
    }
    let full = "xblade_overlay_full_copies";
    to.family(
        full,
        "gauge",
        "Copies of machines whose writes are refused because there is no room",
    );
    for (export, copies) in known() {
        to.sample(full, &labels(export), copies.full.len());
    }
    let free = "xblade_overlay_free_bytes";
    to.family(
        free,
        "gauge",
        "What may still be written to the file system of machines' copies",
    );
    for (export, copies) in known() {
        if let Some(bytes) = copies.free_bytes {
            to.sample(free, &labels(export), bytes);
        }
    }
}

fn interfaces(to: &mut Writer, state: &DaemonState) {
    to.family("xblade_interface_up", "gauge", "1 where an interface is served");
    for port in &state.interfaces {
        let mut labels = vec![("interface", port.interface.as_str())];
        if let Some(mode) = &port.mode {
            labels.push(("mode", mode));
        }
        to.sample(
            "xblade_interface_up",
            &labels,
            u8::from(port.state == Condition::Ready),
        );
    }
    to.family(
        "xblade_interface_opens",
        "counter",
        "Times that an interface was opened: first to be served, and again where it, or what is wanted of it, changed",
    );
    for port in &state.interfaces {
        let labels = [("interface", port.interface.as_str())];
        to.sample("xblade_interface_opens_total", &labels, port.opens);
    }
    to.family(
        "xblade_interface_deaf",
        "counter",
        "Times that an interface received frames of which none arrived, and was opened again for that",
    );
    for port in &state.interfaces {
        let labels = [("interface", port.interface.as_str())];
        to.sample("xblade_interface_deaf_total", &labels, port.deaf);
    }
    to.family(
        "xblade_filter_frames",
        "counter",
        "Frames by verdict of the XDP program",
    );
    for port in &state.interfaces {
        for (verdict, frames) in &port.filter {
            let labels = [("interface", port.interface.as_str()), ("verdict", verdict)];
            to.sample("xblade_filter_frames_total", &labels, frames);
        }
    }
    queues(to, state);
}

fn queues(to: &mut Writer, state: &DaemonState) {
    for (name, field, help) in [
        ("frames", "frames", "Frames that a worker took from its queue"),
        ("replies", "replies", "Replies sent"),
        (
            "batches",
            "batches",
            "Times that a worker took frames from its queue",
        ),
        ("sleeps", "sleeps", "Times that a worker went to sleep"),
        (
            "dropped",
            "dropped",
            "Frames that the kernel dropped because xblade was too slow",
        ),
        (
            "cut",
            "cut",
            "Frames with fewer bytes than their own headers say: cut on their way, or sent so",
        ),
    ] {
        let family = format!("xblade_queue_{name}");
        to.family(&family, "counter", help);
        for port in &state.interfaces {
            for (queue, counters) in port.queues.iter().enumerate() {
                let queue = queue.to_string();
                let labels = [("interface", port.interface.as_str()), ("queue", &queue)];
                let value = counters.get(field).copied().unwrap_or(0);
                to.sample(&format!("{family}_total"), &labels, value);
            }
        }
    }
    to.family(
        "xblade_chunks",
        "gauge",
        "Chunks of packet memory by where they are",
    );
    for port in &state.interfaces {
        for place in ["pool", "fill", "held", "tx"] {
            let name = format!("chunks_{place}");
            let of = |queue: &std::collections::BTreeMap<String, u64>| queue.get(&name).copied();
            let chunks: u64 = port.queues.iter().filter_map(of).sum();
            let labels = [("interface", port.interface.as_str()), ("place", place)];
            to.sample("xblade_chunks", &labels, chunks);
        }
    }
}

#[cfg(test)]
#[path = "openmetrics_tests.rs"]
mod tests;
