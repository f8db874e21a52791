//! What is to be served: the outcome of a config file or of `xblade serve`'s command line.
//!
//! [`mod@file`] reads the text, [`validate`] looks for contradictions and at the machine, [`values`] holds the ranges and
//! text forms that the file and the command line share.

mod access_lists;
pub(crate) mod backing;
pub(crate) mod ceph;
pub(crate) mod device;
mod difference;
pub(crate) mod failover;
pub mod file;
pub(crate) mod interfaces;
pub(crate) mod overlays;
pub(crate) mod problem;
mod reader;
pub(crate) mod source;
pub(crate) mod sources;
pub(crate) mod validate;
pub(crate) mod values;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aoe_common::Mac;

pub use aoe_common::{Access, Vlan};

pub(crate) use failover::FailoverGroup;
pub(crate) use overlays::{Machine, Overlay, OverlayReset, Unknown};

pub use source::Source;

use crate::store::RemotePath;
pub(crate) use crate::store::{CephOptions, ImageFormat, OnLostWrite, StoreKind};

/// Everything one process serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The exports, in the order they were written.
    pub exports: Vec<ExportConfig>,
    /// The files that say so, the one with the defaults first; none: the command line does.
    pub sources: Vec<Arc<Source>>,
    /// Where config strings, masks and reservations are kept; memory only without one.
    pub state_dir: Option<PathBuf>,
    /// That directory has been used before: serve nothing while it is empty.
    pub state_required: bool,
    /// CPUs to pin workers to, by turns; empty: the scheduler decides.
    pub cpus: Vec<usize>,
    /// Serve although something speaks against it (shelf 4095, another target with the same address).
    pub force: bool,
}

/// One export.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportConfig {
    /// Major address, 0 to 65534.
    pub(crate) shelf: u16,
    /// Minor address, 0 to 254.
    pub(crate) slot: u8,
    /// The image or block device; unused by the `ram` and `null` stores but for its size.
    pub(crate) path: PathBuf,
    /// Interface names or globs.
    pub(crate) interfaces: Vec<String>,
    /// How to attach and bind.
    pub(crate) mode: Mode,
    /// Kind of store.
    pub(crate) store: StoreKind,
    /// Whether images that are no plain sectors are refused.
    pub(crate) format: ImageFormat,
    /// Acknowledge a write only when it is on the medium.
    pub(crate) sync: bool,
    /// Refuse writes.
    pub(crate) read_only: bool,
    /// First sector of the backing object that is exported.
    pub(crate) offset: u64,
    /// Sectors exported; 0: to the end.
    pub(crate) length: u64,
    /// Buffer count to advertise, at least 2.
    pub(crate) buffers: u16,
    /// Most sectors in one command, where the MTU allows more; 255: as the MTU allows.
    pub(crate) max_sectors: u8,
    /// How long an idle worker spins before it sleeps.
    pub(crate) spin_us: u32,
    /// Who may use the export; empty: everyone. Shared, because thousands of exports may take one list of thousands
    /// from the defaults.
    pub(crate) allow: Arc<[AccessEntry]>,
    /// Frames this export answers to.
    pub(crate) vlan: Vlan,
    /// Serial number for IDENTIFY, at most 20 printable ASCII characters; `None`: made from the address and the host.
    pub(crate) serial: Option<String>,
    /// Frames a second that one source may send to this port where its entry names no rate; `None`: no limit.
    pub(crate) rate_limit: Option<u32>,
    /// Let initiators change config string, mask and reservation, or nothing. `None`: the config string always, mask and
    /// reservation only where an access list says who may see the export.
    pub(crate) wire_admin: Option<bool>,
    /// Tells its kept state from that of another export with the same address and VLAN, on other interfaces.
    pub(crate) state_name: Option<String>,
    /// Answer the minimal SMART commands.
    pub(crate) smart: bool,
    /// A write that arrived longer ago than this when its turn comes is dropped: its initiator has sent it again.
    pub(crate) stale_after: Duration,
    /// Drop late duplicates of writes by Linux-style tags (a heuristic).
    pub(crate) late_duplicates: bool,
    /// The backing object has other writers: no lock, direct store only.
    pub(crate) shared: bool,
    /// Reserve all space at start.
    pub(crate) prealloc: bool,
    /// In write-back mode, what a power cut may take away: the writes acknowledged within this time.
    pub(crate) flush_interval: Duration,
    /// What becomes of the export when acknowledged writes were lost.
    pub(crate) on_lost_write: OnLostWrite,
    /// How the cluster of an image in Ceph is reached: the same for all exports.
    pub(crate) ceph: Arc<CephOptions>,
    /// The group of exports that another gateway may serve in this one's place.
    pub(crate) failover: Option<Arc<FailoverGroup>>,
    /// Whether each machine writes to a copy of its own.
    pub(crate) overlay: Overlay,
    /// Where the copies are.
    pub(crate) overlay_dir: Option<PathBuf>,
    /// Most bytes that one copy may take; `None`: as the file system has.
    pub(crate) overlay_limit: Option<u64>,
    /// When a copy begins anew by itself.
    pub(crate) overlay_reset: OverlayReset,
    /// What machines get that nobody named.
    pub(crate) unknown: Unknown,
    /// How many of those.
    pub(crate) unknown_max: u32,
    /// The machines with names; none for an export without overlays.
    pub(crate) machines: Arc<[Machine]>,
}

