//! Other targets: on this host and on the network, with other addresses and with ours.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::image::stamp;
use lab::needs::Need;
use lab::net::Namespace;
use lab::process::Process;
use lab::{Address, Image, Initiator, Lab, Options, Request, Target, needs, target};
use nix::sys::signal::Signal;

const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
/// Of the bridge that joins two links.
const BRIDGE: Mac = Mac([2, 0, 0, 0, 0, 0xb0]);
/// Far more than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Addresses that answer a query to everybody, once there are so many. (vblade does not pad its answers.)
fn answering(initiator: &Initiator, wanted: usize) -> Result<BTreeSet<(u16, u8)>> {
    let start = Instant::now();
    let mut found = BTreeSet::new();
    while found.len() < wanted && start.elapsed() < LIMIT {
        let mut query = Request::query(Mac::BROADCAST, Address::ALL, 0, b"");
        (query.src, query.tag) = (initiator.mac(), 0x8000_0100);
        initiator.send(&query.bytes())?;
        while let Some(frame) = initiator.receive(Duration::from_millis(300))? {
            if frame[14] & 8 != 0 && frame[20..24] == [0x80, 0, 1, 0] {
                found.insert((u16::from_be_bytes([frame[16], frame[17]]), frame[18]));
            }
        }
    }
    Ok(found)
}

#[test]
fn another_target_on_this_interface_is_discovered_beside() -> Result<()> {
    needs!(Need::Root, Need::Tool("vblade"));
    for mode in ["copy", "skb"] {
        let lab = Lab::new(Options::default())?;
        let (ours, theirs) = (Image::stamped(64)?, Image::stamped(64)?);
        let args = ["serve", "1", "1", "eth0", ours.as_str(), "--mode", mode];
        let _target = Target::ready(&lab.target, &args, 1)?;
        let _vblade = Process::spawn(&lab.target, "vblade", &["1", "2", "eth0", theirs.as_str()])?;
        let initiator = lab.open(0)?;
        let found = answering(&initiator, 2)?;
        ensure!(found == [(1, 1), (1, 2)].into(), "{mode}: {found:?}");
    }
    Ok(())
}

/// Both answer from one address, so that what is heard tells nothing.
#[test]
fn a_target_of_this_host_on_this_interface_is_warned_of() -> Result<()> {
    needs!(Need::Root, Need::Tool("vblade"));
    let lab = Lab::new(Options::default())?;
    let (ours, theirs) = (Image::stamped(64)?, Image::stamped(64)?);
    let vblade = Process::spawn(&lab.target, "vblade", &["1", "2", "eth0", theirs.as_str()])?;
    let who = format!("vblade (pid {})", vblade.pid());
    answering(&lab.open(0)?, 1)?;
    let doctor = || {
        let mut doctor = Command::new(lab::target::binary()?);
        doctor.args(["doctor", "eth0"]);
        lab.target.output(doctor)
    };
    let told = doctor()?;
    ensure!(told.contains(&who), "{told}");
    let mut target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", ours.as_str()], 1)?;
    let line = target.process.wait_for("AoE is also spoken", LIMIT)?;
    ensure!(line.contains(&who) && line.contains("WARN"), "{line}");
    // xblade itself listens there, and is none.
    drop(vblade);
    let told = doctor()?;
    ensure!(!told.contains("also spoken"), "{told}");
    Ok(())
}

#[test]
fn another_target_in_the_same_vlan_is_refused() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (one, two) = (Image::stamped(64)?, Image::stamped(64)?);
    let serve = |image: &'_ Image, vlan: &'static str| {
        ["serve", "1", "1", "eth0", image.as_str(), "--vlan", vlan].map(str::to_owned)
    };
    let first = serve(&one, "5");
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    let _first = Target::ready(&lab.target, &first, 1)?;
    let second = serve(&two, "5");
    let second: Vec<&str> = second.iter().map(String::as_str).collect();
    let mut taken = Target::start(&lab.initiator, &second)?;
    let status = taken.process.wait(lab::target::START)?;
    let log = taken.process.log();
    ensure!(
        !status.success() && log.contains("already served"),
        "{status}: {log}"
    );
    // In another VLAN it is another address.
    drop(taken);
    let other = serve(&two, "6");
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let _other = Target::ready(&lab.initiator, &other, 1)?;
    Ok(())
}

