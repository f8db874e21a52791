//! "Ready" means that frames pass: at every MTU, by every name of an interface, and never on a file that somebody else writes.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::frame::ata;
use lab::image::{pattern, stamp};
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Request, Target, needs};

const E11: Address = Address::new(1, 1);
const TIMEOUT: Duration = Duration::from_secs(30);

/// The sectors that a full request has at an MTU.
fn advertised(lab: &Lab) -> Result<u8> {
    let answers = lab.open(0)?.discover(E11, 1)?;
    Ok(answers.first().context("no target answers")?.config().1)
}

#[test]
fn every_mtu_is_served_as_advertised_or_refused_by_name() -> Result<()> {
    needs!(Need::Root);
    let image = Image::stamped(1024)?;
    for mtu in [68, 547] {
        let lab = Lab::new(Options {
            mtu,
            ..Options::default()
        })?;
        let mut target = Target::start(&lab.target, &["serve", "1", "1", "eth0", image.as_str()])?;
        let line = target.process.wait_for("548", TIMEOUT)?;
        ensure!(line.contains("eth0") && line.contains(&mtu.to_string()), "{line}");
        ensure!(
            !target.process.log().contains(" ready"),
            "{}",
            target.process.log()
        );
    }
    for mtu in [548, 1500, 3498, 9000, 32767, 61439, 61440, 63999, 64000, 65535] {
        let lab = Lab::new(Options {
            mtu,
            ..Options::default()
        })?;
        let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
        let sectors = advertised(&lab)?;
        ensure!(
            (1..=((mtu - 36) / 512).min(255)).contains(&u32::from(sectors)),
            "MTU {mtu}: {sectors} sectors"
        );
        let initiator = lab.open(0)?;
        let disk = initiator.find(E11)?;
        let data: Vec<u8> = (0..u64::from(sectors))
            .flat_map(|n| pattern(n, *b"full-mtu"))
            .collect();
        let written = disk.ata(ata::WRITE_EXT, 256, sectors, &data);
        written.with_context(|| format!("MTU {mtu}: a write of {sectors} sectors"))?;
        let read = disk.read(256, sectors);
        let read = read.with_context(|| format!("MTU {mtu}: a read of {sectors} sectors"))?;
        ensure!(read == data, "MTU {mtu}: {sectors} sectors read back otherwise");
        let untouched: Vec<u8> = (512..514).flat_map(stamp).collect();
        ensure!(
            image.read(512, 2)? == untouched,
            "MTU {mtu}: sectors beside were written"
        );
    }
    Ok(())
}

#[test]
fn bench_says_that_an_mtu_has_no_room() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    lab.initiator.ip("link set eth0 mtu 547")?;
    let mut bench = Command::new(lab::target::binary()?);
    bench.args(["bench", "eth0", "1.1", "--count", "10"]);
    let output = lab.initiator.run(move || bench.output())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.contains("548"), "{said}");
    Ok(())
}

#[test]
fn alternative_names_of_an_interface_are_as_good_as_its_name() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let altname = "storage-network-of-rack-seven";
    for namespace in [&lab.target, &lab.initiator] {
        namespace.ip(&format!("link property add dev eth0 altname {altname}"))?;
    }
    let image = Image::stamped(64)?;
    for name in [altname, "storage-*"] {
        let target = Target::ready(&lab.target, &["serve", "1", "1", name, image.as_str()], 1)?;
        let initiator = lab.open(0)?;
        ensure!(initiator.find(E11)?.read(5, 1)? == stamp(5));
        drop(target);
    }
    let _target = Target::ready(&lab.target, &["serve", "1", "1", altname, image.as_str()], 1)?;
    let mut bench = Command::new(lab::target::binary()?);
    bench.args(["bench", altname, "1.1", "--count", "10"]);
    lab.initiator.output(bench)?;
    let mut doctor = Command::new(lab::target::binary()?);
    doctor.args(["doctor", altname]);
    let report = lab.target.output(doctor)?;
    ensure!(report.starts_with("eth0"), "{report}");
    Ok(())
}

