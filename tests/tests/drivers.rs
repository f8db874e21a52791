//! Drivers of real network cards, as QEMU emulates these: xblade in a guest, its initiators outside.
//!
//! For each card: the mode that it must get at each MTU, so that none falls to generic XDP in silence, with verified reads and
//! writes of 1 sector, 2 and as many as fit; and what happens to cards while they are used.

mod events;
mod traffic;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use events::Event;
use lab::needs::Need;
use lab::vm::kernel::Kernel;
use lab::vm::machine::{Machine, Shell, mac};
use lab::vm::qemu;
use lab::{Address, Namespace, needs};
use serde_json::Value;
use traffic::Traffic;

const EXPORT: Address = Address::new(7, 3);

/// What a card and its driver give.
struct Card {
    /// As QEMU calls it, with its properties.
    device: &'static str,
    /// Kernel modules.
    modules: &'static [&'static str],
    queues: usize,
    /// Queues of the cable, where the card has as many as that.
    cable_queues: usize,
    /// MTU, mode and sectors of a request.
    modes: &'static [(u32, &'static str, u8)],
    /// What happens to it at the first of them: what every driver knows, and more.
    common: &'static [Event],
    events: &'static [Event],
    /// The mode that is asked for when it gets more queues while it is served. The kernel takes none away while they have sockets, in any mode.
    grows: Option<&'static str>,
    /// What happens to it in generic mode, of which its driver knows nothing, and the queues that it has then.
    generic: &'static [(Event, usize)],
}

const CARD: Card = Card {
    device: "",
    modules: &[],
    queues: 1,
    cable_queues: 1,
    modes: &[],
    common: events::OF_ALL_CARDS,
    events: &[],
    grows: None,
    generic: &[],
};

const FEWER: &[(Event, usize)] = &[(Event::Refused("ethtool -L eth0 combined 1"), 2)];

const ZERO_COPY: &str = "native zero-copy";
const NATIVE: &str = "native copy";
const GENERIC: &str = "generic copy";

#[test]
fn igb() -> Result<()> {
    through_all(&Card {
        device: "igb",
        modules: &["igb"],
        queues: 2,
        // 2 KiB chunks had cut what is longer than 1024 bytes, which is every write of two sectors.
        modes: &[(1500, ZERO_COPY, 2), (3046, ZERO_COPY, 5), (9000, GENERIC, 17)],
        events: &[
            Event::Command("ethtool -G eth0 rx 512 tx 512"),
            Event::Command("ethtool -r eth0"),
            Event::Refused("ethtool -L eth0 combined 1"),
            Event::Refused("ip link set eth0 mtu 3046"),
        ],
        grows: Some("auto"),
        generic: FEWER,
        ..CARD
    })
}

#[test]
fn vmxnet3() -> Result<()> {
    through_all(&Card {
        device: "vmxnet3",
        queues: 2,
        // It takes a program up to 3494, and frames of more than 3072 bytes would go past it. The emulation counts those of two
        // buffers as errors, so that none is sent there.
        modes: &[
            (1500, NATIVE, 2),
            (3050, NATIVE, 5),
            (3494, GENERIC, 5),
            (9000, GENERIC, 5),
        ],
        // Its driver forgets the program with its rings. With another MTU, and as a new interface, xblade opens it anew anyway.
        modules: &["vmxnet3", "af_packet"],
        common: &[
            Event::Cable,
            Event::Deafens(events::SET_DOWN_AND_UP),
            events::OTHER_MTU,
            Event::Deafens(events::SHAKEN),
            events::UNBIND,
        ],
        events: &[
            Event::Deafens("ethtool -G eth0 rx 512 tx 512"),
            Event::Refused("ethtool -L eth0 combined 1"),
            Event::Refused("ethtool -r eth0"),
        ],
        generic: &[
            (events::DOWN_AND_UP, 2),
            (events::OTHER_MTU, 2),
            (Event::Command("ethtool -G eth0 rx 512 tx 512"), 2),
        ],
        ..CARD
    })
}

