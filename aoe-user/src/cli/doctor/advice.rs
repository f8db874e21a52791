//! What xblade will make of an interface, and what would help.

use crate::control::tags::{STRIPS_TAGS, Tags};
use serde::Serialize;

use super::probe::{Probe, XdpFeatures};
use crate::control::preflight::{KERNEL_JUMBO, KERNEL_MIN, version};

/// Up to this MTU a frame fits one chunk, and no multi-buffer mode is needed.
const ONE_CHUNK_MTU: u32 = 1500;
/// The MTU of the usual jumbo frames.
const JUMBO_MTU: u32 = 9000;
/// The least MTU that has room for a sector.
const LEAST_MTU: u32 = 548;

/// A change that would help, and why.
#[derive(Debug, Serialize)]
pub(super) struct Advice {
    /// Without it exports are not served, or not as they should be.
    pub bad: bool,
    pub why: String,
    /// To be typed as they are.
    pub commands: Vec<String>,
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
    match probe.xdp {
        Some(_) if probe.has_slaves => {
            "generic XDP, by copy: native XDP runs on its slaves, whose frames no socket of its own gets"
        }
        None => "unknown: native XDP if the driver has it, else generic",
        Some(xdp) if !(xdp.basic() && xdp.redirect()) => {
            "generic XDP, by copy: works, and every frame costs more"
        }
        Some(xdp) if jumbo && !xdp.multi_buffer() => {
            "generic XDP, by copy: the driver takes no jumbo frames with XDP"
        }
        Some(xdp) if xdp.zero_copy() && (!jumbo || xdp.zero_copy_pieces > 1) => "native XDP, zero-copy",
        Some(xdp) if xdp.zero_copy() => {
            "native XDP, by copy: zero-copy takes no frames of several buffers here"
        }
        Some(_) => "native XDP, by copy",
    }
}

