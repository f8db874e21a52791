//! What happens to interfaces while they are served: carrier, MTU, address, removal.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::frame::ata;
use lab::image::stamp;
use lab::initiator::TIMEOUT;
use lab::link::target_mac;
use lab::needs::Need;
use lab::target::binary;
use lab::{Address, Image, Lab, Namespace, Options, Request, Stopwatch, Target, namespace, needs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xblade::initiator::Client;

const E11: Address = Address::new(1, 1);

fn served(mtu: u32) -> Result<(Lab, Image, Target)> {
    let lab = Lab::new(Options {
        mtu,
        ..Options::default()
    })?;
    let image = Image::stamped(4096)?;
    let target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    Ok((lab, image, target))
}

#[test]
fn service_goes_on_after_the_link_was_down() -> Result<()> {
    needs!(Need::Root);
    let (lab, _image, mut target) = served(1500)?;
    let initiator = lab.open(0)?;
    ensure!(initiator.find(E11)?.read(5, 1)? == stamp(5));
    let mark = target.process.mark();
    lab.set_carrier(0, false)?;
    target.process.wait_for_after(
        mark,
        |line| line.contains("eth0") && line.contains("down"),
        TIMEOUT,
    )?;
    initiator.drain()?;
    lab.set_carrier(0, true)?;
    initiator.advertisement(|reply| reply.address == E11)?;
    ensure!(initiator.find(E11)?.read(6, 1)? == stamp(6));
    Ok(())
}

/// The kernel takes the queues away, and all else is as before when the target looks again.
#[test]
fn service_goes_on_after_the_interface_was_in_another_namespace() -> Result<()> {
    needs!(Need::Root);
    let (lab, _image, mut target) = served(1500)?;
    let initiator = lab.open(0)?;
    ensure!(initiator.find(E11)?.read(5, 1)? == stamp(5));
    let elsewhere = Namespace::new("elsewhere")?;
    for _ in 0..2 {
        target.process.signal(Signal::SIGSTOP)?;
        lab.target
            .ip(&format!("link set eth0 netns {}", elsewhere.path()))?;
        elsewhere.ip(&format!("link set eth0 netns {}", lab.target.path()))?;
        lab.target.ip("link set eth0 up")?;
        target.process.signal(Signal::SIGCONT)?;
        // Asked again and again until somebody answers.
        ensure!(initiator.find(E11)?.read(6, 1)? == stamp(6));
    }
    let is_told = |line: &str| line.contains("eth0") && line.contains("took its receive queues away");
    target.process.wait_for_after(0, is_told, TIMEOUT)?;
    Ok(())
}

/// The kernel's message has the target look: it does not wait for a time of its own.
#[test]
fn lost_queues_are_taken_again_at_once_and_counted() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let control = image.directory().join("control");
    let control = control.to_str().context("an odd path")?;
    let arguments = ["serve", "--control", control, "1", "1", "eth0", image.as_str()];
    let mut target = Target::ready(&lab.target, &arguments, 1)?;
    let initiator = lab.open(0)?;
    let elsewhere = Namespace::new("elsewhere")?;
    let mut took = Vec::new();
    for _ in 0..5 {
        ensure!(initiator.find(E11)?.read(6, 1)? == stamp(6));
        let mark = target.process.mark();
        target.process.signal(Signal::SIGSTOP)?;
        lab.target
            .ip(&format!("link set eth0 netns {}", elsewhere.path()))?;
        elsewhere.ip(&format!("link set eth0 netns {}", lab.target.path()))?;
        lab.target.ip("link set eth0 up")?;
        let watch = Stopwatch::start()?;
        target.process.signal(Signal::SIGCONT)?;
        let again = |line: &str| line.contains("eth0: served in ");
        target.process.wait_for_after(mark, again, TIMEOUT)?;
        took.push(watch.idle_time()?);
    }
    ensure!(initiator.find(E11)?.read(6, 1)? == stamp(6));
    took.sort_unstable();
    // A look every two seconds, the second of which decided, took two to four and a pause, each time: the quickest of five tells.
    ensure!(took[0] < Duration::from_millis(1800), "{took:?}");
    let metrics = String::from_utf8(target.ask(&["metrics", "--control", control])?.stdout)?;
    let opens = "xblade_interface_opens_total{interface=\"eth0\"} 6";
    ensure!(metrics.lines().any(|line| line == opens), "{metrics}");
    Ok(())
}