/// It gives its queues to AF_XDP only where it may map memory for the device by itself (`iommu_platform`) and can restart a queue
/// alone (`queue_reset`).
#[test]
fn virtio_net() -> Result<()> {
    through_all(&Card {
        device: "virtio-net-pci,disable-legacy=on,iommu_platform=on,queue_reset=on,mq=on,vectors=10,host_mtu=9000",
        modules: &["virtio_pci", "virtio_net"],
        queues: 2,
        cable_queues: 2,
        modes: &[(1500, ZERO_COPY, 2), (3046, ZERO_COPY, 5), (9000, NATIVE, 17)],
        events: &[
            Event::Command("ethtool -G eth0 rx 128 tx 128"),
            Event::Refused("ethtool -L eth0 combined 1"),
            Event::Refused("ethtool -r eth0"),
        ],
        // With a native program it takes no change of them, and in generic mode tells nobody.
        grows: Some("skb"),
        generic: FEWER,
        ..CARD
    })
}

#[test]
fn e1000e() -> Result<()> {
    through_all(&Card {
        device: "e1000e",
        modules: &["e1000e"],
        modes: &[(1500, GENERIC, 2), (9000, GENERIC, 17)],
        events: &[
            Event::Command("ethtool -G eth0 rx 512 tx 512"),
            Event::Command("ethtool -r eth0"),
            Event::Refused("ethtool -L eth0 combined 2"),
        ],
        ..CARD
    })
}

/// Boots a guest with the card, and serves and uses an export through all of it.
fn through_all(card: &Card) -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::Tool("ethtool"),
        Need::Tool("xz"),
        Need::File("/bin/busybox")
    );
    let start = Instant::now();
    qemu::ensure()?;
    let namespace = Namespace::new("outside")?;
    let xblade = lab::target::binary()?;
    let (name, properties) = card.device.split_once(',').unwrap_or((card.device, ""));
    let device = format!("{name},netdev=net0,id=card0,mac={},romfile=,{properties}", mac(0));
    let machine = Machine {
        kernel: Kernel::with_all_drivers().context("a kernel with this card's driver")?,
        modules: card.modules,
        programs: &["ip", "ethtool"],
        files: &[],
        xblade: Path::new(&xblade),
        devices: &[device.trim_end_matches(',').to_owned()],
        cables: 1,
        queues: card.cable_queues,
    };
    let mut shell = machine.boot(&namespace)?;
    println!("booted after {:?}", start.elapsed());
    let result = served(card, &mut shell, &namespace);
    if result.is_err() {
        // Where frames stay: with the interface, its queues, the program, or on this side of the cable.
        shell.run(
            "cat /tmp/log; dmesg | tail -n 20; cat /proc/interrupts; ip -s link; ethtool -S eth0; \
             /opt/xblade metrics --control /tmp/control",
        )?;
        println!("{}", namespace.ip("-s link show tap0")?);
    }
    println!("done after {:?}", start.elapsed());
    result
}

fn served(card: &Card, shell: &mut Shell, namespace: &Namespace) -> Result<()> {
    shell.must("ethtool -i eth0; ethtool -l eth0; ethtool -g eth0; true")?;
    shell.must("truncate -s 1M /tmp/image")?;
    let mut traffic = Traffic::start(namespace, "tap0", mac(0), EXPORT, 2)?;
    for &(mtu, mode, most) in card.modes {
        // Requests of the size before go on meanwhile, and are sent again.
        serve_at(shell, mtu, "auto")?;
        expect(card.queues, shell, mtu, mode)?;
        traffic.set_most(most);
        traffic.goes_on()?;
    }
    is_not_steered(shell)?;
    let (mtu, mode, most) = card.modes[0];
    traffic.set_most(most);
    // A larger request that is under way would never be answered.
    traffic.goes_on()?;
    serve_at(shell, mtu, "auto")?;
    for event in card.common.iter().chain(card.events) {
        through(*event, shell, &mut traffic, (card.queues, mtu, mode))?;
    }
    was_deaf(shell, card.common.iter().chain(card.events))?;
    if let Some(asked) = card.grows {
        let mode = if asked == "skb" { GENERIC } else { mode };
        shell.must("kill $xblade; wait $xblade; xblade=")?;
        shell.must("ethtool -L eth0 combined 1")?;
        serve_at(shell, mtu, asked)?;
        expect(1, shell, mtu, mode)?;
        shell.must(&format!("ethtool -L eth0 combined {}", card.queues))?;
        traffic.goes_on().context("with more queues")?;
        expect(card.queues, shell, mtu, mode)?;
    }
    if !card.generic.is_empty() {
        serve_at(shell, mtu, "skb")?;
    }
    for &(event, queues) in card.generic {
        through(event, shell, &mut traffic, (queues, mtu, GENERIC))?;
    }
    let (requests, again) = traffic.stop()?;
    println!("{requests} requests held, {again} sent again");
    Ok(())
}

