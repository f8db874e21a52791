//! What goes over the control socket, in the words of JSON. `docs/control-socket.md` describes it for other programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dumps::WantedFrames;
use super::failover::GroupInfo;
use super::overlays::{CommitOverlay, CopiesInfo, MachineInfo, PinOverlays, ResetOverlays};
use super::times::Times;
use crate::metrics::Counts;

pub use super::log_lines::{LogLine, LogLines};

/// The number of this form; it grows when a field changes its meaning or goes, not when one is added.
pub(crate) const SCHEMA: u32 = 1;

/// A request: one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ControlRequest {
    /// What is served, and everything that was counted.
    State {
        /// Globs of exports, as in `e1.*`; empty: all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exports: Vec<String>,
        /// Answer again and again, after this many milliseconds, until the connection is closed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        every_ms: Option<u64>,
    },
    /// All counters for Prometheus and its kin.
    Metrics {
        /// How they are written.
        #[serde(default)]
        format: MetricsFormat,
    },
    /// Read the config file again and answer when it is in force.
    Reload {
        /// Only say what would change.
        #[serde(default)]
        dry_run: bool,
    },
    /// Finish what is in flight, commit, and answer nobody any more.
    Pause {
        /// Globs of exports.
        exports: Vec<String>,
        /// Serve them again by itself after this many milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
    },
    /// Serve paused exports again.
    Resume {
        /// Globs of exports.
        exports: Vec<String>,
    },
    /// Serve further exports until the next reload.
    Add {
        /// `[[export]]` tables, as in the config file.
        toml: String,
        /// One that is served with just these settings is no mistake.
        #[serde(default)]
        served: bool,
    },
    /// Serve exports no more until the next reload.
    Remove {
        /// Globs of exports.
        exports: Vec<String>,
        /// One that is not served is no mistake.
        #[serde(default)]
        gone: bool,
    },
    /// Log something else from now on.
    Log {
        /// As `--log`.
        filter: String,
    },
    /// What initiators left behind: config strings, MAC masks, reservations.
    KeptStates {},
    /// Forget parts of what is kept for an export.
    ClearState {
        /// Its name, as [`ControlRequest::KeptStates`] tells it.
        state: String,
        /// The config string.
        #[serde(default)]
        string: bool,
        /// The MAC mask.
        #[serde(default)]
        mask: bool,
        /// The reservation.
        #[serde(default)]
        reserve: bool,
    },
    /// Say which export the state of an earlier release belongs to.
    AdoptState {
        /// The export's name.
        state: String,
        /// The file's name without its extension.
        from: String,
    },
    /// Accept that acknowledged writes of an export are lost: it takes writes again.
    AcceptLostWrites {
        /// The export's name.
        state: String,
    },
    /// The copies of golden images that machines write to.
    Overlays {
        /// Globs of exports, as in `e1.*`; empty: all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exports: Vec<String>,
    },
    /// Take away what machines wrote to their copies.
    ResetOverlays(ResetOverlays),
    /// Have machines' copies stay when they boot, or not any more.
    PinOverlays(PinOverlays),
    /// The failover groups, and what this gateway does for each.
    FailoverGroups {},
    /// Take a failover group from the gateway that serves it.
    TakeGroup {
        /// Its name.
        group: String,
    },
    /// Leave a failover group to another gateway.
    ReleaseGroup {
        /// Its name.
        group: String,
    },
    /// Make a new golden image out of the one of now and a machine's copy, which ends.
    CommitOverlay(CommitOverlay),
    /// Show frames as they come and go: pcapng follows the reply, until the connection is closed.
    Dump(WantedFrames),
    /// The last lines of the log.
    LogLines {
        /// Only those after the one with this number.
        #[serde(default)]
        after: u64,
    },
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MetricsFormat {
    /// OpenMetrics 1.0.
    #[default]
    OpenMetrics,
    /// Prometheus' older text format, 0.0.4, which node_exporter and promtool read.
    Text,
}

impl ControlRequest {
    /// Whether it changes anything, or shows what is on the disks: only root may ask for that.
    pub(crate) fn is_for_root(&self) -> bool {
        !matches!(
            self,
            ControlRequest::State { .. }
                | ControlRequest::Metrics { .. }
                | ControlRequest::LogLines { .. }
                | ControlRequest::KeptStates {}
                | ControlRequest::Overlays { .. }
                | ControlRequest::FailoverGroups {}
                | ControlRequest::Reload { dry_run: true }
        )
    }

