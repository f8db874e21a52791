//! Wireshark's dissector on what xblade sends: nothing malformed, every request with its reply.

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::capture::Capture;
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
        let initiator = lab.open(0)?;
        let disk = initiator.find(E11)?;
        disk.identify()?;
        let most = ((mtu - 36) / 512) as u8;
        for count in 1..=most {
            disk.read(u64::from(count), count)?;
            let data: Vec<u8> = (0..u64::from(count)).flat_map(stamp).collect();
            disk.write(u64::from(count), &data)?;
        }
        disk.flush()?;
        disk.ata(ata::CHECK_POWER, 0, 0, &[])?;
        // Errors of both kinds.
        disk.ata(ata::READ_EXT, 4095, 2, &[])?;
        disk.ata(ata::READ_EXT, 0, most + 1, &[])?;
        disk.ata(0x00, 0, 0, &[])?;
        disk.query(3, b"a string")?.context("no answer")?;
        disk.query(3, b"another")?.context("no answer")?;
        disk.query(0, b"")?.context("no answer")?;
        initiator.ask(Request::mask(disk.mac, E11, 0, &[]))?;
        initiator.ask(Request::reserve(disk.mac, E11, 0, &[]))?;
        initiator.ask(Request::new(disk.mac, E11, 0xf0, vec![0; 36]))?;
        initiator.discover(Address::ALL, 1)?;
        drop(target);
        let captured = capture.stop()?;

        let from_target = format!("eth.src == {}", lab::link::target_mac(0));
        let malformed = captured.fields(
            &format!("({from_target}) && _ws.malformed"),
            &["frame.number", "aoe.cmd"],
        )?;
        ensure!(malformed.is_empty(), "MTU {mtu}: malformed replies {malformed:?}");
        let odd = captured.fields(
            &format!("({from_target}) && (aoe.version != 1 || !aoe)"),
            &["frame.number"],
        )?;
        ensure!(
            odd.is_empty(),
            "MTU {mtu}: replies that are no AoE of version 1: {odd:?}"
        );

        // Every unicast request to the target has its reply, by Wireshark's own matching for ATA, by tag for the rest.
        let lonely = format!(
            "eth.dst == {} && aoe.cmd == 0 && !aoe.response_in",
            lab::link::target_mac(0)
        );
        let lonely = captured.fields(&lonely, &["frame.number"])?;
        ensure!(
            lonely.is_empty(),
            "MTU {mtu}: ATA requests without a reply: {lonely:?}"
        );
        let asked = captured.fields(&format!("eth.dst == {}", lab::link::target_mac(0)), &["aoe.tag"])?;
        let answered = captured.fields(&format!("({from_target}) && aoe.response == 1"), &["aoe.tag"])?;
        ensure!(
            asked.len() > 11 + 2 * usize::from(most),
            "MTU {mtu}: only {} requests were captured",
            asked.len()
        );
        for tag in &asked {
            ensure!(answered.contains(tag), "MTU {mtu}: nothing answers tag {tag:?}");
        }
        let short = captured
            .frames()?
            .into_iter()
            .find(|frame| frame[6..12] == lab::link::target_mac(0).0 && frame.len() < 60);
        ensure!(short.is_none(), "MTU {mtu}: a frame under 60 bytes: {short:02x?}");
        let broadcast = captured.fields(
            &format!("({from_target}) && eth.dst == {}", Mac::BROADCAST),
            &["aoe.cmd"],
        )?;
        ensure!(!broadcast.is_empty(), "MTU {mtu}: no advertisement was captured");
    }
    Ok(())
}
