//! Two gateways, a Ceph cluster and an initiator, each in a namespace of its own, around one switch.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::ceph::Ceph;
use lab::gateways::{Cards, GatewayNet};
use lab::writer::{Options, Writer};
use lab::{Address, Process, Target, eventually, seed};

pub(super) const ADDRESS: Address = Address::new(1, 1);
/// What the group is served under.
pub(super) const GROUP: Mac = Mac([2, 0x78, 0x62, 0, 0, 1]);
/// Long enough for a busy machine; a take-over takes some four seconds.
pub(super) const TIMEOUT: Duration = Duration::from_secs(90);
/// Sectors that are written to.
pub(super) const SECTORS: u64 = 1024;

/// The network, a cluster, and an image `rbd/vm` in it.
pub(super) struct Site {
    // Dropped in this order.
    ceph: Ceph,
    pub net: GatewayNet,
}

/// The address of a gateway's card.
pub(super) fn own_mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, 0x0a + number])
}

impl Site {
    pub(super) fn new() -> Result<Site> {
        let net = network()?;
        let ceph = Ceph::start_at(&net.hub, "10.77.0.1")?;
        ceph.rbd(&net.hub, "create --size 64M rbd/vm")?;
        Ok(Site { ceph, net })
    }

    /// Whether the card of a gateway takes frames to the group's address.
    pub(super) fn takes_group_address(&self, number: usize) -> Result<bool> {
        let mut show = Command::new("bridge");
        show.args(["fdb", "show", "dev", "eth0"]);
        let shown = self.net.gateways[number].namespace.output(show)?;
        Ok(shown.contains(&GROUP.to_string()))
    }

    /// Starts a gateway's daemon with the image in the group `san1`.
    pub(super) fn start(&self, number: usize) -> Result<Target> {
        self.net.gateways[number].start(&self.config(""))
    }

    /// The gateways' configuration, with more for the export.
    pub(super) fn config(&self, export: &str) -> String {
        format!(
            "[ceph]\nconf = {:?}\n[[failover]]\nname = \"san1\"\nmac = \"{GROUP}\"\npeers = [\"{}\", \"{}\"]\n[[export]]\nshelf = 1\n\
             slot = 1\npath = \"rbd:rbd/vm\"\ninterfaces = [\"eth0\"]\nfailover = \"san1\"\n{export}",
            self.ceph.conf(),
            own_mac(0),
            own_mac(1)
        )
    }

    /// Has `ceph` do something.
    pub(super) fn ceph(&self, words: &str) -> Result<String> {
        self.ceph.ceph(&self.net.hub, words)
    }

    /// Has `rbd` do something.
    pub(super) fn rbd(&self, arguments: &str) -> Result<String> {
        self.ceph.rbd(&self.net.hub, arguments)
    }

    /// Makes an image `rbd/plain` that has no lock, and of which no client caches anything.
    pub(super) fn make_plain_image(&self) -> Result<()> {
        let words = "create --size 64M --image-feature layering rbd/plain";
        self.ceph.rbd(&self.net.hub, words)?;
        let words = "config image set rbd/plain rbd_cache false";
        self.ceph.rbd(&self.net.hub, words).map(drop)
    }

    /// Makes the image larger.
    pub(super) fn resize(&self, mebibytes: u64) -> Result<()> {
        let words = format!("resize --no-progress --size {mebibytes}M rbd/vm");
        self.ceph.rbd(&self.net.hub, &words).map(drop)
    }

    /// Ceph's configuration file.
    pub(super) fn conf(&self) -> String {
        self.ceph.conf()
    }

    /// Removes the image's lock, as an administrator may.
    pub(super) fn remove_lock(&self) -> Result<()> {
        let locks = self.ceph.rbd(&self.net.hub, "lock ls rbd/vm")?;
        // The locker, the lock's name of two words, an address.
        let row = locks.lines().find(|line| line.starts_with("client."));
        let words: Vec<&str> = row.context("no lock")?.split_whitespace().collect();
        ensure!(words.len() == 4, "{locks}");
        let mut remove = Command::new("timeout");
        remove.arg("60").args(lab::ceph::words_of("rbd"));
        remove.args(["-c", &self.ceph.conf(), "lock", "rm", "rbd/vm"]);
        remove.arg(words[1..3].join(" ")).arg(words[0]);
        self.net.hub.output(remove).map(drop)
    }

    /// The monitor.
    pub(super) fn monitor(&mut self) -> &mut Process {
        self.ceph.monitor()
    }

    /// The OSD.
    pub(super) fn osd(&mut self) -> &mut Process {
        self.ceph.osd()
    }
}

/// A gateway has `eth0` to the initiators and `eth1` to Ceph.
pub(super) fn network() -> Result<GatewayNet> {
    GatewayNet::new(&Cards {
        initiators: "eth0",
        macs: [own_mac(0), own_mac(1)],
        ceph: "eth1",
        network: "10.77.0",
    })
}

/// Writes to the group's address.
pub(super) fn writer(net: &GatewayNet) -> Result<Writer> {
    let options = Options {
        seed: seed(),
        address: ADDRESS,
        target: GROUP,
        sectors: SECTORS,
        per_write: 2,
        depth: 8,
        patience: Duration::from_millis(200),
    };
    Ok(Writer::new(net.initiator()?, options))
}

/// What a gateway does for the group, and the reason it gives.
pub(super) fn role(target: &Target) -> Result<(String, String)> {
    let output = target.ask(&["failover", "status", "--json"])?;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let group = &value["groups"][0];
    let text = |key: &str| group[key].as_str().unwrap_or_default().to_owned();
    Ok((text("role"), text("reason")))
}

/// Waits until a gateway does this for the group.
pub(super) fn wait_for_role(target: &Target, wanted: &str) -> Result<()> {
    eventually(&format!("a gateway that is {wanted}"), TIMEOUT, || {
        // Its socket may not be there yet.
        Ok(role(target).is_ok_and(|(role, _)| role == wanted))
    })
}

/// Ends a gateway in an orderly way.
pub(super) fn stop(mut target: Target) -> Result<()> {
    ensure!(target.process.stop()? == 0, "{}", target.process.log());
    Ok(())
}