impl ExportConfig {
    /// Buffer count where none is given.
    pub(crate) const BUFFERS: u16 = 64;
    /// Cap of the sectors in one command where none is given: the MTU decides.
    pub(crate) const MAX_SECTORS: u8 = u8::MAX;
    /// Spinning time where none is given, in microseconds.
    pub(crate) const SPIN_US: u32 = 50;
    /// Age of a write that is too old where none is given: Linux's driver and all others wait at least as long before they resend.
    pub(crate) const STALE_AFTER: Duration = Duration::from_millis(100);
    /// Flush interval where none is given.
    pub(crate) const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

    /// An export with every setting at its default and no interface yet.
    pub(crate) fn new(shelf: u16, slot: u8, path: PathBuf) -> ExportConfig {
        ExportConfig {
            shelf,
            slot,
            path,
            interfaces: Vec::new(),
            mode: Mode::Auto,
            store: StoreKind::Mmap,
            format: ImageFormat::Detect,
            sync: false,
            read_only: false,
            offset: 0,
            length: 0,
            buffers: Self::BUFFERS,
            max_sectors: Self::MAX_SECTORS,
            spin_us: Self::SPIN_US,
            allow: Arc::new([]),
            vlan: Vlan::Untagged,
            serial: None,
            rate_limit: None,
            wire_admin: None,
            state_name: None,
            smart: false,
            stale_after: Self::STALE_AFTER,
            late_duplicates: false,
            shared: false,
            prealloc: false,
            flush_interval: Self::FLUSH_INTERVAL,
            on_lost_write: OnLostWrite::Stop,
            ceph: Arc::default(),
            failover: None,
            overlay: Overlay::None,
            overlay_dir: None,
            overlay_limit: None,
            overlay_reset: OverlayReset::Boot,
            unknown: Unknown::Volatile,
            unknown_max: overlays::UNKNOWN_MACHINES,
            machines: Arc::new([]),
        }
    }

    /// What a path that is an address decides: the store, and that a snapshot is only read.
    pub(crate) fn settle_path(&mut self) {
        if let Some(Ok(remote)) = RemotePath::of(&self.path) {
            self.store = remote.store;
            self.read_only |= remote.read_only;
        }
    }

    /// Whether what is behind its path is written.
    pub(crate) fn writes_backing(&self) -> bool {
        let is_there = self.store.uses_file() || self.store.is_remote();
        is_there && !self.read_only && self.overlay == Overlay::None
    }

    /// `shelf.slot`, as people write it.
    pub(crate) fn address(&self) -> String {
        format!("{}.{}", self.shelf, self.slot)
    }
}

/// A member of an access list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccessEntry {
    /// The initiator's address.
    pub(crate) mac: Mac,
    /// What it may do.
    pub(crate) access: Access,
    /// Frames a second, over all exports of the port; `None`: the export's `rate_limit`.
    pub(crate) rate_limit: Option<u32>,
}

/// How to attach the XDP program and bind AF_XDP sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// The best that works: zero-copy, copy, generic.
    #[default]
    Auto,
    /// Native XDP, zero-copy or nothing.
    ZeroCopy,
    /// Native XDP, zero-copy or copy.
    Native,
    /// Native XDP, copy.
    Copy,
    /// Generic XDP (works everywhere), copy.
    Skb,
}

impl Mode {
    /// Every value by its name.
    pub(crate) const NAMES: [(&'static str, Mode); 5] = [
        ("auto", Mode::Auto),
        ("native", Mode::Native),
        ("zerocopy", Mode::ZeroCopy),
        ("copy", Mode::Copy),
        ("skb", Mode::Skb),
    ];
    /// Names that are taken as well: those of messages, of `ip link` and of other tools.
    pub(crate) const OTHER_NAMES: [(&'static str, Mode); 5] = [
        ("zero-copy", Mode::ZeroCopy),
        ("drv", Mode::Native),
        ("xdpdrv", Mode::Native),
        ("generic", Mode::Skb),
        ("xdpgeneric", Mode::Skb),
    ];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&Mode::NAMES, *self))
    }
}

fn name_of<T: PartialEq + Copy>(names: &[(&'static str, T)], value: T) -> &'static str {
    names
        .iter()
        .find(|(_, known)| *known == value)
        .map_or("?", |(name, _)| name)
}
