//! What is to be served, validated: the outcome of a config file or of `xblade serve`'s command line.

use std::path::PathBuf;
use std::time::Duration;

use aoe_common::Mac;

pub use crate::store::StoreKind;

/// Everything one process serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The exports, in the order they were written.
    pub exports: Vec<ExportConfig>,
    /// Where config strings, masks and reservations are kept; memory only without one.
    pub state_dir: Option<PathBuf>,
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
    /// How long an idle worker spins before it sleeps.
    pub spin_us: u32,
    /// Who may use the export; empty: everyone.
    pub allow: Vec<AccessEntry>,
    /// Frames this export answers to.
    pub vlan: Vlan,
    /// Serial number for IDENTIFY, at most 20 printable ASCII characters; `None`: made from the address and the host.
    pub serial: Option<String>,
    /// Frames a second that one source may send to this port where its entry names no rate; `None`: no limit.
    pub rate_limit: Option<u32>,
    /// Let initiators change config string, mask and reservations.
    pub wire_admin: bool,
    /// Answer the minimal SMART commands.
    pub smart: bool,
    /// Drop late duplicates of writes by Linux-style tags (a heuristic).
    pub late_duplicates: bool,
    /// The backing object has other writers: no lock, direct store only.
    pub shared: bool,
    /// Reserve all space at start.
    pub prealloc: bool,
    /// Longest time that a write stays off the medium in write-back mode.
    pub flush_interval: Duration,
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

/// What an initiator may do with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read; writes are aborted.
    ReadOnly,
}

/// VLAN rule of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vlan {
    /// Untagged and priority-tagged (VID 0) frames.
    Untagged,
    /// Frames tagged with this VID, 1 to 4094.
    Id(u16),
    /// Any frame, tagged or not.
    Any,
}

/// How to attach the XDP program and bind AF_XDP sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The best that works: zero-copy, copy, generic.
    Auto,
    /// Native XDP, zero-copy or nothing.
    ZeroCopy,
    /// Native XDP, copy.
    Copy,
    /// Generic XDP (works everywhere), copy.
    Skb,
}
