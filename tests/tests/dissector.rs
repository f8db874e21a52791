//! Wireshark's dissector on what xblade sends: nothing malformed, every request with its reply.

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::capture::{Capture, Captured};
use lab::frame::ata;
use lab::image::stamp;
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Request, Target, needs};

const E11: Address = Address::new(1, 1);

#[test]
fn every_reply_dissects_and_every_request_has_one() -> Result<()> {
    needs!(Need::Root, Need::Tool("dumpcap"), Need::Tool("tshark"));
    for mtu in [1500, 9000] {
        let lab = Lab::new(Options {
            mtu,
            ..Options::default()
        })?;
        let image = Image::stamped(4096)?;
        let capture = Capture::start(&lab.initiator, "eth0")?;
        let target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
        let most = ((mtu - 36) / 512) as u8;
        talk(&lab, most)?;
        drop(target);
        let captured = capture.stop()?;
        all_dissects(&captured).with_context(|| format!("MTU {mtu}"))?;
        all_is_answered(&captured, 11 + 2 * usize::from(most)).with_context(|| format!("MTU {mtu}"))?;
    }
    Ok(())
}

/// Requests of every kind and size, and of every kind of error.
fn talk(lab: &Lab, most_sectors: u8) -> Result<()> {
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    disk.identify()?;
    for count in 1..=most_sectors {
        disk.read(u64::from(count), count)?;
        let data: Vec<u8> = (0..u64::from(count)).flat_map(stamp).collect();
        disk.write(u64::from(count), &data)?;
    }
    disk.flush()?;
    disk.ata(ata::CHECK_POWER, 0, 0, &[])?;
    // Errors of both kinds.
    disk.ata(ata::READ_EXT, 4095, 2, &[])?;
    disk.ata(ata::READ_EXT, 0, most_sectors + 1, &[])?;
    disk.ata(0x00, 0, 0, &[])?;
    disk.query(3, b"a string")?.context("no answer")?;
    disk.query(3, b"another")?.context("no answer")?;
    disk.query(0, b"")?.context("no answer")?;
    initiator.ask(Request::mask(disk.mac, E11, 0, &[]))?;
    initiator.ask(Request::reserve(disk.mac, E11, 0, &[]))?;
    initiator.ask(Request::new(disk.mac, E11, 0xf0, vec![0; 36]))?;
    initiator.discover(Address::ALL, 1)?;
    Ok(())
}

/// Whatever the target sent is AoE of version 1 and has the length of a frame.
fn all_dissects(captured: &Captured) -> Result<()> {
    let target = lab::link::target_mac(0);
    let malformed = captured.fields(
        &format!("eth.src == {target} && _ws.malformed"),
        &["frame.number", "aoe.cmd"],
    )?;
    ensure!(malformed.is_empty(), "malformed replies {malformed:?}");
    let odd = captured.fields(
        &format!("eth.src == {target} && (aoe.version != 1 || !aoe)"),
        &["frame.number"],
    )?;
    ensure!(odd.is_empty(), "replies that are no AoE of version 1: {odd:?}");
    let is_short = |frame: &Vec<u8>| frame[6..12] == target.0 && frame.len() < 60;
    let short = captured.frames()?.into_iter().find(is_short);
    ensure!(short.is_none(), "a frame under 60 bytes: {short:02x?}");
    let broadcast = captured.fields(
        &format!("eth.src == {target} && eth.dst == {}", Mac::BROADCAST),
        &["aoe.cmd"],
    )?;
    ensure!(!broadcast.is_empty(), "no advertisement was captured");
    Ok(())
}

/// Every unicast request to the target, more than `at_least` of them, has its reply, by Wireshark's own matching for ATA, by tag for the rest.
fn all_is_answered(captured: &Captured, at_least: usize) -> Result<()> {
    let target = lab::link::target_mac(0);
    let lonely = captured.fields(
        &format!("eth.dst == {target} && aoe.cmd == 0 && !aoe.response_in"),
        &["frame.number"],
    )?;
    ensure!(lonely.is_empty(), "ATA requests without a reply: {lonely:?}");
    let asked = captured.fields(&format!("eth.dst == {target}"), &["aoe.tag"])?;
    let answered = captured.fields(&format!("eth.src == {target} && aoe.response == 1"), &["aoe.tag"])?;
    ensure!(
        asked.len() > at_least,
        "only {} requests were captured",
        asked.len()
    );
    for tag in &asked {
        ensure!(answered.contains(tag), "nothing answers tag {tag:?}");
    }
    Ok(())
}
