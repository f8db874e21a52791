//! Images in Ceph as exports, on a small cluster of our own: what an initiator sees, also when Ceph stalls, forgets the image or shuts
//! xblade out.

mod clones;
mod keys;
mod model;
mod operators;
mod two_osds;

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::ceph::{Ceph, NEEDS};
use lab::frame::ata;
use lab::image::SECTOR;
use lab::link::target_mac;
use lab::seed;
use lab::target::daemon;
use lab::writer::{Options, Writer};
use lab::{Address, Lab, Namespace, Target, eventually, needs, used_at_random};
use nix::sys::signal::Signal;

const ADDRESS: Address = Address::new(1, 1);
/// Long enough for Ceph to give up a client that died, and for the pauses between tries.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Sectors of an image of the tests: 64 MiB.
const SECTORS: u64 = 64 << 11;
/// Sectors of one of Ceph's objects, which an image consists of: 4 MiB.
const OBJECT: u64 = 4 << 11;

/// A cluster and what is to be connected to it.
struct Site {
    // Dropped in this order.
    ceph: Ceph,
    lab: Lab,
}

impl Site {
    /// With an image `rbd/vm`.
    fn new() -> Result<Site> {
        Site::on(Ceph::start)
    }

    fn on(start: impl FnOnce(&Namespace) -> Result<Ceph>) -> Result<Site> {
        let lab = Lab::new(lab::Options {
            mtu: 9000,
            links: 2,
            ..Default::default()
        })?;
        let ceph = start(&lab.target)?;
        let site = Site { ceph, lab };
        site.rbd("create --size 64M rbd/vm")?;
        Ok(site)
    }

    fn rbd(&self, words: &str) -> Result<String> {
        self.ceph.rbd(&self.lab.target, words)
    }

    /// Starts `serve` on an interface and does not wait.
    fn serve(&self, interface: &str, path: &str, more: &[&str]) -> Result<Target> {
        let conf = self.ceph.conf();
        let words = ["serve", "1", "1", interface, path, "--ceph-conf", &conf];
        Target::start(&self.lab.target, &[&words[..], more].concat())
    }

    fn ready(&self, interface: &str, path: &str) -> Result<Target> {
        let mut target = self.serve(interface, path, &[])?;
        target.wait_ready(0, 1)?;
        Ok(target)
    }

    /// A daemon with these images of the pool as its exports, all through one client.
    fn daemon(&self, images: &[&str]) -> Result<Target> {
        self.daemon_with("", images)
    }

    /// The same with more under `[ceph]`.
    fn daemon_with(&self, ceph: &str, images: &[&str]) -> Result<Target> {
        let mut text = format!(
            "[ceph]\nconf = {:?}\n{ceph}[defaults]\ninterfaces = [\"eth0\"]\n",
            self.ceph.conf()
        );
        for (image, slot) in images.iter().zip(1..) {
            writeln!(
                text,
                "[[export]]\nshelf = 1\nslot = {slot}\npath = \"rbd:rbd/{image}\""
            )?;
        }
        fs::write(self.ceph.path("xblade.toml"), text)?;
        Target::start(&self.lab.target, &daemon(self.ceph.directory())?)
    }

    fn writer(&self) -> Result<Writer> {
        Ok(Writer::new(
            self.lab.open(0)?,
            Options {
                seed: seed(),
                address: ADDRESS,
                target: target_mac(0),
                sectors: 1024,
                per_write: 8,
                depth: 16,
                patience: Duration::from_millis(200),
            },
        ))
    }

    /// Has Ceph shut out whoever has the image open.
    fn shut_out(&self) -> Result<()> {
        let watchers = self.ceph.watchers(&self.lab.target, "rbd/vm")?;
        ensure!(watchers.len() == 1, "{watchers:?}");
        let words = format!("osd blocklist add {}", watchers[0]);
        self.ceph.ceph(&self.lab.target, &words).map(drop)
    }
}

fn said(target: &Target, words: &[&str]) -> Result<String> {
    let output = target.ask(words)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn an_image_is_a_disk() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let mut target = site.ready("eth0", "rbd:rbd/vm")?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(ADDRESS)?;
    ensure!(disk.identify()?.sectors() == SECTORS);
    let model = used_at_random(&disk, SECTORS, OBJECT, 600)?;
    let zeroes = disk.identify()?.words[69];
    ensure!(
        zeroes & 1 << 5 != 0 && zeroes & 1 << 14 != 0,
        "zeros after TRIM are promised: {zeroes:#x}"
    );
    // READ VERIFY of all of it, 32 MiB at a time.
    for lba in [0, SECTORS / 2] {
        let reply = disk.ata(0x42, lba, 0, &[])?;
        ensure!(
            reply.aoe_error().is_none() && reply.status() & 1 == 0,
            "{reply:?}"
        );
    }
    ensure!(
        said(&target, &["ls"])?.is_empty(),
        "serve has no control socket here"
    );
    ensure!(target.process.stop()? == 0);
    let copy = site.ceph.path("copy");
    site.rbd(&format!("export --no-progress rbd/vm {}", copy.display()))?;
    ensure!(fs::read(&copy)? == model, "the image at the end");
    ensure!(
        site.ceph.watchers(&site.lab.target, "rbd/vm")?.is_empty(),
        "it was let go of"
    );
    Ok(())
}

