//! Start, idleness, end: what a process leaves behind and what it refuses to do.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::image::stamp;
use lab::initiator::TIMEOUT;
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Target, needs};

const E11: Address = Address::new(1, 1);

/// Sends a datagram from the initiator's side to the target's and one back.
fn ordinary_traffic_passes(lab: &Lab) -> Result<()> {
    let bind = |address: &'static str| {
        move || -> Result<UdpSocket> {
            let socket = UdpSocket::bind((address, 7777))?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            Ok(socket)
        }
    };
    let ours = lab.initiator.run(bind("10.9.8.1"))?;
    let theirs = lab.target.run(bind("10.9.8.2"))?;
    let mut buffer = [0; 16];
    ours.send_to(b"there", "10.9.8.2:7777")?;
    let (length, from) = theirs
        .recv_from(&mut buffer)
        .context("nothing arrived at the target's side")?;
    ensure!(&buffer[..length] == b"there");
    theirs.send_to(b"back", from)?;
    let (length, _) = ours.recv_from(&mut buffer).context("nothing came back")?;
    ensure!(&buffer[..length] == b"back");
    Ok(())
}

fn with_addresses(options: Options) -> Result<Lab> {
    let lab = Lab::new(options)?;
    lab.initiator.ip("addr add 10.9.8.1/24 dev eth0")?;
    lab.target.ip("addr add 10.9.8.2/24 dev eth0")?;
    Ok(lab)
}

#[test]
fn the_interface_stays_ordinary_while_served_and_after_a_kill() -> Result<()> {
    needs!(Need::Root);
    for mode in ["copy", "skb"] {
        let lab = with_addresses(Options::default())?;
        let image = Image::stamped(64)?;
        let args = ["serve", "1", "1", "eth0", image.as_str(), "--mode", mode];
        let mut target = Target::ready(&lab.target, &args, 1)?;
        ensure!(
            lab.target.ip("-d link show eth0")?.contains("xdp"),
            "nothing is attached: what is tested here?"
        );
        ordinary_traffic_passes(&lab).with_context(|| format!("{mode}, served"))?;
        target.process.kill()?;
        // The kernel detaches when the last reference goes, a moment after the process.
        let killed = Instant::now();
        let mut link = lab.target.ip("-d link show eth0")?;
        while link.contains("xdp") && killed.elapsed() < TIMEOUT {
            std::thread::sleep(Duration::from_millis(10));
            link = lab.target.ip("-d link show eth0")?;
        }
        ensure!(!link.contains("xdp"), "{mode}: an XDP program is left: {link}");
        ordinary_traffic_passes(&lab).with_context(|| format!("{mode}, killed"))?;
        // And it can be served again at once.
        let _again = Target::ready(&lab.target, &args, 1)?;
        let initiator = lab.open(0)?;
        ensure!(initiator.find(E11)?.read(5, 1)? == stamp(5));
    }
    Ok(())
}

#[test]
fn a_signal_ends_it_with_a_summary() -> Result<()> {
    needs!(Need::Root);
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGINT,
    ] {
        let lab = Lab::new(Options::default())?;
        let image = Image::stamped(64)?;
        let mut target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
        let initiator = lab.open(0)?;
        let disk = initiator.find(E11)?;
        for lba in 0..50 {
            disk.read(lba, 1)?;
        }
        let mark = target.process.mark();
        target.process.signal(signal)?;
        let status = target.process.wait(TIMEOUT)?;
        ensure!(status.code() == Some(0), "{signal}: {status}");
        let log = target.process.log();
        let summary: Vec<&str> = log.lines().skip(mark).collect();
        ensure!(
            summary.iter().any(|line| line.contains("50")),
            "no counter has the 50 reads:\n{log}"
        );
    }
    Ok(())
}