#[test]
fn a_claim_that_does_not_answer_identify_keeps_nothing_down() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let (over, claims) = (Arc::new(AtomicBool::new(false)), lab.open(0)?);
    let stop = Arc::clone(&over);
    let stranger = std::thread::spawn(move || -> Result<usize> {
        let mut claimed = 0;
        while !stop.load(Ordering::Relaxed) {
            let Some(mut frame) = claims.receive(Duration::from_millis(50))? else {
                continue;
            };
            // A Query Config request becomes an answer for 1.1.
            if frame.len() < 32 || frame[12..14] != [0x88, 0xa2] || frame[14] & 8 != 0 || frame[19] != 1 {
                continue;
            }
            frame.copy_within(6..12, 0);
            frame[6..12].copy_from_slice(&STRANGER.0);
            frame[14] |= 8;
            frame[16..19].copy_from_slice(&[0, 1, 1]);
            claims.send(&frame)?;
            claimed += 1;
        }
        Ok(claimed)
    });
    let target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1);
    over.store(true, Ordering::Relaxed);
    let claimed = stranger.join().ok().context("the stranger panicked")??;
    let _target = target?;
    ensure!(claimed > 0, "nobody was asked");
    Ok(())
}

#[test]
fn another_target_that_comes_later_raises_an_alarm_and_stops_nothing() -> Result<()> {
    needs!(Need::Root, Need::Tool("vblade"));
    let lab = Lab::new(Options::default())?;
    let (ours, theirs) = (Image::stamped(64)?, Image::stamped(64)?);
    let mut target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", ours.as_str()], 1)?;
    let _vblade = Process::spawn(&lab.initiator, "vblade", &["1", "1", "eth0", theirs.as_str()])?;
    let line = target.process.wait_for("as well: two targets", LIMIT)?;
    ensure!(
        line.contains("1.1 is served by") && line.contains(&lab::link::initiator_mac(0).to_string()),
        "{line}"
    );
    ensure!(target.process.is_running(), "an export in use was stopped");
    Ok(())
}

/// The cable may lead to another network when it is plugged in again.
#[test]
fn behind_a_cable_that_was_plugged_in_again_only_what_is_in_use_goes_on_beside_another_target() -> Result<()>
{
    needs!(Need::Root, Need::Tool("vblade"));
    let lab = Lab::new(Options::default())?;
    let (used, unused) = (Image::stamped(64)?, Image::stamped(64)?);
    let mut text = String::from("[defaults]\ninterfaces = [\"eth0\"]\n");
    for (slot, image) in [(1, &used), (2, &unused)] {
        text += &format!(
            "[[export]]\nshelf = 1\nslot = {slot}\npath = {:?}\n",
            image.as_str()
        );
    }
    std::fs::write(used.directory().join("xblade.toml"), text)?;
    let mut target = Target::ready(&lab.target, &target::daemon(used.directory())?, 2)?;
    ensure!(lab.open(0)?.find(Address::new(1, 1))?.read(3, 1)? == stamp(3));
    let plug = |target: &mut Target, carrier: bool| -> Result<()> {
        let mark = target.process.mark();
        lab.set_carrier(0, carrier)?;
        let words = format!("link {}", if carrier { "up" } else { "down" });
        let told = |line: &str| line.contains(&words);
        target.process.wait_for_after(mark, told, LIMIT).map(drop)
    };
    plug(&mut target, false)?;
    let theirs = Image::stamped(64)?;
    let vblade = |slot| Process::spawn(&lab.initiator, "vblade", &["1", slot, "eth0", theirs.as_str()]);
    let others = (vblade("1")?, vblade("2")?);
    plug(&mut target, true)?;
    target.process.wait_for("e1.2 FAILED on eth0", LIMIT)?;
    target.process.wait_for("1.1 is served by", LIMIT)?;
    ensure!(!target.process.log().contains("e1.1 FAILED"), "it is in use");
    let mark = target.process.mark();
    drop(others);
    target.wait_ready(mark, 1)?;
    Ok(())
}

/// A target with an access list does not answer strangers, and who starts second is one.
#[test]
fn another_target_with_an_access_list_is_found_where_one_of_the_two_answers_the_other() -> Result<()> {
    needs!(Need::Root);
    let ours = lab::link::target_mac(0).to_string();
    let stranger = STRANGER.to_string();
    // Its list names the host of the second one: as any other.
    let lab = Lab::new(Options::default())?;
    let (one, two) = (Image::stamped(64)?, Image::stamped(64)?);
    let listed = ["serve", "1", "1", "eth0", two.as_str(), "--allow", &ours];
    let other = Target::ready(&lab.initiator, &listed, 1)?;
    let mut second = Target::start(&lab.target, &["serve", "1", "1", "eth0", one.as_str()])?;
    let status = second.process.wait(lab::target::START)?;
    let log = second.process.log();
    ensure!(
        !status.success() && log.contains("already served by"),
        "{status}: {log}"
    );
    drop(other);
    // Its list does not: the second one hears nothing. The first hears the second, which answers everybody.
    let lab = Lab::new(Options::default())?;
    let shut = ["serve", "1", "1", "eth0", two.as_str(), "--allow", &stranger];
    let mut first = Target::ready(&lab.initiator, &shut, 1)?;
    let _second = Target::ready(&lab.target, &["serve", "1", "1", "eth0", one.as_str()], 1)?;
    let told = |line: &str| {
        let words = [
            "as well: two targets",
            "left to it",
            "at the same time, which yields",
        ];
        words.iter().any(|words| line.contains(words))
    };
    let (_, line) = first.process.wait_for_after(0, told, LIMIT)?;
    ensure!(line.contains("1.1") && line.contains(&ours), "{line}");
    Ok(())
}

