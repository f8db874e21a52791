//! Two gateways between initiators and Ceph, each in a namespace of its own.

use std::fs;
use std::process::Command;

use anyhow::Result;
use aoe_common::Mac;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::target::{START, binary, daemon};
use crate::{Initiator, Namespace, Target};

/// What the gateways' cards are called, and their addresses.
#[derive(Debug, Clone, Copy)]
pub struct Cards {
    /// The interface to the initiators.
    pub initiators: &'static str,
    /// Its address in each gateway.
    pub macs: [Mac; 2],
    /// The interface to Ceph.
    pub ceph: &'static str,
    /// The first three numbers of the addresses in Ceph's network: .1 is its monitor, .10 and .11 are the gateways.
    pub network: &'static str,
}

/// The gateways, the initiators and what is between them.
#[derive(Debug)]
pub struct GatewayNet {
    /// The switches `lan` and `san`, and Ceph. Gateway `a` is plugged into them by the ports `ga` and `ca`.
    pub hub: Namespace,
    /// `a` and `b`.
    pub gateways: [Gateway; 2],
    /// Where initiators run, behind `eth0`.
    pub initiators: Namespace,
}

/// A gateway's place.
#[derive(Debug)]
pub struct Gateway {
    name: &'static str,
    /// Where its daemon runs.
    pub namespace: Namespace,
    directory: TempDir,
}

impl GatewayNet {
    /// Builds namespaces and links, everything up.
    ///
    /// # Errors
    /// Without root, or without `ip`.
    pub fn new(cards: &Cards) -> Result<GatewayNet> {
        let hub = Namespace::new("hub")?;
        for bridge in ["lan", "san"] {
            hub.ip(&format!("link add {bridge} type bridge"))?;
            hub.ip(&format!("link set {bridge} up"))?;
        }
        hub.ip(&format!("addr add {}.1/24 dev san", cards.network))?;
        let gateways = [
            Gateway::new("a", 0, cards, &hub)?,
            Gateway::new("b", 1, cards, &hub)?,
        ];
        let initiators = Namespace::new("initiators")?;
        plug(
            &hub,
            "lan",
            "i",
            (&initiators, "eth0", Mac([2, 0, 0, 0, 0, 0x64])),
        )?;
        Ok(GatewayNet {
            hub,
            gateways,
            initiators,
        })
    }

    /// Opens a raw initiator.
    ///
    /// # Errors
    /// Without the right to.
    pub fn initiator(&self) -> Result<Initiator> {
        Initiator::open(&self.initiators, "eth0")
    }

    /// Connects a gateway with Ceph, or cuts it off.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn connect_ceph(&self, number: usize, up: bool) -> Result<()> {
        let word = if up { "up" } else { "down" };
        let name = self.gateways[number].name;
        self.hub.ip(&format!("link set c{name} {word}")).map(drop)
    }

    /// Whether gateways hear each other. The initiators reach them all the same.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn connect_gateways(&self, together: bool) -> Result<()> {
        let word = if together { "off" } else { "on" };
        for gateway in &self.gateways {
            let name = gateway.name;
            self.hub
                .ip(&format!("link set g{name} type bridge_slave isolated {word}"))?;
        }
        Ok(())
    }

    /// Connects a gateway with the initiators, or cuts it off: its own card keeps its carrier, as behind another switch.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn connect_initiators(&self, number: usize, up: bool) -> Result<()> {
        let word = if up { "master lan" } else { "nomaster" };
        let name = self.gateways[number].name;
        self.hub.ip(&format!("link set g{name} {word}")).map(drop)
    }
}

impl Gateway {
    fn new(name: &'static str, number: u8, cards: &Cards, hub: &Namespace) -> Result<Gateway> {
        let namespace = Namespace::new(name)?;
        let mac = cards.macs[usize::from(number)];
        plug(
            hub,
            "lan",
            &format!("g{name}"),
            (&namespace, cards.initiators, mac),
        )?;
        let mac = Mac([2, 0, 0, 0, 1, 10 + number]);
        plug(hub, "san", &format!("c{name}"), (&namespace, cards.ceph, mac))?;
        namespace.ip(&format!(
            "addr add {}.{}/24 dev {}",
            cards.network,
            10 + number,
            cards.ceph
        ))?;
        Ok(Gateway {
            name,
            namespace,
            directory: tempfile::Builder::new().prefix("xblade-").tempdir()?,
        })
    }

    /// Starts its daemon with this configuration, and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, config: &str) -> Result<Target> {
        self.configure(config)?;
        Target::start(&self.namespace, &daemon(self.directory.path())?)
    }

    /// What `xblade check` says of its configuration.
    ///
    /// # Errors
    /// When that is refused.
    pub fn check(&self) -> Result<String> {
        let mut check = Command::new("sh");
        check.args(["-c", "exec \"$@\" 2>&1", "sh", &binary()?, "check", "--config"]);
        check.arg(self.directory.path().join("xblade.toml"));
        self.namespace.output(check)
    }

    /// Has its daemon read this configuration, and waits until it has.
    ///
    /// # Errors
    /// When it does not.
    pub fn reload(&self, daemon: &mut Target, config: &str) -> Result<()> {
        self.configure(config)?;
        let mark = daemon.process.mark();
        daemon.process.signal(Signal::SIGHUP)?;
        let is_read = |line: &str| line.contains("was reloaded");
        daemon.process.wait_for_after(mark, is_read, START).map(drop)
    }

    fn configure(&self, config: &str) -> Result<()> {
        Ok(fs::write(self.directory.path().join("xblade.toml"), config)?)
    }
}

/// Makes a port of a bridge of the hub, and the interface at the other end.
fn plug(hub: &Namespace, bridge: &str, port: &str, end: (&Namespace, &str, Mac)) -> Result<()> {
    let (to, interface, mac) = end;
    hub.ip(&format!(
        "link add {port} type veth peer name {interface} address {mac} netns {}",
        to.path()
    ))?;
    hub.ip(&format!("link set {port} master {bridge} up"))?;
    to.ip(&format!("link set {interface} up")).map(drop)
}
