//! What xblade will make of an interface, and what would help.

use crate::control::tags::{STRIPS_TAGS, TagPlace};
use aoe_common::wire::sectors_per_frame;
use serde::Serialize;

use super::drivers::{Steering, steering};
use super::filters::{Filters, SteeringFilter};
use crate::host::Probe;
use crate::host::XdpFeatures;
use crate::host::kernel::{KERNEL_JUMBO, KERNEL_MIN, version};
use crate::host::limits::{LEAST_MTU, ZERO_COPY_ONE_CHUNK_MTU, least_mtu_with_sectors_of, native_mtu};

/// Up to this MTU a frame fits one chunk in copy mode, and one buffer of every driver.
const ONE_CHUNK_MTU: u32 = 1500;
/// The MTU of the usual jumbo frames.
const JUMBO_MTU: u32 = 9000;
/// The kernel's name for `ethtool -K … ntuple`.
pub(super) const FILTERS: &str = "rx-ntuple-filter";

/// A change that would help, and why.
#[derive(Debug, Serialize)]
pub(super) struct Advice {
    /// Without it exports are not served, or not as they should be.
    pub(crate) bad: bool,
    pub(crate) why: String,
    /// To be typed as they are.
    pub(crate) commands: Vec<String>,
}

/// How AoE frames are spread over receive queues.
pub(super) fn spread(probe: &Probe) -> &'static str {
    match probe.rx_queues {
        0 => "unknown where frames arrive",
        1 => "all frames arrive on one, served by one worker",
        _ if probe.driver.as_deref() == Some("veth") => {
            "a frame arrives on the queue of the cpu that sent it"
        }
        _ => "receive hashing knows IP only: unless steered, AoE frames all arrive on one",
    }
}

/// The mode that `--mode auto` ends in, as far as it can be told without trying.
pub(super) fn mode(probe: &Probe) -> &'static str {
    let jumbo = probe.mtu_bytes > ONE_CHUNK_MTU;
    if probe.mtu_bytes < LEAST_MTU {
        return "cannot serve it: the MTU has no room for a sector, 548 are needed";
    }
    if probe.fewer_rx_queues.is_some() && !probe.xdp.is_some_and(XdpFeatures::zero_copy) {
        return "cannot serve it: what arrives on a receive queue without a transmit queue could not be answered";
    }
    match probe.xdp {
        Some(_) if probe.has_slaves => {
            "generic XDP, by copy: native XDP runs on its slaves, whose frames no socket of its own gets"
        }
        None => "unknown: native XDP if the driver has it, else generic",
        Some(xdp) if !xdp.basic() => "generic XDP, by copy: works, and every frame costs more",
        Some(xdp) if xdp.lacks_redirect() => {
            "generic XDP, by copy: the driver has native XDP, but cannot redirect with it"
        }
        Some(xdp) if jumbo && !xdp.multi_buffer() => single_buffer_mode(probe, xdp),
        Some(xdp) if xdp.zero_copy() && (one_zero_copy_chunk(probe) || xdp.zero_copy_pieces > 1) => {
            "native XDP, zero-copy"
        }
        Some(xdp) if xdp.zero_copy() => {
            "native XDP, by copy: zero-copy takes no frames of several buffers here"
        }
        Some(_) => "native XDP, by copy",
    }
}

/// The same at an MTU above 1500, for a driver whose native XDP takes frames of one buffer only.
fn single_buffer_mode(probe: &Probe, xdp: XdpFeatures) -> &'static str {
    match probe.native_mtu() {
        None => "native XDP as far as the driver takes this MTU in one buffer, else generic, by copy",
        Some(most) if probe.mtu_bytes > most => {
            "generic XDP, by copy: the driver's native XDP takes no frames of this MTU"
        }
        Some(_) if xdp.zero_copy() && one_zero_copy_chunk(probe) => "native XDP, zero-copy",
        Some(_) => "native XDP, by copy",
    }
}

fn one_zero_copy_chunk(probe: &Probe) -> bool {
    // tsnep gives zero-copy buffers of a fixed size.
    let most = match probe.driver.as_deref() {
        Some("tsnep") => ONE_CHUNK_MTU,
        _ => ZERO_COPY_ONE_CHUNK_MTU,
    };
    probe.mtu_bytes <= most
}

