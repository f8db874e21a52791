//! `xblade doctor`: what this host and an interface can do, what xblade will make of it, and what would help.

mod probe;

use std::fmt::Write as _;

use anyhow::Result;
use aoe_common::wire::sectors_per_frame;

use super::args::DoctorArgs;
use crate::control::preflight::{KERNEL_JUMBO, KERNEL_MIN, version};
use probe::{Probe, XdpFeatures};

/// Up to this MTU a frame fits one chunk, and no multi-buffer mode is needed.
const ONE_CHUNK_MTU: u32 = 1500;
/// The MTU of the usual jumbo frames.
const JUMBO_MTU: u32 = 9000;

/// Prints what was found.
///
/// # Errors
/// When there is no such interface.
pub fn run(args: &DoctorArgs) -> Result<()> {
    print!("{}", report(&probe::probe(&args.interface)?));
    Ok(())
}

/// A change that would help, and why.
struct Advice {
    why: &'static str,
    commands: Vec<String>,
}

fn report(probe: &Probe) -> String {
    let Probe {
        interface,
        kernel,
        mtu_bytes,
        rx_queues,
        tx_queues,
        ..
    } = probe;
    let driver = probe.driver.as_deref().unwrap_or("unknown");
    let sectors = sectors_per_frame(*mtu_bytes);
    let mut text = format!(
        "{interface}\n  driver       {driver}\n  kernel       {kernel}{}\n",
        kernel_note(kernel)
    );
    let state = if probe.up { "up" } else { "down" };
    let kib = f64::from(sectors) / 2.0;
    let _ = writeln!(
        text,
        "  link         {state}, MTU {mtu_bytes}: {sectors} sectors ({kib} KiB) a request"
    );
    let _ = writeln!(
        text,
        "  queues       {rx_queues} receive, {tx_queues} transmit; {}",
        spread(probe)
    );
    match probe.xdp {
        None => text += "  XDP          unknown: the kernel does not tell before 6.3\n",
        Some(xdp) => {
            let _ = writeln!(
                text,
                "  XDP          native {}, redirect {}, zero-copy {}, multi-buffer {}",
                yes(xdp.basic()),
                yes(xdp.redirect()),
                zero_copy(xdp),
                yes(xdp.multi_buffer())
            );
        }
    }
    if probe.has_program {
        text += "               a program is attached already (xblade's own, if it runs); xblade replaces no other\n";
    }
    let threaded = probe.threaded.map_or("unknown", |on| {
        if on {
            "in kernel threads"
        } else {
            "in soft interrupts"
        }
    });
    let _ = writeln!(text, "  receive work {threaded}");
    let stripped = probe.offload("rx-vlan-hw-parse");
    let vlan = stripped.map_or("unknown whether the NIC strips tags", |on| {
        if on {
            "the NIC strips tags before XDP sees them"
        } else {
            "tags reach XDP"
        }
    });
    let _ = writeln!(text, "  VLAN         {vlan}\n  xblade       {}", mode(probe));
    let advice = advice(probe);
    if advice.is_empty() {
        text += "\nNothing to improve.\n";
    } else {
        text += "\nWhat would help:\n";
    }
    for Advice { why, commands } in advice {
        let _ = writeln!(text, "\n  # {why}");
        for command in commands {
            let _ = writeln!(text, "  {command}");
        }
    }
    text
}

const fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn zero_copy(xdp: XdpFeatures) -> String {
    match (xdp.zero_copy(), xdp.zero_copy_pieces) {
        (false, _) => "no".into(),
        (true, 1) => "yes (of one buffer)".into(),
        (true, pieces) => format!("yes (up to {pieces} buffers a frame)"),
    }
}

fn kernel_note(release: &str) -> String {
    match version(release) {
        Some(version) if version < KERNEL_MIN => {
            format!(": too old, {}.{} is the least", KERNEL_MIN.0, KERNEL_MIN.1)
        }
        Some(version) if version < KERNEL_JUMBO => {
            format!(
                ": no jumbo frames, they need {}.{}",
                KERNEL_JUMBO.0, KERNEL_JUMBO.1
            )
        }
        Some(_) => String::new(),
        None => ": version unknown".to_owned(),
    }
}

/// How AoE frames are spread over receive queues.
fn spread(probe: &Probe) -> &'static str {
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
fn mode(probe: &Probe) -> &'static str {
    let jumbo = probe.mtu_bytes > ONE_CHUNK_MTU;
    if sectors_per_frame(probe.mtu_bytes) == 0 {
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
    fn offload(&self, name: &str) -> Option<bool> {
        Some(self.offloads.as_ref()?.iter().any(|on| on == name))
    }

    /// An offload that is on and can be turned off.
    fn can_turn_off(&self, name: &str) -> bool {
        self.offload(name) == Some(true) && self.switchable.iter().any(|other| other == name)
    }
}

fn advice(probe: &Probe) -> Vec<Advice> {
    let interface = &probe.interface;
    let mut list = Vec::new();
    let mut add = |why, commands: Vec<String>| list.push(Advice { why, commands });
    if !probe.up {
        add(
            "nothing arrives on an interface that is down",
            vec![format!("ip link set {interface} up")],
        );
    }
    let jumbo_works = version(&probe.kernel).is_none_or(|version| version >= (6, 6))
        && probe.xdp.is_none_or(XdpFeatures::multi_buffer);
    if probe.mtu_bytes < JUMBO_MTU && jumbo_works {
        add(
            "17 sectors a request: fewer frames for the same data; switch and initiators must take them, too",
            vec![format!("ip link set {interface} mtu {JUMBO_MTU}")],
        );
    }
    if probe.mtu_bytes > ONE_CHUNK_MTU && !jumbo_works {
        add(
            "this driver or kernel has no jumbo frames with XDP",
            vec![format!("ip link set {interface} mtu 1500")],
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
    if probe.can_turn_off("rx-vlan-hw-parse") {
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
    if probe.threaded == Some(false) && copies {
        add(
            "moves XDP and its copy to a kernel thread: helps where a cpu is free for it, most with jumbo frames",
            vec![format!("echo 1 > /sys/class/net/{interface}/threaded")],
        );
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic() -> Probe {
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
        let report = report(&nic());
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
        let report = report(&probe);
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
    fn what_is_unknown_is_said_to_be() {
        let report = report(&Probe {
            interface: "x".into(),
            ..Probe::default()
        });
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
        let report = report(&probe);
        assert!(
            report.contains("no jumbo frames, they need 6.6") && !report.contains("mtu 9000"),
            "{report}"
        );
    }
}
