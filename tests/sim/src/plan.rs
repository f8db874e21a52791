//! What a run consists of. A plan is drawn from a seed; it can be written down, and made smaller by the shrinker.

use serde::{Deserialize, Serialize};

use crate::mutants::Mutant;

/// Everything that a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Of all random numbers of the run.
    pub seed: u64,
    /// How long there are load and faults; then everything has to come to its end.
    pub busy_ms: u64,
    /// The target's ports, each with a network of its own.
    pub ports: Vec<PortPlan>,
    /// What is exported.
    pub exports: Vec<ExportPlan>,
    /// Who uses it, or abuses it.
    pub hosts: Vec<HostPlan>,
    /// What the networks do to frames.
    pub network: NetworkPlan,
    /// What happens at given times.
    pub faults: Vec<Fault>,
    /// Several gateways to one image in Ceph, each on the first port's network, in place of one target with disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateways: Option<GatewaysPlan>,
    /// The planted defect, if any.
    #[serde(default)]
    pub mutant: Option<Mutant>,
}

/// The gateways of a failover group, and the cluster behind them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewaysPlan {
    /// How many.
    pub count: u8,
    /// So long must the gateway that answers be silent before another one takes over.
    pub detect_ms: u64,
    /// OSDs.
    pub osds: u8,
    /// A job takes an OSD about this long.
    pub osd_us: u64,
    /// Jobs that are late on their way, in a million.
    pub late: u32,
    /// How late at most.
    pub late_ms: u64,
    /// A new map reaches each OSD within this.
    pub map_ms: u64,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortPlan {
    /// Receive queues, each with a worker.
    pub queues: u8,
    /// MTU.
    pub mtu: u32,
    /// Frames that a queue has memory for.
    pub pool: u32,
    /// Frames are cut into pieces of this many bytes.
    pub piece: u32,
    /// Frames of one source go to one queue; else to any.
    pub by_source: bool,
}

/// The kind of store behind an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreKind {
    /// Through the page cache.
    Mapped,
    /// Past it, to a medium with blocks of this many sectors.
    Direct {
        /// 1 or 8.
        block: u64,
    },
}

/// An export, e7.N, on a disk of its own or beside another on one disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportPlan {
    /// Its store.
    pub store: StoreKind,
    /// Sectors.
    pub sectors: u64,
    /// All writes are durable.
    pub sync: bool,
    /// Drops late duplicates.
    pub late_duplicates: bool,
    /// Advertised buffers.
    pub buffers: u16,
    /// When write-back data is committed.
    pub flush_interval_ms: u64,
    /// Behind the export of this number, on the same disk, with a border that is in the middle of a block.
    pub beside: Option<usize>,
    /// Hosts on the access list and whether they may write; empty: no list.
    pub access: Vec<(u16, bool)>,
    /// A read or write of the medium takes about this long.
    pub io_us: u64,
    /// A commit takes about this long.
    pub commit_us: u64,
    /// Pages leave the cache now and then: so many in a million requests meet one.
    pub cold: u32,
}

/// Kinds of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostKind {
    /// As Linux's driver.
    Linux,
    /// As iPXE.
    Ipxe,
    /// Sends anything, as itself and as others.
    Adversary,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostPlan {
    /// How it behaves.
    pub kind: HostKind,
    /// The export that it uses.
    pub export: usize,
    /// The ports that it reaches.
    pub ports: Vec<u8>,
    /// Requests in a burst.
    pub burst: u32,
    /// Time between bursts.
    pub pause_us: u64,
    /// Requests in all.
    pub requests: u32,
    /// The first sector that it uses.
    #[serde(default)]
    pub first: u64,
    /// Sectors that it uses.
    pub area: u64,
    /// How often it asks for each of [`Want`]'s kinds, relative to each other.
    pub mix: [u32; Want::KINDS],
}

/// What users want of an initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// READ EXT.
    Read,
    /// WRITE EXT.
    Write,
    /// WRITE DMA FUA EXT.
    ForcedWrite,
    /// FLUSH CACHE EXT.
    Flush,
    /// DATA SET MANAGEMENT, TRIM.
    Trim,
    /// READ VERIFY EXT.
    Verify,
    /// IDENTIFY.
    Identify,
    /// Query Config: read, set.
    Text,
    /// MAC Mask List: edits.
    Mask,
    /// Reserve/Release.
    Reserve,
}

impl Want {
    /// How many kinds there are.
    pub const KINDS: usize = 10;

