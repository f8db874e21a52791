//! Who may use an export: access lists, strangers, read-only initiators; and what masks and reservations do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::frame::ata;
use lab::image::stamp;
use lab::initiator::TIMEOUT;
use lab::link::initiator_mac;
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Request, Target, needs};

const E11: Address = Address::new(1, 1);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);

/// The number after the word `denied` in what the process printed at its end.
fn denied(log: &str) -> Option<u64> {
    let mut best = None;
    for line in log.lines().filter(|line| line.contains("denied")) {
        let after = line.split("denied").nth(1).unwrap_or("");
        let number: String = after
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        best = best.max(number.parse().ok());
    }
    best
}

#[test]
fn a_stranger_is_counted_and_never_wakes_the_process() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(4096)?;
    let allow = initiator_mac(0).to_string();
    let args = ["serve", "1", "1", "eth0", image.as_str(), "--allow", &allow];
    let mut target = Target::ready(&lab.target, &args, 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    ensure!(disk.read(5, 1)? == stamp(5), "who is on the list must be served");

    // One frame of a stranger, in every way, gets no answer.
    for mut request in [
        Request::query(Mac::BROADCAST, Address::ALL, 0, b""),
        Request::query(disk.mac, E11, 0, b""),
        Request::ata(disk.mac, E11, ata::READ_EXT, 5, 1, &[]),
        Request::ata(disk.mac, E11, ata::WRITE_EXT, 5, 1, &[0x66; 512]),
    ] {
        request.src = STRANGER;
        request.tag = 0x0666_0666;
        ensure!(
            initiator.answers(request, &disk)?.is_empty(),
            "a stranger was answered"
        );
    }

    // Very many of them cost the process nothing.
    let mut request = Request::ata(disk.mac, E11, ata::READ_EXT, 5, 1, &[]);
    request.src = STRANGER;
    request.tag = 0x0666_0667;
    let frames = vec![request.bytes(); 10_000];
    std::thread::sleep(Duration::from_secs(1));
    let (switches, cpu, start) = (
        target.process.context_switches()?,
        target.process.cpu_time()?,
        Instant::now(),
    );
    const ROUNDS: u64 = 20;
    for _ in 0..ROUNDS {
        initiator.send_many(&frames)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let woken = target.process.context_switches()? - switches;
    let used = target.process.cpu_time()? - cpu;
    // A timer or two may tick meanwhile; a process that is woken by frames shows thousands.
    ensure!(
        (woken as f64) < 50.0 + 50.0 * seconds,
        "woken {woken} times in {seconds:.1} s"
    );
    ensure!(
        used.as_secs_f64() < 0.01 + 0.02 * seconds,
        "{used:?} of processor time in {seconds:.1} s"
    );

    ensure!(image.read(5, 1)? == stamp(5));
    ensure!(disk.read(6, 1)? == stamp(6));
    ensure!(target.process.stop()? == 0);
    let log = target.process.log();
    let counted = denied(&log).with_context(|| format!("no denied counter in the summary:\n{log}"))?;
    ensure!(
        counted >= ROUNDS * 10_000,
        "{counted} denied frames were counted of {}:\n{log}",
        ROUNDS * 10_000 + 4
    );
    ensure!(
        log.contains(&STRANGER.to_string()),
        "the stranger is not named:\n{log}"
    );
    Ok(())
}

#[test]
fn a_read_only_initiator_reads_and_cannot_write() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let config = image.directory().join("xblade.toml");
    let (writer, reader) = (initiator_mac(0), Mac([2, 0, 0, 0, 0, 0x77]));
    std::fs::write(
        &config,
        format!(
            "[[export]]\nshelf = 1\nslot = 1\npath = {:?}\ninterfaces = [\"eth0\"]\n\
             allow = [\"{writer}\", {{ mac = \"{reader}\", access = \"ro\" }}]\n",
            image.as_str()
        ),
    )?;
    let _target = Target::ready(&lab.target, &daemon(image.directory())?, 1)?;
    let initiator = lab.open(0)?;
    let mac = initiator.find(E11)?.mac;
    let ask = |src, command, data: &[u8]| {
        let mut request = Request::ata(mac, E11, command, 9, 1, data);
        request.src = src;
        initiator.ask(request)
    };
    ensure!(ask(reader, ata::READ_EXT, &[])?.data()[..512] == stamp(9));
    let refused = ask(reader, ata::WRITE_EXT, &[0x57; 512])?;
    ensure!(
        (refused.status(), refused.ata_error()) == (0x41, 0x04),
        "{refused:?}"
    );
    ensure!(image.read(9, 1)? == stamp(9), "a read-only initiator wrote");
    ensure!(ask(writer, ata::WRITE_EXT, &[0x57; 512])?.status() == 0x40);
    ensure!(image.read(9, 1)? == [0x57; 512]);
    Ok(())
}

