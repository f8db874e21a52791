//! The kernel half seen from here: load, attach, rules, counters; and the load generator's part of it, [`Responses`].
//!
//! The only module that knows aya. What the program decides, and how the maps are keyed, is in
//! [`aoe_common::rules`]; its source is the crate `aoe-ebpf`, built by `cargo xtask ebpf`.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use aoe_common::Mac;
use aoe_common::rules::{Counter, DeniedValue};
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use aoe_common::Vlan;

mod compile;
mod error;
mod inject;
mod kernel_log;
mod report;
mod responses;
mod returns;
mod tables;
#[cfg(test)]
mod tests;

pub use error::FilterError;
pub(crate) use report::{Denied, FilterCounters};
pub(crate) use responses::Responses;
pub(crate) use returns::PassedFrames;

use compile::compile;
use kernel_log::KernelLog;
use tables::{Installed, Room};

/// The programs, as `cargo xtask ebpf` builds them; `toolchain.txt` beside it says with what.
static OBJECT: &[u8] = aya::include_bytes_aligned!("object/aoe.o");

const PROGRAM: &str = "aoe_filter";

/// What the kernel half decides by on one port. Replaced as a whole, atomically.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// The exports visible on the port.
    pub(crate) exports: Vec<ExportRule>,
    /// Addresses besides the port's own that frames may be sent to.
    pub(crate) stations: BTreeSet<Mac>,
}

impl Rules {
    /// These exports, for frames to the port's own address.
    pub fn of(exports: Vec<ExportRule>) -> Rules {
        Rules {
            exports,
            stations: BTreeSet::new(),
        }
    }
}

/// Sources that may see an export, with their rate limit in frames a second.
///
/// Shared, because thousands of exports may have one list of thousands of members.
pub(crate) type AllowList = Arc<[(Mac, Option<u32>)]>;

/// One export as the filter sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportRule {
    /// Major address.
    pub shelf: u16,
    /// Minor address.
    pub slot: u8,
    /// Frames it answers to. Exports of one address must be on different VLANs.
    pub vlan: Vlan,
    /// Sources that may see it; `None`: everyone; empty: nobody.
    pub allow: Option<AllowList>,
    /// Rate limit, in frames a second, for sources without one of their own; `None`: no limit.
    pub rate_limit: Option<u32>,
}

/// How the program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// In the driver.
    Native,
    /// In the network stack: works with every driver, costs a copy.
    Generic,
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Attach::Native => "native",
            Attach::Generic => "generic",
        })
    }
}

/// The filter of one interface: its own program and maps.
///
/// The interface is an ordinary one again as soon as this is dropped, or its process ended in whatever way: the
/// program is attached by a link that lives as long as its file descriptor.
pub struct Filter {
    // First, so that it is dropped first.
    link: Option<(FdLink, Attach)>,
    ebpf: Ebpf,
    rules: Installed,
    mark: u64,
    sockets: XskMap<MapData>,
    counters: CounterReader,
    denied: HashMap<MapData, u64, DeniedValue>,
    _log: Option<KernelLog>,
}

impl Filter {
    /// Loads the program for a port with address `mac` and puts `rules` in force. Nothing is attached yet.
    ///
    /// The maps get room for twice these rules, at least for some 2000 exports and 32 000 members of access lists.
    /// Needs CAP_BPF and CAP_NET_ADMIN, and Linux 5.18; jumbo frames need 6.6. Kernels as new as that count maps as
    /// memory of the process's control group; RLIMIT_MEMLOCK does not matter.
    pub fn load(mac: Mac, rules: &Rules) -> Result<Filter, FilterError> {
        let tables = compile(rules)?;
        let room = Room::for_growth_of(&tables);
        let log_level = KernelLog::wanted_level();
        let mut loader = EbpfLoader::new();
        loader
            // The program needs none, and parsing that of the kernel takes longer than all else.
            .btf(None)
            .map_max_entries("EXPORTS", Room::map_entries(room.exports))
            .map_max_entries("SOURCES", Room::map_entries(room.sources))
            // With level 0 the verifier removes the log statements.
            .override_global("AYA_LOG_LEVEL", &log_level, true);
        if log_level == 0 {
            loader.map_max_entries("AYA_LOGS", rustix::param::page_size() as u32);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| FilterError::load(&error))?;
        program(&mut ebpf, PROGRAM)
            .load()
            .map_err(|error| FilterError::load(&error.into()))?;

        let mut installed = Installed::new(
            map(&mut ebpf, "STATE", "state")?,
            map(&mut ebpf, "EXPORTS", "exports")?,
            map(&mut ebpf, "SOURCES", "sources")?,
            room,
            mac,
        );
        installed.replace(&tables)?;
        let mark = returns::new_mark();
        installed.set_mark(mark)?;
        Ok(Filter {
            link: None,
            rules: installed,
            mark,
            sockets: map(&mut ebpf, "SOCKETS", "sockets")?,
            counters: CounterReader(Arc::new(map(&mut ebpf, "COUNTERS", "counters")?)),
            denied: map(&mut ebpf, "DENIED", "denied sources")?,
            _log: if log_level == 0 {
                None
            } else {
                KernelLog::open(&mut ebpf)
            },
            ebpf,
        })
    }