    /// How often it wants to be answered, where once is not enough.
    pub(crate) fn every(&self) -> Option<Duration> {
        match self {
            ControlRequest::State { every_ms, .. } => every_ms.map(Duration::from_millis),
            _ => None,
        }
    }
}

/// A reply: one line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ControlReply<T> {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// What was asked for.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<T>,
    /// Why there is no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The result of [`ControlRequest::State`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DaemonState {
    /// Release of the running program.
    pub(crate) version: String,
    /// Its process.
    pub(crate) pid: u32,
    /// Since its start.
    pub(crate) uptime_seconds: f64,
    /// Everything that is configured is served.
    pub(crate) healthy: bool,
    /// What is not, one line each.
    pub(crate) problems: Vec<String>,
    /// The config file; `null`: there is none, as with `xblade serve`.
    #[serde(default)]
    pub(crate) config_file: Option<String>,
    /// How the last reload went; `null`: there was none.
    pub(crate) reload: Option<LastReload>,
    /// By the order of the configuration.
    pub(crate) exports: Vec<ExportInfo>,
    /// By name.
    pub(crate) interfaces: Vec<InterfaceInfo>,
    /// Failover groups, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failover: Vec<GroupInfo>,
    /// Sources that were not on the access list of what they asked for.
    pub(crate) denied: Vec<DeniedInfo>,
}

/// How a reload went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastReload {
    /// The file could be taken over.
    pub(crate) ok: bool,
    /// When, in seconds since 1970.
    pub(crate) time: f64,
}

/// How far something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    /// It is served.
    Ready,
    /// The operator has paused it.
    Paused,
    /// Another gateway of its failover group serves it.
    Standby,
    /// It is on its way, or waits for something that is no failure.
    #[default]
    Waiting,
    /// It is open, and something is wrong: acknowledged writes of an export are lost and it waits for the operator, see
    /// [`LostWritesInfo`]; its image is not what its path says; machines cannot work on their copies, see [`CopiesInfo`]; or frames come to an
    /// interface and none arrives.
    FailedDegraded,
    /// It does not work and is tried again.
    Failed,
}

/// Acknowledged writes of an export that did not reach the medium and never will.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LostWritesInfo {
    /// First byte of the export where they may lie.
    pub(crate) offset: u64,
    /// Bytes from there on.
    pub(crate) bytes: u64,
    /// What the system said.
    pub(crate) cause: String,
    /// Writes are refused until the operator accepts the loss; otherwise only flushes are.
    pub(crate) stopped: bool,
}

impl fmt::Display for LostWritesInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.offset.saturating_add(self.bytes).saturating_sub(1);
        let (offset, cause) = (self.offset, &self.cause);
        write!(f, "lost writes among bytes {offset} to {last}: {cause}; ")?;
        f.write_str(match self.stopped {
            true => "no writes are taken",
            false => "flushes fail",
        })
    }
}

/// One export.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExportInfo {
    /// As in `e1.2`.
    pub(crate) export: String,
    /// Frames it answers: `untagged`, an id, or `any`.
    pub(crate) vlan: String,
    /// How far it is.
    pub(crate) state: Condition,
    /// Why it is not ready.
    pub(crate) reason: Option<String>,
    /// When a pause ends by itself; `null`: it does not, or there is none.
    #[serde(default)]
    pub(crate) resumes_in_seconds: Option<f64>,
    /// Times that it failed in a row.
    pub(crate) tries: u32,
    /// What was lost of it; `null`: nothing.
    #[serde(default)]
    pub(crate) lost_writes: Option<LostWritesInfo>,
    /// Since the oldest acknowledged write that is not on the medium yet; 0: there is none, `null`: that is not known here.
    #[serde(default)]
    pub(crate) dirty_seconds: Option<f64>,
    /// After this time a power cut takes no write away.
    #[serde(default)]
    pub(crate) flush_interval_seconds: f64,
    /// Size; `null` while it is not open.
    pub(crate) size_bytes: Option<u64>,
    /// It refuses all writes.
    pub(crate) read_only: bool,
    /// Writes are acknowledged when they are on the medium.
    pub(crate) sync: bool,
    /// Initiators on its access list; `null`: everyone may use it.
    pub(crate) allow: Option<usize>,
    /// Kind of store.
    pub(crate) store: String,
    /// Image or device.
    pub(crate) path: String,
    /// Interfaces where it is served now.
    pub(crate) interfaces: Vec<String>,
    /// Interfaces where something keeps it from being served.
    pub(crate) kept_off: Vec<KeptOff>,
    /// What was counted.
    pub(crate) counters: ExportCounters,
    /// What its store counted, by name.
    pub(crate) store_counters: BTreeMap<String, u64>,
    /// By initiator.
    pub(crate) initiators: Vec<Initiator>,
    /// By machine, where each has a copy of its own.
    #[serde(default)]
    pub(crate) machines: Vec<MachineInfo>,
    /// How these copies are; `null`: there are none here.
    #[serde(default)]
    pub(crate) copies: Option<CopiesInfo>,
}

