//! What the kernel tells of an interface. What it does not tell stays `None`.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use initiator::link_named;
use nix::errno::Errno;
use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached};
use serde::Serialize;

use super::driver::{XdpFeatures, offloads, xdp_features};
use super::interface::Interface;
use super::kernel;
use super::queues::{fewer_rx_queues, one_rx_queue, rx_queues, sysfs};

/// Facts about an interface and its host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Probe {
    /// Interface.
    pub(crate) interface: String,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Driver, or kind of a virtual interface.
    pub(crate) driver: Option<String>,
    /// Made by software, without a device.
    pub(crate) is_virtual: bool,
    /// It receives by slaves, as a bond does: native XDP runs on them.
    pub(crate) has_slaves: bool,
    /// Administratively up.
    pub(crate) up: bool,
    /// The cable is in, and the other end is up.
    pub(crate) carrier: bool,
    /// MTU.
    pub(crate) mtu_bytes: u32,
    /// The largest MTU that the driver takes, where it tells.
    pub(crate) max_mtu_bytes: Option<u32>,
    /// Active receive queues.
    pub(crate) rx_queues: usize,
    /// Active transmit queues.
    pub(crate) tx_queues: usize,
    /// How to have no more receive queues than transmit queues, where there are.
    #[serde(skip)]
    pub(crate) fewer_rx_queues: Option<String>,
    /// How to have one receive queue; `None` where the driver does not let their number be set.
    #[serde(skip)]
    pub(crate) one_queue: Option<String>,
    /// NAPI runs in kernel threads.
    pub(crate) threaded: Option<bool>,
    /// Some XDP program is attached already.
    pub(crate) has_program: bool,
    /// It runs in the driver.
    pub(crate) has_native_program: bool,
    /// What the driver can do for XDP (kernel 6.3).
    pub(crate) xdp: Option<XdpFeatures>,
    /// Offloads that are on; `None`: the kernel does not tell.
    pub(crate) offloads: Option<Vec<String>>,
    /// Offloads that can be switched.
    pub(crate) switchable: Vec<String>,
}

/// Asks the kernel.
///
/// # Errors
/// When there is no such Ethernet interface.
pub(crate) fn probe(interface: &str) -> Result<Probe> {
    let link = link(interface)?;
    let found = Interface::from(&link);
    if let Some(why) = found.unfit() {
        bail!("{interface} {why}");
    }
    let index = found.index;
    let sys = sysfs(interface, index);
    let sys = sys.as_deref();
    let driver = sys.and_then(driver_of);
    let mut probe = Probe {
        interface: interface.to_owned(),
        kernel: kernel::release(),
        is_virtual: driver.is_none() && sys.is_some_and(|sys| !sys.join("device").exists()),
        driver,
        has_slaves: sys.is_some_and(|sys| is_controller(interface, sys)),
        up: found.up,
        carrier: found.carrier,
        mtu_bytes: found.mtu_bytes,
        rx_queues: rx_queues(interface).map_or(0, |count| count as usize),
        has_program: found.has_xdp,
        tx_queues: found.tx_queues.map_or(0, |count| count as usize),
        threaded: sys
            .and_then(|sys| fs::read_to_string(sys.join("threaded")).ok())
            .map(|text| text.trim() != "0"),
        ..Probe::default()
    };
    let few = found.tx_queues.filter(|tx| *tx < found.rx_queues);
    probe.fewer_rx_queues = few.map(|tx| fewer_rx_queues(interface, index, tx));
    probe.one_queue = one_rx_queue(interface, index);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::LinkInfo(_) => {
                let kind = kind_in(&attribute);
                probe.has_slaves |= matches!(kind.as_deref(), Some("bond" | "team"));
                // What is made by software says of what kind it is; a device does not.
                probe.is_virtual |= kind.is_some();
                probe.driver = probe.driver.or(kind);
            }
            // 0: any.
            LinkAttribute::MaxMtu(most) => probe.max_mtu_bytes = Some(most).filter(|most| *most > 0),
            LinkAttribute::Xdp(parts) => {
                probe.has_native_program = parts
                    .iter()
                    .any(|part| matches!(part, LinkXdp::Attached(XdpAttached::Driver)));
            }
            _ => {}
        }
    }
    // both families are younger than the oldest kernel that xblade runs on
    probe.xdp = xdp_features(index);
    if let Some((on, switchable)) = offloads(index) {
        (probe.offloads, probe.switchable) = (Some(on), switchable);
    }
    Ok(probe)
}

/// The driver of an interface; `None` for what is made by software, and where /sys shows another network namespace.
pub(crate) fn driver(interface: &str, index: u32) -> Option<String> {
    driver_of(&sysfs(interface, index)?)
}

fn driver_of(sys: &Path) -> Option<String> {
    let path = fs::read_link(sys.join("device/driver")).ok()?;
    Some(path.file_name()?.to_str()?.to_owned())
}

fn link(interface: &str) -> Result<LinkMessage> {
    link_named(interface).map_err(|error| match error.raw_os_error() {
        Some(errno) if errno == Errno::ENODEV as i32 => {
            anyhow!("{interface}: no such interface (`ip link` lists them)")
        }
        _ => anyhow!("cannot ask for the network interface {interface}: {error}"),
    })
}

/// The kind of a virtual device, as `ip -d link` shows it; `None` for a real one, and where there is none of that name.
pub(crate) fn kind(interface: &str) -> Option<String> {
    link(interface).ok()?.attributes.iter().find_map(kind_in)
}

fn kind_in(attribute: &LinkAttribute) -> Option<String> {
    let LinkAttribute::LinkInfo(parts) = attribute else {
        return None;
    };
    parts.iter().find_map(|part| match part {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// Whether other interfaces are slaves or ports of this one.
fn is_controller(interface: &str, sys: &Path) -> bool {
    let Ok(entries) = fs::read_dir(sys) else {
        return false;
    };
    let lower = |name: &str| name.starts_with("lower_");
    entries
        .flatten()
        .filter(|entry| lower(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| fs::read_link(entry.path().join("master")).ok())
        .any(|master| master.ends_with(interface))
}