impl Probe {
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
pub(super) fn advice(probe: &Probe) -> Vec<Advice> {
    let mut list = bad(probe);
    list.extend(better(probe));
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
    if let Some((major, minor)) = too_old {
        let (least, minor_least) = KERNEL_MIN;
        add(
            format!("Linux {major}.{minor} is too old: install {least}.{minor_least} or newer"),
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
    if probe.mtu_bytes > ONE_CHUNK_MTU && !jumbo_works(probe) {
        add(
            "this driver or kernel has no jumbo frames with XDP".into(),
            vec![format!("ip link set {interface} mtu 1500")],
        );
    }
    list
}

fn jumbo_works(probe: &Probe) -> bool {
    version(&probe.kernel).is_none_or(|version| version >= KERNEL_JUMBO)
        && probe.xdp.is_none_or(XdpFeatures::multi_buffer)
}

/// What would make it faster or easier.
fn better(probe: &Probe) -> Vec<Advice> {
    let interface = &probe.interface;
    let mut list = Vec::new();
    let mut add = |why: &str, commands: Vec<String>| {
        list.push(Advice {
            bad: false,
            why: why.to_owned(),
            commands,
        });
    };
    if probe.mtu_bytes < JUMBO_MTU && jumbo_works(probe) {
        add(
            "17 sectors a request: fewer frames for the same data; switch and initiators must take them, too",
            vec![format!("ip link set {interface} mtu {JUMBO_MTU}")],
        );
    }
    let steered = probe.rx_queues > 1 && !probe.is_virtual;
    if steered {
        add(
            "one worker for the one queue that AoE arrives on, if one is enough",
            vec![format!("ethtool -L {interface} combined 1")],
        );
        let rule = "flow-type ether src 02:00:00:00:00:01 m 00:00:00:00:00:00 proto 0x88a2 action 1";
        let mut commands = vec![format!("ethtool -N {interface} {rule}")];
        if probe.offload("rx-ntuple-filter") != Some(true) {
            commands.insert(0, format!("ethtool -K {interface} ntuple on"));
        }
        add(
            "or spread initiators over queues by hand: a rule for each, where the NIC has such filters",
            commands,
        );
    }
    let tags = Tags::of(probe.driver.as_deref(), probe.offloads.as_deref());
    if tags == Some(Tags::StrippedByNic) && probe.can_turn_off(STRIPS_TAGS) {
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

#[cfg(test)]
mod tests {
    use super::super::{Finding, report};
    use super::*;

    pub(in super::super) fn nic() -> Probe {
        Probe {
            interface: "eth0".into(),
            kernel: "6.12.5-amd64".into(),
            driver: Some("ice".into()),
            is_virtual: false,
            has_slaves: false,
            up: true,
            mtu_bytes: 9000,
            rx_queues: 1,
            tx_queues: 1,
            threaded: Some(false),
            has_program: false,
            has_native_program: false,
            xdp: Some(XdpFeatures {
                bits: 0x3f,
                zero_copy_pieces: 5,
            }),
            offloads: Some(vec![]),
            switchable: vec!["rx-vlan-hw-parse".into(), "rx-lro".into()],
        }
    }

    #[test]
    fn a_good_host_gets_zero_copy_and_no_advice() {
        let report = report(&Finding::new(nic()));
        assert!(report.contains("native XDP, zero-copy\n"), "{report}");
        assert!(report.contains("MTU 9000: 17 sectors (8.5 KiB)"), "{report}");
        assert!(report.contains("Nothing to improve"), "{report}");
    }

    #[test]
    fn the_mode_follows_driver_and_mtu() {
        let with = |bits, zero_copy_pieces, mtu_bytes| {
            mode(&Probe {
                xdp: Some(XdpFeatures {
                    bits,
                    zero_copy_pieces,
                }),
                mtu_bytes,
                ..nic()
            })
        };
        assert_eq!(with(0x0f, 1, 1500), "native XDP, zero-copy");
        assert!(with(0x0f, 1, 9000).starts_with("generic XDP"));
        assert!(with(0x2f, 1, 9000).starts_with("native XDP, by copy"));
        assert_eq!(with(0x23, 1, 9000), "native XDP, by copy");
        assert!(with(0, 1, 1500).starts_with("generic"));
        assert!(mode(&Probe { xdp: None, ..nic() }).starts_with("unknown"));
        let bond = Probe {
            has_slaves: true,
            ..nic()
        };
        assert!(mode(&bond).starts_with("generic") && mode(&bond).contains("slaves"));
        assert!(with(0x3f, 1, 547).starts_with("cannot serve"));
        assert!(with(0x3f, 1, 548).starts_with("native"));
    }

    #[test]
    fn advice_names_commands_that_can_be_typed() {
        let probe = Probe {
            mtu_bytes: 1500,
            rx_queues: 8,
            xdp: Some(XdpFeatures {
                bits: 0x23,
                zero_copy_pieces: 1,
            }),
            offloads: Some(vec!["rx-vlan-hw-parse".into(), "rx-lro".into()]),
            ..nic()
        };
        let report = report(&Finding::new(probe));
        for command in [
            "ip link set eth0 mtu 9000",
            "ethtool -L eth0 combined 1",
            "ethtool -K eth0 ntuple on",
            "ethtool -N eth0 flow-type ether src",
            "ethtool -K eth0 rxvlan off",
            "ethtool -K eth0 lro off",
            "echo 1 > /sys/class/net/eth0/threaded",
        ] {
            assert!(
                report.contains(&format!("\n  {command}")),
                "{command} is missing:\n{report}"
            );
        }
    }

    #[test]
    fn threaded_is_advised_where_it_works_only() {
        let veth = |has_native_program| {
            let probe = Probe {
                is_virtual: true,
                has_native_program,
                xdp: Some(XdpFeatures {
                    bits: 0x23,
                    zero_copy_pieces: 1,
                }),
                ..nic()
            };
            report(&Finding::new(probe)).contains("/threaded")
        };
        assert!(!veth(false) && veth(true));
        let other_namespace = Probe {
            threaded: None,
            ..nic()
        };
        assert!(!report(&Finding::new(other_namespace)).contains("/threaded"));
    }

    #[test]
    fn what_is_bad_is_told_from_what_would_help() {
        let finding = |probe| Finding::new(probe);
        assert!(!finding(nic()).is_bad());
        assert!(
            !finding(Probe {
                mtu_bytes: 1500,
                ..nic()
            })
            .is_bad()
        );
        for bad in [
            Probe { up: false, ..nic() },
            Probe {
                mtu_bytes: 500,
                ..nic()
            },
            Probe {
                kernel: "5.10.0".into(),
                mtu_bytes: 1500,
                ..nic()
            },
            Probe {
                kernel: "6.1.0".into(),
                ..nic()
            },
        ] {
            let finding = finding(bad);
            assert!(
                finding.is_bad() && report(&finding).contains("This must change:"),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn what_is_unknown_is_said_to_be() {
        let report = report(&Finding::new(Probe {
            interface: "x".into(),
            ..Probe::default()
        }));
        assert_eq!(report.matches("unknown").count(), 6, "{report}");
        assert!(report.contains("ip link set x up"), "{report}");
    }

    #[test]
    fn an_old_kernel_gets_no_advice_that_it_cannot_follow() {
        let probe = Probe {
            kernel: "6.1.0".into(),
            mtu_bytes: 1500,
            ..nic()
        };
        let report = report(&Finding::new(probe));
        assert!(
            report.contains("no jumbo frames, they need 6.6") && !report.contains("mtu 9000"),
            "{report}"
        );
    }
}