/// In copy mode what arrives on a queue is answered on the transmit queue of that number.
#[test]
fn receive_queues_that_cannot_answer_are_named_with_what_to_do() -> Result<()> {
    needs!(Need::Root, Need::Tool("ethtool"));
    let target_side = Namespace::new("few")?;
    target_side
        .ip("link add few numrxqueues 4 numtxqueues 2 type veth peer name far numrxqueues 2 numtxqueues 2")?;
    target_side.ip("link set few up")?;
    target_side.ip("link set far up")?;
    let image = Image::stamped(64)?;
    let mut target = Target::start(
        &target_side,
        &["serve", "--wait", "1", "1", "few", image.as_str()],
    )?;
    let line = target.process.wait_for("FAILED", TIMEOUT)?;
    let says = |text: &str, word: &str| text.contains(word);
    ensure!(
        says(&line, "4 receive queues and 2 transmit") && says(&line, "ethtool -L few rx 2"),
        "{line}"
    );
    let mut doctor = Command::new(binary()?);
    doctor.args(["doctor", "few"]);
    let output = target_side.run(move || doctor.output())?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        says(&report, "cannot serve it") && says(&report, "\n  ethtool -L few rx 2\n"),
        "{report}"
    );
    let mark = target.process.mark();
    // Refused while xblade tries all queues once more.
    lab::eventually("fewer queues", TIMEOUT, || {
        let mut mend = Command::new("ethtool");
        mend.args(["-L", "few", "rx", "2"]);
        Ok(target_side.output(mend).is_ok())
    })?;
    let ready = target.wait_ready(mark, 1)?;
    ensure!(says(&ready, "native copy, 2 queues"), "{ready}");
    Ok(())
}

#[test]
fn service_goes_on_after_the_target_s_interface_was_down() -> Result<()> {
    needs!(Need::Root);
    let (lab, _image, mut target) = served(1500)?;
    let initiator = lab.open(0)?;
    let mark = target.process.mark();
    lab.target.ip("link set eth0 down")?;
    target.process.wait_for_after(
        mark,
        |line| line.contains("eth0") && line.contains("down"),
        TIMEOUT,
    )?;
    initiator.drain()?;
    lab.target.ip("link set eth0 up")?;
    initiator.advertisement(|reply| reply.address == E11)?;
    ensure!(initiator.find(E11)?.read(6, 1)? == stamp(6));
    Ok(())
}

#[test]
fn an_interface_that_is_down_at_the_start_is_served_when_up() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    lab.target.ip("link set eth0 down")?;
    let image = Image::stamped(64)?;
    let mut target = Target::start(&lab.target, &["serve", "1", "1", "eth0", image.as_str()])?;
    target.process.wait_for("down", lab::target::START)?;
    let mark = target.process.mark();
    lab.target.ip("link set eth0 up")?;
    target.wait_ready(mark, 1)?;
    let initiator = lab.open(0)?;
    ensure!(initiator.find(E11)?.read(6, 1)? == stamp(6));
    Ok(())
}

#[test]
fn a_larger_mtu_is_used_and_advertised() -> Result<()> {
    needs!(Need::Root);
    let (lab, image, _target) = served(1500)?;
    let initiator = lab.open(0)?;
    ensure!(initiator.find(E11)?.read(0, 2)?.len() == 1024);
    initiator.drain()?;
    lab.set_mtu(0, 9000)?;
    let reply = initiator.advertisement(|reply| reply.config().1 == 17)?;
    ensure!(reply.src == target_mac(0));
    let disk = initiator.find(E11)?;
    let expected: Vec<u8> = (100..117).flat_map(stamp).collect();
    ensure!(disk.read(100, 17)? == expected);
    disk.write(200, &expected)?;
    ensure!(image.read(200, 17)? == expected);
    Ok(())
}