#[test]
fn a_mask_hides_the_export_and_survives_a_restart() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let state = image.directory().join("state");
    let args = [
        "serve",
        "1",
        "1",
        "eth0",
        image.as_str(),
        "--wire-admin",
        "--state-dir",
        state.to_str().context("odd path")?,
    ];
    let mut target = Target::ready(&lab.target, &args, 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    let reply = initiator.ask(Request::mask(disk.mac, E11, 1, &[(1, initiator.mac())]))?;
    ensure!(
        reply.aoe_error().is_none() && reply.argument[2..4] == [0, 1],
        "{reply:?}"
    );
    ensure!(disk.query(3, b"a string")?.is_some());
    let reply = initiator.ask(Request::reserve(disk.mac, E11, 1, &[initiator.mac()]))?;
    ensure!(reply.aoe_error().is_none(), "{reply:?}");
    target.process.kill()?;
    let _target = Target::ready_again(&lab.target, &args, 1)?;
    initiator.drain()?;

    let mut strange = Request::query(Mac::BROADCAST, E11, 0, b"");
    strange.src = STRANGER;
    let disk = initiator.find(E11)?;
    ensure!(
        initiator.answers(strange, &disk)?.is_empty(),
        "a masked-out source was answered"
    );
    let string = disk.query(0, b"")?.context("no answer")?.config().2;
    ensure!(string == b"a string", "the config string is {string:02x?}");
    // Away with the mask: the stranger sees the export, but it is reserved.
    let reply = initiator.ask(Request::mask(disk.mac, E11, 1, &[(2, initiator.mac())]))?;
    ensure!(
        reply.aoe_error().is_none() && reply.argument[2..4] == [0, 0],
        "{reply:?}"
    );
    let mut strange = Request::ata(disk.mac, E11, ata::READ_EXT, 5, 1, &[]);
    (strange.src, strange.tag) = (STRANGER, 0x0666);
    // The kernel half learns of it a moment later.
    let (start, mut heard) = (Instant::now(), Vec::new());
    while heard.is_empty() && start.elapsed() < TIMEOUT {
        heard = initiator.answers(strange.clone(), &disk)?;
    }
    println!("the kernel half followed within {:?}", start.elapsed());
    let reply = heard.first().context("the stranger is still masked out")?;
    ensure!(
        reply.aoe_error() == Some(6),
        "the reservation did not survive: {reply:?}"
    );
    initiator.ask(Request::reserve(disk.mac, E11, 1, &[]))?;
    ensure!(initiator.ask(strange)?.data()[..512] == stamp(5));
    Ok(())
}

#[test]
fn nobody_shuts_others_out_of_an_open_export() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    let own = initiator.mac();
    for request in [
        Request::mask(disk.mac, E11, 1, &[(1, own)]),
        Request::reserve(disk.mac, E11, 1, &[own]),
        Request::reserve(disk.mac, E11, 2, &[own]),
    ] {
        let reply = initiator.ask(request)?;
        ensure!(reply.aoe_error() == Some(2), "{reply:?}");
    }
    ensure!(disk.query(3, b"a string")?.is_some(), "the config string is open");
    let mut strange = Request::ata(disk.mac, E11, ata::READ_EXT, 5, 1, &[]);
    (strange.src, strange.tag) = (STRANGER, 0x0666);
    ensure!(initiator.ask(strange)?.data()[..512] == stamp(5));
    Ok(())
}

#[test]
fn a_second_export_of_the_address_leaves_the_first_ones_mask_in_force() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let images = [Image::stamped(64)?, Image::stamped(64)?];
    let config = images[0].directory().join("xblade.toml");
    let export = |n: usize, lines: &str| {
        format!(
            "[[export]]\nshelf = 1\nslot = 1\npath = {:?}\ninterfaces = [\"eth{n}\"]\nwire_admin = true\n{lines}\n",
            images[n].as_str()
        )
    };
    let args = daemon(images[0].directory())?;
    std::fs::write(&config, export(0, ""))?;
    let mut target = Target::ready(&lab.target, &args, 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    let reply = initiator.ask(Request::mask(disk.mac, E11, 1, &[(1, initiator.mac())]))?;
    ensure!(reply.aoe_error().is_none(), "{reply:?}");
    target.process.kill()?;

    std::fs::write(&config, export(1, "state_name = \"b\"") + &export(0, ""))?;
    let _target = Target::ready_again(&lab.target, &args, 2)?;
    initiator.drain()?;
    let mut strange = Request::query(Mac::BROADCAST, E11, 0, b"");
    strange.src = STRANGER;
    let disk = initiator.find(E11)?;
    ensure!(
        initiator.answers(strange.clone(), &disk)?.is_empty(),
        "a masked-out source was answered"
    );
    ensure!(disk.read(5, 1)? == stamp(5));
    ensure!(
        lab.open(1)?.ask(strange)?.aoe_error().is_none(),
        "the other export has no mask"
    );
    Ok(())
}

#[test]
fn the_operator_clears_a_mask_while_the_export_is_served() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let state = image.directory().join("state");
    let state = state.to_str().context("odd path")?;
    let args = [
        "serve",
        "1",
        "1",
        "eth0",
        image.as_str(),
        "--wire-admin",
        "--state-dir",
        state,
    ];
    let _target = Target::ready(&lab.target, &args, 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    initiator.ask(Request::mask(disk.mac, E11, 1, &[(1, STRANGER)]))?;
    let clear = ["state", "clear", "1", "1", "--mask", "--state-dir", state];
    let mut tool = Target::start(&lab.target, &clear)?;
    let status = tool.process.wait(lab::target::START * 4)?;
    ensure!(status.success(), "{}", tool.process.log());
    ensure!(
        initiator.find(E11)?.read(5, 1)? == stamp(5),
        "the mask is still in force"
    );
    Ok(())
}