/// Why an export is not served on an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptOff {
    /// The interface.
    pub(crate) interface: String,
    /// The reason.
    pub(crate) reason: String,
}

/// What was counted of an export.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExportCounters {
    /// The counts, side by side with the times.
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// How long reads took.
    pub(crate) read_time: Times,
    /// How long writes took.
    pub(crate) write_time: Times,
    /// How long flushes took.
    pub(crate) flush_time: Times,
}

/// What one initiator did with an export.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Initiator {
    /// Its address; `other`: all that have no row of their own.
    pub(crate) initiator: String,
    /// READ commands answered with data.
    pub(crate) reads: u64,
    /// Bytes of these.
    pub(crate) read_bytes: u64,
    /// WRITE commands acknowledged.
    pub(crate) writes: u64,
    /// Bytes of these.
    pub(crate) written_bytes: u64,
    /// Answers that were errors.
    pub(crate) errors: u64,
    /// Since its last request; `null`: that was before its interface was opened again.
    pub(crate) idle_seconds: Option<f64>,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct InterfaceInfo {
    /// Its name.
    pub(crate) interface: String,
    /// How far it is.
    pub(crate) state: Condition,
    /// Why it is not ready.
    pub(crate) reason: Option<String>,
    /// The mode obtained, as in `native XDP, zero-copy`.
    pub(crate) mode: Option<String>,
    /// Its address.
    pub(crate) mac: Option<String>,
    /// Its MTU.
    pub(crate) mtu_bytes: Option<u32>,
    /// Exports served there.
    pub(crate) exports: usize,
    /// Times that it was opened.
    #[serde(default)]
    pub(crate) opens: u64,
    /// Times that it received frames of which none arrived.
    #[serde(default)]
    pub(crate) deaf: u64,
    /// What each receive queue counted, by name.
    pub(crate) queues: Vec<BTreeMap<String, u64>>,
    /// Frames by verdict of the XDP program.
    pub(crate) filter: BTreeMap<String, u64>,
}

/// A source that was turned away by the XDP program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeniedInfo {
    /// Where.
    pub(crate) interface: String,
    /// Its address.
    pub(crate) source: String,
    /// What it asked for last.
    pub(crate) export: String,
    /// Its frames.
    pub(crate) frames: u64,
    /// Since the last of them was noticed.
    pub(crate) idle_seconds: f64,
}

/// The result of [`ControlRequest::KeptStates`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptStates {
    /// By name.
    pub(crate) states: Vec<KeptState>,
}

/// What is kept for one export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptState {
    /// As in `1.1`, `1.1-vlan-5`, `1.1+name`.
    pub(crate) state: String,
    /// The config string, in which bytes that are no printable ASCII are written as in Rust and C.
    pub(crate) string: String,
    /// Its length.
    pub(crate) string_bytes: usize,
    /// The MAC mask; empty: everyone.
    pub(crate) mask: Vec<String>,
    /// Whom it is reserved for; empty: nobody.
    pub(crate) reserve: Vec<String>,
    /// Why nothing is known of it.
    pub(crate) problem: Option<String>,
    /// Acknowledged writes that are lost, in words; until the operator accepts it the export takes no more.
    #[serde(default)]
    pub(crate) lost_writes: Option<String>,
}

impl KeptState {
    /// It says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        let named = KeptState {
            state: self.state.clone(),
            ..KeptState::default()
        };
        *self == named
    }
}

#[cfg(test)]
#[path = "types_tests.rs"]
mod tests;