    /// The kinds, in the order of a mix.
    pub const ALL: [Want; Want::KINDS] = [
        Want::Read,
        Want::Write,
        Want::ForcedWrite,
        Want::Flush,
        Want::Trim,
        Want::Verify,
        Want::Identify,
        Want::Text,
        Want::Mask,
        Want::Reserve,
    ];
}

/// What happens to each frame on its way, in a million.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// The usual time on the way.
    pub latency_us: u64,
    /// Lost.
    pub lost: u32,
    /// Delivered twice.
    pub doubled: u32,
    /// Held back for up to `held_ms`.
    pub held: u32,
    /// Longest delay of those held back.
    pub held_ms: u64,
    /// A bit flipped.
    pub corrupted: u32,
    /// Cut short.
    pub cut: u32,
}

/// A fault at its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// When it begins.
    pub at_ms: u64,
    /// How long it lasts, where it lasts.
    pub for_ms: u64,
    /// What it is.
    pub what: FaultKind,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum FaultKind {
    /// A worker does not run, with frames in its ring.
    Stall {
        /// The worker's port.
        port: u8,
        /// And queue.
        queue: u8,
    },
    /// A port's link is down.
    LinkDown {
        /// The port.
        port: u8,
    },
    /// A host and a port do not reach each other.
    Partition {
        /// The host.
        host: u16,
        /// The port.
        port: u8,
    },
    /// A port gets another address for good.
    NewMac {
        /// The port.
        port: u8,
    },
    /// A port has a smaller MTU meanwhile.
    SmallMtu {
        /// The port.
        port: u8,
    },
    /// A port's workers end and new ones start, as after a change of its queues.
    Reopen {
        /// The port.
        port: u8,
    },
    /// One worker ends at once (a panic); another takes its place.
    WorkerEnds {
        /// The worker's port.
        port: u8,
        /// And queue.
        queue: u8,
    },
    /// SIGKILL; a new process starts after the fault's time.
    Kill,
    /// The power fails; a new process starts after the fault's time.
    PowerCut,
    /// SIGTERM; a new process starts after the fault's time.
    Terminate,
    /// SIGHUP: every export is configured anew.
    Reload,
    /// A disk takes fifty times as long.
    Slow {
        /// The disk.
        disk: u8,
    },
    /// A disk finishes nothing.
    Hang {
        /// The disk.
        disk: u8,
    },
    /// Commits fail.
    CommitFails {
        /// The disk.
        disk: u8,
    },
    /// Reads of some sectors fail.
    ReadFails {
        /// The disk.
        disk: u8,
    },
    /// Writes to some sectors fail.
    WriteFails {
        /// The disk.
        disk: u8,
    },
    /// No space is left for sectors that were never written.
    Full {
        /// The disk.
        disk: u8,
    },
    /// The disk is gone.
    Gone {
        /// The disk.
        disk: u8,
    },
    /// The disk has fewer sectors.
    Shrunk {
        /// The disk.
        disk: u8,
    },
    /// The state store cannot save.
    StateFails,
    /// The state store saves nothing meanwhile.
    StateHangs,
    /// The operator accepts what was lost on this disk.
    Accept {
        /// The disk.
        disk: u8,
    },
    /// A gateway's process is stopped (SIGSTOP); its clock goes on.
    GatewayStops {
        /// Which.
        gateway: u8,
    },
    /// A gateway's machine is stopped with its clock, and hears nothing meanwhile.
    GatewayPauses {
        /// Which.
        gateway: u8,
    },
    /// A gateway's process is killed; a new one starts after the fault's time.
    GatewayDies {
        /// Which.
        gateway: u8,
    },
    /// SIGTERM to a gateway; a new process starts after the fault's time.
    GatewayEnds {
        /// Which.
        gateway: u8,
    },
    /// A gateway does not reach Ceph.
    CephCut {
        /// Which.
        gateway: u8,
    },
    /// Two gateways do not hear each other.
    Deaf {
        /// One.
        gateway: u8,
        /// And the other.
        other: u8,
    },
    /// Everything in Ceph takes seconds.
    CephSlow,
    /// An OSD does nothing.
    OsdStalls {
        /// Which.
        osd: u8,
    },
    /// The operator wants the group at this gateway.
    Take {
        /// Which.
        gateway: u8,
    },
    /// The operator wants the group elsewhere.
    Release {
        /// Which.
        gateway: u8,
    },
}
