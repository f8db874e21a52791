//! The pages about Ceph: a cluster with nothing in it, its administrator, and two gateways that are set up by what the pages say.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aoe_common::Mac;
use lab::ceph::{Ceph, NEEDS};
use lab::container::STEP;
use lab::frame::ata;
use lab::gateways::{Cards, GatewayNet};
use lab::image::stamp;
use lab::initiator::Initiator;
use lab::{Address, Namespace, Request, eventually, needs};

use super::rows::Scene;
use super::scene::Stage;
use super::{boxes, play};

/// Where the monitor is: in the network that the page opens in systemd's unit.
const MONITOR: &str = "10.0.0.1";

/// As the pages say, with `ceph.conf` and the key in their place.
const GATEWAY: &str = "mkdir -p /etc/xblade /run/xblade\ncp page-1.toml /etc/xblade/xblade.toml\nxblade check\nexec xblade daemon";

/// The machines have the keys of the page's first box.
const CLONES: &str = "mkdir -p /etc/xblade /run/xblade /var/lib/xblade/overlays
sed -n '/^.*machine/,$p' page-1.toml >machines
cat page-2.toml machines >/etc/xblade/xblade.toml
xblade check
exec xblade daemon";

/// The pages' own cards: a gateway has `eth1` to the initiators, and `eth0` to Ceph.
const CARDS: Cards = Cards {
    initiators: "eth1",
    macs: [
        Mac([0x0c, 0xc4, 0x7a, 0, 0, 0x0a]),
        Mac([0x0c, 0xc4, 0x7a, 0, 0, 0x0b]),
    ],
    ceph: "eth0",
    network: "10.0.0",
};

/// A machine with Ceph's configuration file as clients have it, and a key.
fn machine(namespace: &Namespace, conf: &str, key: Option<&Path>) -> Result<Stage> {
    let stage = Stage::new(namespace)?;
    stage.write("/etc/ceph/ceph.conf", conf)?;
    if let Some(key) = key {
        let text = fs::read_to_string(key).with_context(|| format!("reading {}", key.display()))?;
        stage.write("/etc/ceph/ceph.client.admin.keyring", &text)?;
    }
    Ok(stage)
}

/// One sector written by a machine with this address.
fn writes(initiator: &Initiator, address: Address, src: Mac) -> Result<()> {
    let to = initiator.find(address)?.mac;
    let write = Request::ata(to, address, ata::WRITE_EXT, 7, 1, &stamp(7));
    let reply = initiator.ask(Request { src, ..write })?;
    ensure!(reply.error == 0 && reply.status() & 1 == 0, "{reply:?}");
    Ok(())
}

#[test]
fn what_is_typed_about_ceph_and_two_gateways() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let net = GatewayNet::new(&CARDS)?;
    let cluster = Ceph::start_empty_with_keys(&net.hub, MONITOR)?;
    let conf = format!("[global]\nmon_host = [v2:{MONITOR}:3300,v1:{MONITOR}:6789]\n");
    let administrator = machine(&net.hub, &conf, Some(&cluster.path("keyring")))?;
    play(Scene::CephAdministrator, &administrator)?;
    // It lies where the box was typed.
    let key = administrator.output("cat /book/*/ceph.client.xblade.keyring")?;
    let gateway = |number: usize| -> Result<Stage> {
        let stage = machine(&net.gateways[number].namespace, &conf, None)?;
        stage.write("/etc/ceph/ceph.client.xblade.keyring", &key)?;
        Ok(stage)
    };
    let (a, b) = (gateway(0)?, gateway(1)?);
    play(Scene::CephClient, &a)?;
    two_gateways(&net, &a, &b)?;

    let _daemon = a.begin("docs/one-image.md", CLONES, &["e12.9 ready on eth1"])?;
    let initiator = net.initiator()?;
    writes(&initiator, Address::new(12, 9), Mac([0x52, 0x54, 0, 0xae, 0, 1]))?;
    let images = cluster.rbd(&net.hub, "ls")?;
    ensure!(images.contains("debian12.12.9.machine-pc17"), "{images}");
    Ok(())
}

fn two_gateways(net: &GatewayNet, a: &Stage, b: &Stage) -> Result<()> {
    let page = "docs/failover.md";
    let first = a.begin(page, GATEWAY, &["san1: ACTIVE", "e1.1 ready on eth1"])?;
    let second = b.begin(page, GATEWAY, &["standing by"])?;
    let all = boxes::all()?;
    let status = all
        .iter()
        .find(|found| found.page == page && found.lines[0] == "xblade failover status")
        .context("no box that asks for the group")?
        .lines
        .join("\n");
    let initiator = net.initiator()?;
    initiator.find(Address::new(1, 1))?.write(7, &stamp(7))?;
    eventually("one is active, and the other one hears it", STEP, || {
        let shows = |stage: &Stage, word: &str| Ok::<_, anyhow::Error>(stage.output(&status)?.contains(word));
        Ok(shows(a, "ACTIVE")? && shows(b, "standby")?)
    })?;
    play(Scene::StandbyGateway, b)?;
    // It was released, and taken by the other one.
    let read = initiator.find(Address::new(1, 1))?.read(7, 1)?;
    ensure!(read == stamp(7), "what was written is not there");
    second.stop()?;
    first.stop()
}