#[test]
fn fifteen_hundred_exports_at_the_usual_limit_of_descriptors() -> Result<()> {
    needs!(Need::Root);
    const EXPORTS: usize = 1500;
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(EXPORTS as u64)?;
    let mut config = "[defaults]\ninterfaces = [\"eth0\"]\nstore = \"direct\"\n".to_owned();
    for n in 0..EXPORTS {
        let (shelf, slot) = (n / 250, n % 250);
        config += &format!(
            "[[export]]\nshelf = {shelf}\nslot = {slot}\npath = {:?}\noffset = {n}\nlength = 1\n",
            image.as_str()
        );
    }
    let file = image.directory().join("xblade.toml");
    std::fs::write(&file, config)?;
    let (file, state) = (file.display().to_string(), image.directory().join("state"));
    let script = format!(
        "ulimit -Sn 1024 && exec {:?} daemon --config {file:?} --state-dir {:?}",
        lab::target::binary()?,
        state
    );
    let mut process = lab::process::Process::spawn(&lab.target, "/bin/sh", &["-c", &script])?;
    process.wait_for("5.249 ready", TIMEOUT * 4)?;
    let initiator = lab.open(0)?;
    ensure!(initiator.find(Address::new(5, 249))?.read(0, 1)? == stamp(1499));
    // And where the administrator allows no more, the check says so.
    let script = format!(
        "ulimit -n 1024 && exec {:?} check --config {file:?}",
        lab::target::binary()?
    );
    let mut check = Command::new("/bin/sh");
    check.args(["-c", &script]);
    let output = lab.target.run(move || check.output())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("LimitNOFILE"), "{said}");
    Ok(())
}

#[test]
fn frames_that_are_cut_are_refused_counted_and_told_once() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let directory = tempfile::tempdir()?;
    let control = directory.path().join("control");
    let control = control.to_str().context("an odd path")?;
    let arguments = ["serve", "--control", control, "1", "1", "eth0", image.as_str()];
    let mut target = Target::ready(&lab.target, &arguments, 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    let two = [pattern(5, *b"cut-here"), pattern(6, *b"cut-here")].concat();
    for len in [1023, 512, 0] {
        let refused = disk.ata(ata::WRITE_EXT, 5, 2, &two[..len])?;
        ensure!(refused.aoe_error() == Some(2), "{len} bytes: {refused:?}");
    }
    target.process.wait_for("fewer bytes than the headers", TIMEOUT)?;
    disk.write(5, &two)?;
    ensure!(disk.read(5, 2)? == two, "a whole one is taken");
    let mark = target.process.mark();
    disk.ata(ata::WRITE_EXT, 5, 2, &two[..100])?;
    let cut = || -> Result<bool> {
        let metrics = target.ask(&["metrics", "--control", control])?;
        let said = String::from_utf8_lossy(&metrics.stdout).into_owned();
        Ok(said
            .lines()
            .any(|line| line.starts_with("xblade_queue_cut_total") && line.ends_with(" 4")))
    };
    let deadline = std::time::Instant::now() + TIMEOUT;
    while !cut()? {
        ensure!(std::time::Instant::now() < deadline, "four were not counted");
    }
    // A second look of the port's thread has passed by then, or the line would come before the end.
    target.process.stop()?;
    let log = target.process.log();
    let told = log.matches("fewer bytes than the headers").count();
    ensure!(told == 1 && mark > 0, "told {told} times: {log}");
    Ok(())
}

#[test]
fn an_interface_and_the_bridge_over_it_are_both_served() -> Result<()> {
    needs!(Need::Root);
    let (lab, image) = (Lab::new(Options::default())?, Image::stamped(64)?);
    let bridge = Mac([2, 0, 0, 0, 0, 0xb1]);
    lab.target
        .ip("link add br0 type bridge forward_delay 0 mcast_snooping 0")?;
    lab.target.ip(&format!("link set br0 address {bridge} up"))?;
    lab.target.ip("link set eth0 master br0")?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0,br0", image.as_str()], 2)?;
    let initiator = lab.open(0)?;
    for port in [lab::link::target_mac(0), bridge] {
        // The filter of the interface below must not keep from the bridge what is addressed to it.
        let answer = initiator.ask(Request::query(port, E11, 0, b""));
        let answer = answer.with_context(|| format!("the port {port}"))?;
        ensure!(answer.src == port, "{port}: {answer:?}");
    }
    Ok(())
}