    /// Attaches the program. From here on the rules hold; frames for exports are dropped on queues without a socket.
    ///
    /// `interface` is for messages, `ifindex` decides: names can move to other interfaces. Where
    /// [`FilterError::generic_may_work`] says so, the caller can try again with [`Attach::Generic`].
    pub fn attach(&mut self, interface: &str, ifindex: u32, attach: Attach) -> Result<(), FilterError> {
        let link = link(&mut self.ebpf, PROGRAM, interface, ifindex, attach)?;
        self.link = Some((link, attach));
        Ok(())
    }

    /// How the program is attached, if it is.
    pub fn attached(&self) -> Option<Attach> {
        self.link.as_ref().map(|(_, attach)| *attach)
    }

    /// Detaches the program; the interface is an ordinary one again.
    pub fn detach(&mut self) {
        self.link = None;
    }

    /// Frames of receive queue `queue` go to this AF_XDP socket, which must be bound to that queue.
    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), FilterError> {
        self.sockets
            .set(queue, socket, 0)
            .map_err(FilterError::map("sockets"))
    }

    /// Frames for exports are dropped again on this queue. Nothing happens where there is no socket.
    #[cfg(test)]
    pub(crate) fn clear_socket(&mut self, queue: u32) -> Result<(), FilterError> {
        match self.sockets.unset(queue) {
            Err(error) if error::errno(&error) == Some(rustix::io::Errno::NOENT) => Ok(()),
            result => result.map_err(FilterError::map("sockets")),
        }
    }

    /// Replaces all rules at once: a frame is judged by the old ones or by the new ones.
    ///
    /// Takes a few milliseconds to some tens of them: it waits until no frame is under way with the old rules. Where
    /// it fails, those stay in force.
    pub fn set_rules(&mut self, rules: &Rules) -> Result<(), FilterError> {
        self.rules.replace(&compile(rules)?)
    }

    /// The port's address has changed.
    pub(crate) fn set_mac(&mut self, mac: Mac) -> Result<(), FilterError> {
        self.rules.set_own(mac)
    }

    /// What this filter knows frames by that [`PassedFrames`] has put back on the receive path.
    pub(crate) const fn mark(&self) -> u64 {
        self.mark
    }

    /// Frames by row of the verdict table.
    pub fn counters(&self) -> Result<FilterCounters, FilterError> {
        self.counters.read()
    }

    /// The same for other threads.
    pub(crate) fn counter_reader(&self) -> CounterReader {
        self.counters.clone()
    }

    /// Sources denied since the last call, at most 1024.
    pub fn denied(&mut self) -> Result<Vec<Denied>, FilterError> {
        let failed = FilterError::map("denied sources");
        let sources: Vec<u64> = self.denied.keys().collect::<Result<_, _>>().map_err(&failed)?;
        let mut all = Vec::with_capacity(sources.len());
        for source in sources {
            // Nobody else removes entries.
            let value = self.denied.get(&source, 0).map_err(&failed)?;
            self.denied.remove(&source).map_err(&failed)?;
            all.push(Denied::new(source, value));
        }
        Ok(all)
    }
}

/// Reads a filter's counters, from any thread and also when the filter is gone.
#[derive(Clone)]
pub(crate) struct CounterReader(Arc<PerCpuArray<MapData, [u64; Counter::COUNT]>>);

impl CounterReader {
    /// Frames by row of the verdict table.
    pub(crate) fn read(&self) -> Result<FilterCounters, FilterError> {
        let per_cpu = self.0.get(&0, 0).map_err(FilterError::map("counters"))?;
        Ok(FilterCounters::sum(per_cpu.iter()))
    }
}

impl fmt::Debug for CounterReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CounterReader")
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("attached", &self.attached())
            .finish_non_exhaustive()
    }
}

/// Loads a program that shares the filter's object, but not its rules; the maps of those, and these, are made as small as can be.
fn load_small(name: &str, unused: &[&'static str]) -> Result<Ebpf, FilterError> {
    let mut loader = EbpfLoader::new();
    for map in ["EXPORTS", "SOURCES", "BUCKETS", "DENIED"].iter().chain(unused) {
        loader.map_max_entries(map, 1);
    }
    loader.map_max_entries("AYA_LOGS", rustix::param::page_size() as u32);
    let mut ebpf = loader
        .btf(None)
        .load(OBJECT)
        .map_err(|error| FilterError::load(&error))?;
    program(&mut ebpf, name)
        .load()
        .map_err(|error| FilterError::load(&error.into()))?;
    Ok(ebpf)
}

/// Attaches a loaded program for as long as the link lives.
fn link(
    ebpf: &mut Ebpf,
    name: &str,
    interface: &str,
    ifindex: u32,
    attach: Attach,
) -> Result<FdLink, FilterError> {
    let mode = match attach {
        Attach::Native => XdpMode::Driver,
        Attach::Generic => XdpMode::Skb,
    };
    let failed = |error| FilterError::attach(&error, interface, attach);
    let program = program(ebpf, name);
    let id = program.attach_to_if_index(ifindex, mode).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    // aya's other way, netlink, would leave the program behind when this process is killed. Dropping that link
    // detaches it.
    FdLink::try_from(link).map_err(|_| FilterError::Attach {
        interface: interface.to_owned(),
        attach,
        cause: rustix::io::Errno::INVAL.into(),
    })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .expect("the object holds the XDP programs: `cargo xtask ebpf --check` proves it")
}

fn map<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    symbol: &'static str,
    name: &'static str,
) -> Result<M, FilterError> {
    let map = ebpf
        .take_map(symbol)
        .expect("the object holds the map: `cargo xtask ebpf --check` proves it");
    M::try_from(map).map_err(FilterError::map(name))
}