impl Probe {
    /// Up to which MTU a driver without multi-buffer takes native XDP; `None` where that is unknown, or it has multi-buffer or no
    /// native XDP to lose.
    fn native_mtu(&self) -> Option<u32> {
        let xdp = self.xdp?;
        let single = xdp.basic() && xdp.redirect() && !xdp.multi_buffer() && !self.has_slaves;
        single.then(|| native_mtu(self.driver.as_deref()?))?
    }

    /// Whether an offload is on; `None` when the kernel does not tell.
    pub(super) fn offload(&self, name: &str) -> Option<bool> {
        Some(self.offloads.as_ref()?.iter().any(|on| on == name))
    }

    /// An offload that is on and can be turned off.
    fn can_turn_off(&self, name: &str) -> bool {
        self.offload(name) == Some(true) && self.switchable.iter().any(|other| other == name)
    }
}

/// What would help, what is bad first.
pub(super) fn advice(probe: &Probe, filters: Option<&Filters>) -> Vec<Advice> {
    let mut list = bad(probe);
    list.extend(better(probe, filters));
    list
}

/// What keeps exports from being served well or at all.
fn bad(probe: &Probe) -> Vec<Advice> {
    let interface = &probe.interface;
    let mut list = Vec::new();
    let mut add = |why: String, commands: Vec<String>| {
        list.push(Advice {
            bad: true,
            why,
            commands,
        });
    };
    let too_old = version(&probe.kernel).filter(|version| *version < KERNEL_MIN);
    if let Some(version) = too_old {
        add(
            format!("Linux {version} is too old: install {KERNEL_MIN} or newer"),
            vec!["uname -r".into()],
        );
    }
    if !probe.up {
        add(
            "nothing arrives on an interface that is down".into(),
            vec![format!("ip link set {interface} up")],
        );
    }
    if probe.mtu_bytes < LEAST_MTU {
        add(
            format!("no sector fits a frame: AoE needs an MTU of {LEAST_MTU} or more"),
            vec![format!("ip link set {interface} mtu 1500")],
        );
    }
    if let Some(remedy) = &probe.fewer_rx_queues {
        let (rx, tx) = (probe.rx_queues, probe.tx_queues);
        let why = format!(
            "{rx} receive queues and {tx} transmit queues: in copy mode a queue answers on the transmit queue of its own number"
        );
        match remedy.trim_matches('`') {
            command if command.len() + 2 == remedy.len() => add(why, vec![command.to_owned()]),
            _ => add(format!("{why}; {remedy}"), Vec::new()),
        }
    }
    if probe.mtu_bytes > ONE_CHUNK_MTU && !kernel_takes_jumbo(probe) {
        add(
            "this kernel has no jumbo frames with AF_XDP".into(),
            vec![format!("ip link set {interface} mtu 1500")],
        );
    }
    list
}

fn kernel_takes_jumbo(probe: &Probe) -> bool {
    version(&probe.kernel).is_none_or(|version| version >= KERNEL_JUMBO)
}

/// What would make it faster or easier.
fn better(probe: &Probe, filters: Option<&Filters>) -> Vec<Advice> {
    let interface = &probe.interface;
    let mut list = Vec::new();
    if let Some(advice) = better_mtu(probe) {
        list.push(advice);
    }
    list.extend(better_queues(probe, filters));
    let mut add = |why: &str, commands: Vec<String>| {
        list.push(Advice {
            bad: false,
            why: why.to_owned(),
            commands,
        });
    };
    let tags = TagPlace::of(probe.driver.as_deref(), probe.offloads.as_deref());
    if tags == Some(TagPlace::StrippedByNic) && probe.can_turn_off(STRIPS_TAGS) {
        add(
            "for exports in VLANs: with tags stripped, frames of all VLANs look untagged",
            vec![format!("ethtool -K {interface} rxvlan off")],
        );
    }
    for (name, option) in [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")] {
        if probe.can_turn_off(name) {
            add(
                "drivers refuse native XDP with it",
                vec![format!("ethtool -K {interface} {option} off")],
            );
        }
    }
    let copies = probe.xdp.is_some_and(|xdp| xdp.basic() && !xdp.zero_copy());
    // A virtual interface refuses it until its driver has made receive contexts, for an XDP program of its own.
    let has_contexts = !probe.is_virtual || probe.has_native_program;
    if probe.threaded == Some(false) && copies && has_contexts && probe.up {
        add(
            "moves XDP and its copy to a kernel thread: helps where a cpu is free for it, most with jumbo frames",
            vec![format!("echo 1 > /sys/class/net/{interface}/threaded")],
        );
    }
    list
}

