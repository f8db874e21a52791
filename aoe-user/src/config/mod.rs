//! What is to be served: the outcome of a config file or of `xblade serve`'s command line.
//!
//! [`mod@file`] reads the text, [`validate`] looks for contradictions and at the machine, [`values`] holds the ranges and
//! text forms that the file and the command line share.

mod access_lists;
pub mod backing;
pub mod ceph;
pub mod device;
mod difference;
pub mod failover;
pub mod file;
pub mod interfaces;
pub mod overlays;
pub mod problem;
mod reader;
pub mod source;
pub mod sources;
pub mod validate;
pub mod values;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aoe_common::Mac;

pub use aoe_common::{Access, Vlan};

pub use failover::FailoverGroup;
pub use overlays::{Machine, Overlay, OverlayReset, Unknown};

pub use source::Source;

use crate::store::RemotePath;
pub use crate::store::{CephOptions, ImageFormat, OnLostWrite, StoreKind};

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
    pub shelf: u16,
    /// Minor address, 0 to 254.
    pub slot: u8,
    /// The image or block device; unused by the `ram` and `null` stores but for its size.
    pub path: PathBuf,
    /// Interface names or globs.
    pub interfaces: Vec<String>,
    /// How to attach and bind.
    pub mode: Mode,
    /// Kind of store.
    pub store: StoreKind,
    /// Whether images that are no plain sectors are refused.
    pub format: ImageFormat,
    /// Acknowledge a write only when it is on the medium.
    pub sync: bool,
    /// Refuse writes.
    pub read_only: bool,
    /// First sector of the backing object that is exported.
    pub offset: u64,
    /// Sectors exported; 0: to the end.
    pub length: u64,
    /// Buffer count to advertise, at least 2.
    pub buffers: u16,
    /// Most sectors in one command, where the MTU allows more; 255: as the MTU allows.
    pub max_sectors: u8,
    /// How long an idle worker spins before it sleeps.
    pub spin_us: u32,
    /// Who may use the export; empty: everyone. Shared, because thousands of exports may take one list of thousands
    /// from the defaults.
    pub allow: Arc<[AccessEntry]>,
    /// Frames this export answers to.
    pub vlan: Vlan,
    /// Serial number for IDENTIFY, at most 20 printable ASCII characters; `None`: made from the address and the host.
    pub serial: Option<String>,
    /// Frames a second that one source may send to this port where its entry names no rate; `None`: no limit.
    pub rate_limit: Option<u32>,
    /// Let initiators change config string, mask and reservation, or nothing. `None`: the config string always, mask and
    /// reservation only where an access list says who may see the export.
    pub wire_admin: Option<bool>,
    /// Tells its kept state from that of another export with the same address and VLAN, on other interfaces.
    pub state_name: Option<String>,
    /// Answer the minimal SMART commands.
    pub smart: bool,
    /// A write that arrived longer ago than this when its turn comes is dropped: its initiator has sent it again.
    pub stale_after: Duration,
    /// Drop late duplicates of writes by Linux-style tags (a heuristic).
    pub late_duplicates: bool,
    /// The backing object has other writers: no lock, direct store only.
    pub shared: bool,
    /// Reserve all space at start.
    pub prealloc: bool,
    /// In write-back mode, what a power cut may take away: the writes acknowledged within this time.
    pub flush_interval: Duration,
    /// What becomes of the export when acknowledged writes were lost.
    pub on_lost_write: OnLostWrite,
    /// How the cluster of an image in Ceph is reached: the same for all exports.
    pub ceph: Arc<CephOptions>,
    /// The group of exports that another gateway may serve in this one's place.
    pub failover: Option<Arc<FailoverGroup>>,
    /// Whether each machine writes to a copy of its own.
    pub overlay: Overlay,
    /// Where the copies are.
    pub overlay_dir: Option<PathBuf>,
    /// Most bytes that one copy may take; `None`: as the file system has.
    pub overlay_limit: Option<u64>,
    /// When a copy begins anew by itself.
    pub overlay_reset: OverlayReset,
    /// What machines get that nobody named.
    pub unknown: Unknown,
    /// How many of those.
    pub unknown_max: u32,
    /// The machines with names; none for an export without overlays.
    pub machines: Arc<[Machine]>,
}

impl ExportConfig {
    /// Buffer count where none is given.
    pub const BUFFERS: u16 = 64;
    /// Cap of the sectors in one command where none is given: the MTU decides.
    pub const MAX_SECTORS: u8 = u8::MAX;
    /// Spinning time where none is given, in microseconds.
    pub const SPIN_US: u32 = 50;
    /// Age of a write that is too old where none is given: Linux's driver and all others wait at least as long before they resend.
    pub const STALE_AFTER: Duration = Duration::from_millis(100);
    /// Flush interval where none is given.
    pub const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

    /// An export with every setting at its default and no interface yet.
    pub fn new(shelf: u16, slot: u8, path: PathBuf) -> ExportConfig {
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
    pub fn settle_path(&mut self) {
        if let Some(Ok(remote)) = RemotePath::of(&self.path) {
            self.store = remote.store;
            self.read_only |= remote.read_only;
        }
    }

    /// Whether what is behind its path is written.
    pub fn writes_backing(&self) -> bool {
        let is_there = self.store.uses_file() || self.store.is_remote();
        is_there && !self.read_only && self.overlay == Overlay::None
    }

    /// `shelf.slot`, as people write it.
    pub fn address(&self) -> String {
        format!("{}.{}", self.shelf, self.slot)
    }
}

/// A member of an access list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessEntry {
    /// The initiator's address.
    pub mac: Mac,
    /// What it may do.
    pub access: Access,
    /// Frames a second, over all exports of the port; `None`: the export's `rate_limit`.
    pub rate_limit: Option<u32>,
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
    pub const NAMES: [(&'static str, Mode); 5] = [
        ("auto", Mode::Auto),
        ("native", Mode::Native),
        ("zerocopy", Mode::ZeroCopy),
        ("copy", Mode::Copy),
        ("skb", Mode::Skb),
    ];
    /// Names that are taken as well: those of messages, of `ip link` and of other tools.
    pub const OTHER_NAMES: [(&'static str, Mode); 5] = [
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