#[test]
fn a_smaller_mtu_is_respected() -> Result<()> {
    needs!(Need::Root);
    let (lab, _image, _target) = served(9000)?;
    let initiator = lab.open(0)?;
    ensure!(initiator.find(E11)?.read(0, 17)?.len() == 17 * 512);
    initiator.drain()?;
    lab.target.ip("link set eth0 mtu 1500")?;
    initiator.advertisement(|reply| reply.config().1 == 2)?;
    let disk = initiator.find(E11)?;
    ensure!(disk.read(5, 2)?[..512] == stamp(5));
    let reply = disk.ata(ata::READ_EXT, 0, 3, &[])?;
    ensure!((reply.status(), reply.ata_error()) == (0x41, 0x04), "{reply:?}");
    Ok(())
}

#[test]
fn a_new_address_is_answered_from_and_advertised() -> Result<()> {
    needs!(Need::Root);
    let (lab, _image, _target) = served(1500)?;
    let initiator = lab.open(0)?;
    let old = initiator.find(E11)?.mac;
    initiator.drain()?;
    let new = Mac([2, 0, 0, 0, 0, 0x99]);
    lab.target.ip(&format!("link set eth0 address {new}"))?;
    initiator.advertisement(|reply| reply.src == new)?;
    let disk = initiator.find(E11)?;
    ensure!(disk.mac == new && disk.read(5, 1)? == stamp(5));
    let stale = initiator.answers(Request::ata(old, E11, ata::READ_EXT, 5, 1, &[]), &disk)?;
    ensure!(stale.is_empty(), "the old address still answers: {stale:?}");
    Ok(())
}

#[test]
fn an_interface_that_vanishes_and_returns_is_served_again() -> Result<()> {
    needs!(Need::Root);
    let (lab, _image, mut target) = served(1500)?;
    ensure!(lab.open(0)?.find(E11)?.read(5, 1)? == stamp(5));
    for round in 0..3 {
        let mark = target.process.mark();
        lab.unplug(0)?;
        target
            .process
            .wait_for_after(mark, |line| line.contains("eth0"), TIMEOUT)
            .with_context(|| format!("round {round}: it does not say that its interface is gone"))?;
        let mark = target.process.mark();
        lab.plug(0)?;
        target.wait_ready(mark, 1)?;
        ensure!(lab.open(0)?.find(E11)?.read(6, 1)? == stamp(6), "round {round}");
    }
    ensure!(target.process.stop()? == 0);
    Ok(())
}

/// As udev does it a second after an interface was plugged in.
#[test]
fn an_interface_that_gets_another_name_is_served_under_it() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    lab.target.ip("link set eth0 name late0")?;
    let image = Image::stamped(64)?;
    let mut target = Target::ready(&lab.target, &["serve", "1", "1", "late*", image.as_str()], 1)?;
    let initiator = lab.open(0)?;
    for (old, new) in [("late0", "late7"), ("late7", "late0")] {
        let mark = target.process.mark();
        lab.target.ip(&format!("link set {old} name {new}"))?;
        target.wait_ready(mark, 1)?;
        ensure!(initiator.find(E11)?.read(6, 1)? == stamp(6));
    }
    let log = target.process.log();
    ensure!(!log.contains("FAILED") && !log.contains("XDP program"), "{log}");
    Ok(())
}