/// Larger frames, as far as they cost no mode; or smaller ones, where these cost native XDP.
fn better_mtu(probe: &Probe) -> Option<Advice> {
    if !kernel_takes_jumbo(probe) {
        return None;
    }
    let interface = &probe.interface;
    let possible = |mtu_bytes: u32| probe.max_mtu_bytes.map_or(mtu_bytes, |most| most.min(mtu_bytes));
    let now = sectors_per_frame(probe.mtu_bytes);
    let (mtu_bytes, why) = match probe.native_mtu() {
        Some(most) if probe.mtu_bytes > most => {
            let why =
                "native XDP instead of generic, for fewer sectors a request: measure which is better for you";
            (least_mtu_with_sectors_of(most), why.to_owned())
        }
        Some(most) if sectors_per_frame(possible(most)) > now => {
            let most = possible(most);
            let sectors = sectors_per_frame(most);
            let why = format!(
                "{sectors} sectors a request, the most that keeps native XDP; switch and initiators must take them, too"
            );
            (least_mtu_with_sectors_of(most), why)
        }
        Some(_) => return None,
        // The driver's limit is unknown: larger frames might cost native XDP.
        None if probe.xdp.is_some_and(|xdp| xdp.basic() && !xdp.multi_buffer()) => return None,
        None if probe.mtu_bytes >= JUMBO_MTU => return None,
        None if sectors_per_frame(possible(JUMBO_MTU)) <= now => return None,
        None => {
            let mtu_bytes = possible(JUMBO_MTU);
            let why = format!(
                "{} sectors a request: fewer frames for the same data; switch and initiators must take them, too",
                sectors_per_frame(mtu_bytes)
            );
            (mtu_bytes, why)
        }
    };
    Some(Advice {
        bad: false,
        why,
        commands: vec![format!("ip link set {interface} mtu {mtu_bytes}")],
    })
}

/// One queue, or a use for more.
fn better_queues(probe: &Probe, filters: Option<&Filters>) -> Vec<Advice> {
    if probe.rx_queues <= 1 || probe.is_virtual {
        return Vec::new();
    }
    let steered = match filters {
        Some(Filters::Set(set)) => set.iter().any(SteeringFilter::is_about_aoe),
        _ => false,
    };
    if steered {
        return Vec::new();
    }
    let interface = &probe.interface;
    let one_queue = probe.one_queue.clone().map(|command| Advice {
        bad: false,
        why: "one worker for the one queue that AoE arrives on, if one is enough".into(),
        commands: vec![command],
    });
    let mut list = Vec::from_iter(one_queue);
    let driver = probe.driver.as_deref().unwrap_or_default();
    let why = match steering(driver) {
        Steering::SourceAndType => "",
        Steering::Source => ", by its address alone (not on I210)",
        Steering::Unknown => ", where the NIC has such filters",
        Steering::Nothing => return list,
    };
    // Some cards of a driver have no filters, which the kernel tells as a switch that is fixed.
    let lacks_them = has_fixed_filters(probe) && steering(driver) != Steering::SourceAndType;
    if lacks_them || matches!(filters, Some(Filters::Refused(_))) {
        return list;
    }
    list.push(Advice {
        bad: false,
        why: format!("or a queue for each initiator{why}: shows the commands, `--apply` carries them out"),
        commands: vec![format!(
            "xblade doctor {interface} --steer 02:00:00:00:00:01,02:00:00:00:00:02"
        )],
    });
    list
}

/// Whether the filters are off, and cannot be switched on.
pub(super) fn has_fixed_filters(probe: &Probe) -> bool {
    probe.offload(FILTERS) == Some(false) && !probe.switchable.iter().any(|name| name == FILTERS)
}

#[cfg(test)]
#[path = "advice_tests.rs"]
mod tests;