#[test]
fn an_image_that_grows_is_served_as_it_is_and_a_snapshot_as_it_was() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let target = site.daemon(&["vm"])?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(ADDRESS)?;
    disk.write(5, &[1; SECTOR])?;
    site.rbd("snap create --no-progress rbd/vm@before")?;
    disk.write(5, &[2; SECTOR])?;
    site.rbd("resize --no-progress --size 96M rbd/vm")?;
    eventually("the new size", TIMEOUT, || {
        Ok(disk.identify()?.sectors() == SECTORS * 3 / 2)
    })?;
    disk.write(SECTORS + 7, &[3; SECTOR])?;
    ensure!(disk.read(SECTORS + 7, 1)? == [3; SECTOR]);
    let listed = said(&target, &["ls"])?;
    let line = listed
        .lines()
        .find(|line| line.contains("e1.1"))
        .unwrap_or_default();
    ensure!(
        ["ready", "96 MiB", "rbd", "rbd:rbd/vm"]
            .iter()
            .all(|word| line.contains(word)),
        "{listed}"
    );

    let _snapshot = site.ready("eth1", "rbd:rbd/vm@before")?;
    let other = site.lab.open(1)?;
    let before = other.find(ADDRESS)?;
    ensure!(before.identify()?.sectors() == SECTORS);
    ensure!(before.read(5, 1)? == [1; SECTOR] && disk.read(5, 1)? == [2; SECTOR]);
    let refused = before.ata(ata::WRITE_EXT, 5, 1, &[9; SECTOR])?;
    ensure!(refused.status() & 1 != 0, "{refused:?}");
    Ok(())
}

#[test]
fn an_image_has_one_writer_and_the_next_one_waits_for_it() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let mut first = site.ready("eth0", "rbd:rbd/vm")?;
    let mut writer = site.writer()?;
    writer.run_till(200, TIMEOUT)?;
    let mut second = site.serve("eth1", "rbd:rbd/vm", &[])?;
    second
        .process
        .wait_for("rbd:rbd/vm: in use by 127.0.0.1:", TIMEOUT)?;
    ensure!(second.process.wait(TIMEOUT)?.code() == Some(1));
    writer.run_till(200, TIMEOUT)?;

    // One that waits, as a daemon does.
    let mut waiting = site.serve("eth1", "rbd:rbd/vm", &["--wait"])?;
    waiting.process.wait_for("in use by 127.0.0.1:", TIMEOUT)?;
    first.process.kill()?;
    writer.drain()?;
    waiting.wait_ready(0, 1)?;
    let initiator = site.lab.open(1)?;
    let disk = initiator.find(ADDRESS)?;
    writer.judge(|lba| disk.read(lba, 1))?.nothing_lost()
}

#[test]
fn whoever_is_shut_out_is_silent_and_opens_the_image_anew() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    site.rbd("create --size 64M rbd/other")?;
    let mut target = site.daemon(&["vm", "other"])?;
    target.wait_ready(0, 2)?;
    let mut writer = site.writer()?;
    for round in 0..3 {
        writer.run_till(100, TIMEOUT)?;
        let mark = target.process.mark();
        if round == 2 {
            // Nobody asks for anything: found out all the same.
            writer.settle(TIMEOUT)?;
        }
        site.shut_out()?;
        // The other export belongs to the same client.
        for address in ["e1.1", "e1.2"] {
            let fenced =
                |line: &str| line.contains(address) && line.contains("FENCED, silent until it is open again");
            let open = |line: &str| line.contains(address) && line.contains("open now, after");
            let (at, _) = target.process.wait_for_after(mark, fenced, TIMEOUT)?;
            target.process.wait_for_after(at, open, TIMEOUT)?;
            if round < 2 {
                // The writer takes no error for an answer.
                writer.run_till(100, TIMEOUT)?;
            }
        }
        let listed = said(&target, &["ls"])?;
        ensure!(!listed.contains("FAILED"), "{listed}");
    }
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;
    let initiator = site.lab.open(0)?;
    initiator.find(Address::new(1, 2))?.write(5, &[1; SECTOR])
}