/// Two links whose other ends are one network.
fn two_links_of_one_network() -> Result<Lab> {
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let network = &lab.initiator;
    network.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0")?;
    for link in ["eth0", "eth1"] {
        network.ip(&format!("link set {link} master br0"))?;
    }
    network.ip(&format!("link set br0 address {BRIDGE} up"))?;
    Ok(lab)
}

#[test]
fn another_target_of_this_host_is_another_target() -> Result<()> {
    needs!(Need::Root, Need::Tool("vblade"));
    let lab = two_links_of_one_network()?;
    let (one, two) = (Image::stamped(64)?, Image::stamped(64)?);
    let mut first = Target::ready(&lab.target, &["serve", "1", "1", "eth0", one.as_str()], 1)?;
    let mut second = Target::start(&lab.target, &["serve", "1", "1", "eth1", two.as_str()])?;
    let status = second.process.wait(lab::target::START)?;
    let log = second.process.log();
    ensure!(
        !status.success() && log.contains("already served by") && log.contains("on eth1"),
        "{status}: {log}"
    );
    let _vblade = Process::spawn(&lab.target, "vblade", &["1", "1", "eth1", two.as_str()])?;
    let line = first.process.wait_for("as well: two targets", LIMIT)?;
    ensure!(line.contains("1.1 is served by"), "{line}");
    Ok(())
}

#[test]
fn ports_of_one_process_on_one_network_are_paths_and_no_other_target() -> Result<()> {
    needs!(Need::Root);
    let lab = two_links_of_one_network()?;
    let (image, image_2) = (Image::stamped(64)?, Image::stamped(64)?);
    let mut target = Target::ready(&lab.target, &["serve", "1", "1", "eth0,eth1", image.as_str()], 2)?;
    // It has asked and heard: another target is found in the meantime.
    let _other = Target::ready(
        &lab.initiator,
        &["serve", "--force", "1", "1", "br0", image_2.as_str()],
        1,
    )?;
    let line = target.process.wait_for("as well: two targets", LIMIT)?;
    let other = BRIDGE.to_string();
    ensure!(line.contains(&other), "{line}");
    let log = target.process.log();
    let alarms = log.lines().filter(|line| line.contains("as well: two targets"));
    ensure!(alarms.into_iter().all(|line| line.contains(&other)), "{log}");
    Ok(())
}

/// A daemon of one export, in a namespace.
fn daemon(namespace: &Namespace, image: &Image) -> Result<Target> {
    let text = format!(
        "[[export]]\nshelf = 1\nslot = 1\npath = {:?}\ninterfaces = [\"eth0\"]\n",
        image.as_str()
    );
    std::fs::write(image.directory().join("xblade.toml"), text)?;
    Target::start(namespace, &target::daemon(image.directory())?)
}

/// Whether the export is served on eth0, as SIGUSR1 says.
fn is_served(target: &mut Target) -> Result<bool> {
    let mark = target.process.mark();
    target.process.signal(Signal::SIGUSR1)?;
    let ports = |line: &str| line.contains("eth0:") && line.contains(" exports");
    let (_, line) = target.process.wait_for_after(mark, ports, LIMIT)?;
    Ok(line.contains(" 1 exports"))
}

#[test]
fn of_two_targets_that_start_in_the_same_moment_one_serves() -> Result<()> {
    needs!(Need::Root);
    let mut ties = 0;
    // Now and then one of them is late, and simply finds the other.
    for round in 0..20 {
        let lab = Lab::new(Options::default())?;
        let images = (Image::stamped(64)?, Image::stamped(64)?);
        let mut one = daemon(&lab.target, &images.0)?;
        let mut two = daemon(&lab.initiator, &images.1)?;
        let failed = |target: &Target| target.process.log().contains("FAILED on eth0");
        let begin = Instant::now();
        while !failed(&one) && !failed(&two) {
            ensure!(
                begin.elapsed() < LIMIT,
                "both serve:\n{}\n{}",
                one.process.log(),
                two.process.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        ties += usize::from(
            [&one, &two]
                .iter()
                .any(|target| target.process.log().contains("left to it")),
        );
        // Whoever was left out tries again after a second, and two, and finds the other.
        let mut states = Vec::new();
        for _ in 0..3 {
            states.push((is_served(&mut one)?, is_served(&mut two)?));
            std::thread::sleep(Duration::from_secs(1));
        }
        ensure!(
            states[0].0 != states[0].1 && states.iter().all(|state| *state == states[0]),
            "round {round}: {states:?}\n{}\n{}",
            one.process.log(),
            two.process.log()
        );
        if ties == 2 {
            return Ok(());
        }
    }
    anyhow::bail!("they never started in the same moment: {ties} of 20")
}