/// As `timeout` and service managers do, which signal a process and its group.
#[test]
fn two_signals_at_the_same_moment_are_no_alarm() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    for round in 0..5 {
        let image = Image::stamped(64)?;
        let arguments = ["serve", "1", "1", "eth0", image.as_str()];
        let mut target = Target::ready(&lab.target, &arguments, 1)?;
        ensure!(lab.open(0)?.find(E11)?.read(5, 1)? == stamp(5));
        target.process.signal(nix::sys::signal::Signal::SIGTERM)?;
        target.process.signal(nix::sys::signal::Signal::SIGINT)?;
        let status = target.process.wait(TIMEOUT)?;
        let log = target.process.log();
        ensure!(
            status.code() == Some(0) && !log.contains("left behind:"),
            "round {round}: {status}\n{log}"
        );
    }
    Ok(())
}

#[test]
fn idle_costs_nothing() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        queues: 2,
        links: 2,
        ..Options::default()
    })?;
    let image = Image::stamped(64)?;
    let target = Target::ready(&lab.target, &["serve", "1", "1", "eth0,eth1", image.as_str()], 2)?;
    let initiator = lab.open(0)?;
    ensure!(initiator.find(E11)?.read(5, 1)? == stamp(5));
    // The first windows may see the last of its start.
    let (window, mut shares) = (Duration::from_secs(4), Vec::new());
    while shares.len() < 5 {
        let before = target.process.cpu_time()?;
        std::thread::sleep(window);
        // A thread that ended takes its account away: that window tells nothing.
        let used = target.process.cpu_time()?.checked_sub(before).unwrap_or(window);
        shares.push(used.as_secs_f64() / window.as_secs_f64());
        if shares.last().is_some_and(|share| *share < 0.005) {
            return Ok(());
        }
    }
    anyhow::bail!("idle, it used these shares of a core in {window:?} each: {shares:.4?}");
}

#[test]
fn a_second_process_on_the_same_file_is_refused_by_name() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let image = Image::stamped(64)?;
    let _first = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    let mut second = Target::start(&lab.target, &["serve", "1", "2", "eth1", image.as_str()])?;
    let status = second.process.wait(lab::target::START)?;
    let log = second.process.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains(image.as_str()), "the file is not named: {log}");
    ensure!(
        !lab.target.ip("-d link show eth1")?.contains("xdp"),
        "it attached all the same"
    );
    // Readers do not disturb each other, nor the first.
    let initiator = lab.open(0)?;
    ensure!(initiator.find(E11)?.read(5, 1)? == stamp(5));
    Ok(())
}

#[test]
fn an_interface_that_has_a_program_is_refused() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (one, two) = (Image::stamped(64)?, Image::stamped(64)?);
    let _first = Target::ready(&lab.target, &["serve", "1", "1", "eth0", one.as_str()], 1)?;
    let mut second = Target::start(&lab.target, &["serve", "1", "2", "eth0", two.as_str()])?;
    let status = second.process.wait(lab::target::START)?;
    let log = second.process.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(
        log.contains("eth0") && log.contains("XDP"),
        "interface and reason are not named: {log}"
    );
    let initiator = lab.open(0)?;
    ensure!(
        initiator.find(E11)?.read(5, 1)? == stamp(5),
        "the first was disturbed"
    );
    Ok(())
}

#[test]
fn another_target_with_the_address_is_refused() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let (one, two) = (Image::stamped(64)?, Image::stamped(64)?);
    let _first = Target::ready(&lab.target, &["serve", "1", "1", "eth0", one.as_str()], 1)?;
    let args = ["serve", "1", "1", "eth0", two.as_str()];
    let mut second = Target::start(&lab.initiator, &args)?;
    let status = second.process.wait(lab::target::START)?;
    let log = second.process.log();
    ensure!(!status.success(), "it serves an address that is taken: {log}");
    ensure!(
        log.contains(&lab::link::target_mac(0).to_string()),
        "who has it is not named: {log}"
    );
    // Another address beside it is no problem, and --force overrides.
    drop(second);
    let _forced = Target::ready(&lab.initiator, &[&args[..], &["--force"]].concat(), 1)?;
    Ok(())
}

#[test]
fn an_interface_that_does_not_exist_is_refused() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let mut target = Target::start(&lab.target, &["serve", "1", "1", "eth7", image.as_str()])?;
    let status = target.process.wait(lab::target::START)?;
    let log = target.process.log();
    ensure!(
        status.code() == Some(1) && log.contains("eth7"),
        "{status}: {log}"
    );
    Ok(())
}