#[test]
fn while_ceph_stalls_nobody_is_told_an_error() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let mut site = Site::new()?;
    let mut target = site.ready("eth0", "rbd:rbd/vm")?;
    let mut writer = site.writer()?;
    writer.run_till(200, TIMEOUT)?;
    site.ceph.osd().signal(Signal::SIGSTOP)?;
    // What is under way gets stuck; what comes meanwhile, too. An error would end the writer.
    writer.run_for(Duration::from_secs(8))?;
    let stuck = writer.acknowledged;
    writer.run_for(Duration::from_secs(1))?;
    ensure!(
        writer.acknowledged == stuck,
        "{stuck} writes were acknowledged without a disk"
    );
    site.ceph.osd().signal(Signal::SIGCONT)?;
    writer.run_till(200, TIMEOUT)?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;
    ensure!(target.process.is_running());

    // An end does not wait for a cluster that does not answer.
    site.ceph.osd().signal(Signal::SIGSTOP)?;
    writer.run_for(Duration::from_millis(500))?;
    target.process.signal(Signal::SIGTERM)?;
    let ended = target.process.wait(Duration::from_secs(20));
    target
        .process
        .wait_for("left behind: e1.1: rbd:rbd/vm has not answered yet", TIMEOUT)?;
    site.ceph.osd().signal(Signal::SIGCONT)?;
    ensure!(ended?.code() == Some(1), "it says that it left something behind");
    Ok(())
}

#[test]
fn an_osd_that_is_killed_loses_nothing_and_nobody_is_told_an_error() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let mut site = Site::on(Ceph::start_on_disk)?;
    let _target = site.ready("eth0", "rbd:rbd/vm")?;
    let mut writer = site.writer()?;
    for _ in 0..3 {
        writer.run_till(200, TIMEOUT)?;
        let Site { ceph, lab } = &mut site;
        ceph.kill_osd(&lab.target, || writer.run_for(Duration::from_secs(2)))?;
    }
    writer.run_till(200, TIMEOUT)?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()
}

#[test]
fn an_image_that_is_gone_is_served_no_more_until_it_is_back() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    site.ceph.pool(&site.lab.target, "other")?;
    site.rbd("create --size 64M other/vm")?;
    let mut target = site.ready("eth0", "rbd:other/vm")?;
    let initiator = site.lab.open(0)?;
    initiator.find(ADDRESS)?.write(5, &[1; SECTOR])?;
    // `rbd rm` would refuse: the image is in use.
    let mark = target.process.mark();
    site.ceph.ceph(
        &site.lab.target,
        "osd pool delete other other --yes-i-really-really-mean-it",
    )?;
    let failed = |line: &str| line.contains("FAILED") && line.contains("there is no pool other");
    let (mark, _) = target.process.wait_for_after(mark, failed, TIMEOUT)?;
    site.ceph.pool(&site.lab.target, "other")?;
    site.rbd("create --size 64M other/vm")?;
    target.wait_ready(mark, 1)?;
    ensure!(initiator.find(ADDRESS)?.read(5, 1)? == [0; SECTOR]);
    Ok(())
}

#[test]
fn what_is_wrong_is_said_with_its_place() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    site.rbd("create --size 64M --image-feature layering rbd/plain")?;
    let conf = site.ceph.conf();
    let config = site.ceph.path("check.toml");
    let check = |path: &str, variables: &[(&str, &str)]| -> Result<String> {
        let text = format!(
            "[ceph]\nconf = {conf:?}\n[[export]]\nshelf = 1\nslot = 1\npath = \"{path}\"\ninterfaces = [\"eth0\"]\nstore = \"rbd\"\n"
        );
        fs::write(&config, text)?;
        let mut command = std::process::Command::new(lab::target::binary()?);
        command.args(["check", "--config"]).arg(&config);
        command.envs(variables.iter().copied());
        let output = site.lab.target.run(move || command.output())?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let good = check("rbd:rbd/vm", &[])?;
    ensure!(good.contains("64 MiB") && good.contains("rbd:rbd/vm"), "{good}");
    for (path, place, what) in [
        (
            "rbd:rbd/none",
            ":6:8: ",
            "there is no image rbd/none; `rbd create --size SIZE rbd/none` makes one",
        ),
        ("rbd:none/vm", ":6:8: ", "there is no pool none"),
        (
            "rbd:rbd/vm@none",
            ":6:8: ",
            "there is no snapshot none of an image rbd/vm",
        ),
        ("rbd:vm", ":6:8: ", "an image in Ceph is rbd:POOL/IMAGE"),
        ("vm", ":6:8: ", "an image in Ceph is rbd:POOL/IMAGE"),
    ] {
        let bad = check(path, &[])?;
        ensure!(bad.contains(place) && bad.contains(what), "{path}: {bad}");
    }
    // A library that is none.
    let folder = site.ceph.path("libraries");
    fs::create_dir(&folder)?;
    fs::write(folder.join("librbd.so.1"), "no library")?;
    let missing = check(
        "rbd:rbd/vm",
        &[("LD_LIBRARY_PATH", folder.to_str().context("odd path")?)],
    )?;
    ensure!(
        missing.contains(":8:9: rbd:rbd/vm: librbd.so.1 cannot be loaded")
            && missing.contains("package librbd1"),
        "{missing}"
    );
    let mut plain = site.serve("eth0", "rbd:rbd/plain", &[])?;
    plain
        .process
        .wait_for("`rbd feature enable rbd/plain exclusive-lock`", TIMEOUT)?;
    site.rbd("config image set rbd/vm rbd_cache true")?;
    let mut cached = site.serve("eth0", "rbd:rbd/vm", &[])?;
    cached.process.wait_for("rbd_cache must be false", TIMEOUT)?;
    Ok(())
}