/// Something happens to the card, and it is served on: with so many queues, at this MTU, in this mode.
fn through(
    event: Event,
    shell: &mut Shell,
    traffic: &mut Traffic,
    (queues, mtu, mode): (usize, u32, &str),
) -> Result<()> {
    let start = Instant::now();
    event.happen(shell).with_context(|| format!("{event:?}"))?;
    traffic.goes_on().with_context(|| format!("after {event:?}"))?;
    expect(queues, shell, mtu, mode).with_context(|| format!("after {event:?}"))?;
    println!("{:?}: {event:?}", start.elapsed());
    Ok(())
}

/// The metric counts what the driver did to the program, and nothing else that happened: frames that a card receives at such a time and the filter
/// does not see are no fault.
fn was_deaf<'a>(shell: &mut Shell, mut events: impl Iterator<Item = &'a Event>) -> Result<()> {
    const NAME: &str = "xblade_interface_deaf_total{interface=\"eth0\"} ";
    let metrics = shell.must("/opt/xblade metrics --control /tmp/control")?;
    let counted = metrics.lines().find_map(|line| line.strip_prefix(NAME));
    let times: u64 = counted.context("no such metric")?.parse()?;
    let loses = events.any(|event| matches!(event, Event::Deafens(_)));
    ensure!(loses == (times > 0), "{times} times deaf");
    Ok(())
}

/// No emulated card spreads AoE over its queues: the doctor says so, and leaves it as it is.
fn is_not_steered(shell: &mut Shell) -> Result<()> {
    let (code, said) = shell.run("/opt/xblade doctor eth0 --steer 02:00:00:00:00:0a --apply 2>&1")?;
    let is_told = said.contains("does not spread AoE") || said.contains("has one receive queue");
    ensure!(code == 1 && is_told, "{said}");
    Ok(())
}

/// Starts xblade at this MTU, in the place of the one before.
fn serve_at(shell: &mut Shell, mtu: u32, mode: &str) -> Result<()> {
    shell.must("[ -z \"$xblade\" ] || { kill $xblade; wait $xblade; }")?;
    shell.must(&format!("ip link set eth0 mtu {mtu}"))?;
    shell.must(&format!(
        "/opt/xblade serve --mode {mode} --control /tmp/control 7 3 eth0 /tmp/image >/tmp/log 2>&1 & xblade=$!"
    ))?;
    shell.until("grep ' ready on ' /tmp/log", |line| !line.is_empty())?;
    Ok(())
}

/// Waits till all queues of the interface are served at this MTU, and looks at the mode.
fn expect(queues: usize, shell: &mut Shell, mtu: u32, mode: &str) -> Result<()> {
    let word = if queues == 1 { "queue" } else { "queues" };
    let wanted = format!("{queues} {word}, MTU {mtu},");
    let line = shell.until("grep ' ready on ' /tmp/log | tail -n 1", |line| {
        line.contains(&wanted)
    })?;
    ensure!(line.contains(&format!(": {mode}, ")), "not {mode}: {line}");
    let interface = |said: &str| -> Option<Value> {
        let mut status: Value = serde_json::from_str(said).ok()?;
        Some(status["interfaces"][0].take()).filter(|interface| interface["state"] == "ready")
    };
    let said = shell.until("/opt/xblade status --json --control /tmp/control", |said| {
        interface(said).is_some()
    })?;
    let interface = interface(&said).context("no interface")?;
    ensure!(interface["mode"] == mode, "not {mode}: eth0");
    Ok(())
}