/// As `ip netns exec` is not, but `nsenter --net` and containers are: the interfaces of /sys are another namespace's.
#[test]
fn a_namespace_without_a_sysfs_of_its_own_is_served() -> Result<()> {
    needs!(Need::Root);
    namespace::enter();
    namespace::veth("near", "far", 9000);
    let image = Image::stamped(64)?;
    let mut target = Command::new(binary()?)
        .args(["serve", "1", "1", "near", image.as_str()])
        .stderr(Stdio::piped())
        .spawn()?;
    let mut log = BufReader::new(target.stderr.take().context("no pipe")?).lines();
    let mut said = Vec::new();
    for line in log.by_ref() {
        said.push(line?);
        if said.last().is_some_and(|line| line.contains(" ready ")) {
            break;
        }
    }
    let found = Client::open("far").and_then(|mut client| {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let found = client.discover(None, Duration::from_millis(300))?;
            if !found.is_empty() || Instant::now() > deadline {
                return Ok(found);
            }
        }
    });
    // It has ended already where it did not get ready.
    let _ = kill(Pid::from_raw(target.id().cast_signed()), Signal::SIGTERM);
    said.extend(log.map_while(Result::ok));
    ensure!(target.wait()?.success(), "{said:#?}");
    let ready = |line: &String| line.contains(" ready ") && line.contains("1 queue, MTU 9000");
    ensure!(said.iter().any(ready), "{said:#?}");
    let found = found?;
    ensure!(found.len() == 1 && found[0].sectors == 17, "{found:?}");
    Ok(())
}

#[test]
fn the_other_interface_is_not_disturbed() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let image = Image::stamped(4096)?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0,eth1", image.as_str()], 2)?;
    let initiator = lab.open(1)?;
    let disk = initiator.find(E11)?;
    let slowest = |for_how_long: Duration| -> Result<Duration> {
        let (end, mut slowest) = (Instant::now() + for_how_long, Duration::ZERO);
        while Instant::now() < end {
            let watch = Stopwatch::start()?;
            ensure!(disk.read(5, 1)? == stamp(5));
            slowest = slowest.max(watch.idle_time()?);
        }
        Ok(slowest)
    };
    lab.unplug(0)?;
    let gone = slowest(Duration::from_secs(1))?;
    lab.plug(0)?;
    let back = slowest(Duration::from_secs(1))?;
    // One second is what opening the other port would take; a busy machine has a share of it.
    ensure!(
        gone.max(back) < Duration::from_secs(5),
        "reads by eth1 waited {gone:?} and {back:?} for eth0"
    );
    Ok(())
}

/// The kernel attaches no program below one: of the two, the lower one has to be opened first, whichever comes first.
#[test]
fn a_bridge_and_its_port_are_both_served() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    lab.target
        .ip("link add brt type bridge forward_delay 0 mcast_snooping 0")?;
    lab.target.ip("link set eth0 master brt")?;
    lab.target.ip("link set brt up")?;
    lab.target.ip("link set eth0 down")?;
    let image = Image::stamped(64)?;
    let args = ["serve", "1", "1", "brt,eth0", image.as_str(), "--mode", "skb"];
    let mut target = Target::start(&lab.target, &args)?;
    target.process.wait_for("ready on brt", TIMEOUT)?;
    for change in ["up", "mtu 1400"] {
        let mark = target.process.mark();
        lab.target.ip(&format!("link set eth0 {change}"))?;
        for name in ["ready on eth0", "ready on brt"] {
            target
                .process
                .wait_for_after(mark, |line| line.contains(name), TIMEOUT)?;
        }
    }
    let log = target.process.log();
    ensure!(!log.contains("FAILED"), "{log}");
    ensure!(lab.open(0)?.find(E11)?.read(5, 1)? == stamp(5));
    // Of two processes nobody can decide that.
    drop(target);
    let args = |slot, interface| {
        [
            "serve",
            "1",
            slot,
            interface,
            image.as_str(),
            "--mode",
            "skb",
            "--read-only",
        ]
    };
    let _above = Target::ready(&lab.target, &args("1", "brt"), 1)?;
    let mut below = Target::start(&lab.target, &args("2", "eth0"))?;
    below
        .process
        .wait_for("brt is made of eth0 and has an XDP program", TIMEOUT)?;
    Ok(())
}
