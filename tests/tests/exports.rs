//! Several exports, several interfaces, several paths, one process.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::capture::Capture;
use lab::image::{pattern, stamp};
use lab::link::target_mac;
use lab::needs::Need;
use lab::{Address, Image, Initiator, Lab, Options, Reply, Request, Target, needs, target};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Serves a config file of `(shelf, slot, image, further lines)` for each export; what it and the target keep lies beside
/// the first image. Waits for `ready` this many times.
fn daemon(lab: &Lab, exports: &[(u16, u8, &Image, &str)], times: usize) -> Result<Target> {
    let mut text = String::new();
    for (shelf, slot, image, lines) in exports {
        writeln!(
            text,
            "[[export]]\nshelf = {shelf}\nslot = {slot}\npath = {:?}\n{lines}\n",
            image.as_str()
        )?;
    }
    let place = exports[0].2.directory();
    std::fs::write(place.join("xblade.toml"), text)?;
    Target::ready(&lab.target, &target::daemon(place)?, times)
}

fn count(replies: &[Reply]) -> BTreeMap<(u16, u8), usize> {
    let mut counts = BTreeMap::new();
    for reply in replies {
        *counts
            .entry((reply.address.shelf, reply.address.slot))
            .or_default() += 1;
    }
    counts
}

#[test]
fn an_export_that_is_saved_outlives_reload_and_restart() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let images = [Image::stamped(64)?, Image::stamped(64)?];
    let lines = "interfaces = [\"eth0\"]";
    let mut target = daemon(&lab, &[(1, 1, &images[0], lines)], 1)?;
    let ask = |target: &Target, args: &[&str], code: i32| -> Result<String> {
        let output = target.ask(args)?;
        ensure!(output.status.code() == Some(code), "{args:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let saved = images[0].directory().join("conf.d/e1.5.toml");
    let shown = saved.display();
    let add = ["export", "add", "1", "5", "eth0", images[1].as_str(), "--save"];
    let said = ask(&target, &add, 0)?;
    ensure!(
        said == format!("+ e1.5\n= 1 unchanged\nsaved {shown}\n"),
        "{said}"
    );
    ensure!(ask(&target, &["reload"], 0)? == "= 2 unchanged\n");
    ask(&target, &add, 1)?;
    target.process.stop()?;
    let target = daemon(&lab, &[(1, 1, &images[0], lines)], 2)?;
    let initiator = lab.open(0)?;
    ensure!(initiator.find(Address::new(1, 5))?.read(5, 1)? == stamp(5));

    // What stands in the config file itself is the operator's to edit, and is served on.
    ask(&target, &["export", "rm", "e1.*", "--save"], 1)?;
    ensure!(saved.exists());
    let said = ask(&target, &["export", "rm", "e1.5", "--save"], 0)?;
    ensure!(
        said == format!("- e1.5\n= 1 unchanged\ndeleted {shown}\n"),
        "{said}"
    );
    ensure!(!saved.exists());
    ensure!(ask(&target, &["reload"], 0)? == "= 1 unchanged\n");

    // Whoever forgot --save says it once more.
    ask(&target, &add[..6], 0)?;
    let other = [&add[..], &["--set", "read_only=true"]].concat();
    ask(&target, &other, 1)?;
    ensure!(!saved.exists(), "with other settings it is another export");
    let said = ask(&target, &add, 0)?;
    ensure!(said == format!("= 2 unchanged\nsaved {shown}\n"), "{said}");
    ask(&target, &["export", "rm", "e1.5"], 0)?;
    ask(&target, &["export", "rm", "e1.5", "e1.6", "--save"], 1)?;
    let said = ask(&target, &["export", "rm", "e1.5", "--save"], 0)?;
    ensure!(said == format!("= 1 unchanged\ndeleted {shown}\n"), "{said}");
    ensure!(ask(&target, &["reload"], 0)? == "= 1 unchanged\n");
    Ok(())
}

#[test]
fn three_exports_on_two_interfaces_answer_once_each() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let images = [Image::stamped(64)?, Image::stamped(128)?, Image::stamped(256)?];
    let mut target = daemon(
        &lab,
        &[
            (1, 1, &images[0], "interfaces = [\"eth0\"]"),
            (1, 2, &images[1], "interfaces = [\"eth0\", \"eth1\"]"),
            (65534, 254, &images[2], "interfaces = [\"eth1\"]"),
        ],
        4,
    )?;

    for (n, expected) in [(0, [(1, 1), (1, 2)]), (1, [(1, 2), (65534, 254)])] {
        let initiator = lab.open(n)?;
        let replies = initiator.discover(Address::ALL, 2)?;
        ensure!(
            count(&replies) == expected.map(|address| (address, 1)).into(),
            "eth{n}: {replies:?}"
        );
        ensure!(
            replies.iter().all(|reply| reply.src == target_mac(n)),
            "eth{n}: {replies:?}"
        );
        for (shelf, slot) in expected {
            let address = Address::new(shelf, slot);
            let disk = initiator.find(address)?;
            let size = match slot {
                1 => 64,
                2 => 128,
                _ => 256,
            };
            ensure!(disk.identify()?.sectors() == size, "{address:?}");
            disk.write(u64::from(slot) % 64, &pattern(u64::from(shelf), *b"address!"))?;
        }
        // Wildcards by field.
        let half = initiator.discover(Address::new(1, 0xff), 2 - n as usize)?;
        ensure!(
            half.iter().all(|reply| reply.address.shelf == 1) && half.len() == 2 - n as usize,
            "{half:?}"
        );
    }
    // Each wrote to its own image and to no other.
    ensure!(images[0].read(1, 1)? == pattern(1, *b"address!") && images[0].read(2, 1)? == stamp(2));
    ensure!(images[1].read(2, 1)? == pattern(1, *b"address!") && images[1].read(1, 1)? == stamp(1));
    ensure!(images[2].read(62, 1)? == pattern(65534, *b"address!"));
    ensure!(target.process.stop()? == 0);
    Ok(())
}

#[test]
fn a_cap_of_sectors_holds_on_any_mtu() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        mtu: 9000,
        ..Options::default()
    })?;
    let image = Image::stamped(64)?;
    let _target = daemon(
        &lab,
        &[
            (
                1,
                1,
                &image,
                "interfaces = [\"eth0\"]\nlength = 32\nmax_sectors = 8",
            ),
            (1, 2, &image, "interfaces = [\"eth0\"]\noffset = 32"),
        ],
        2,
    )?;
    let initiator = lab.open(0)?;
    for (slot, most) in [(1, 8), (2, 17)] {
        let disk = initiator.find(Address::new(1, slot))?;
        let told = disk.query(0, b"")?.context("no answer")?.config().1;
        ensure!(told == most, "1.{slot} takes {told} sectors, not {most}");
        ensure!(disk.read(0, most)?.len() == usize::from(most) * 512);
        ensure!(disk.read(0, most + 1).is_err(), "1.{slot} gave more than it told");
    }
    Ok(())
}

#[test]
fn a_write_by_one_path_is_read_by_the_other() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let image = Image::stamped(4096)?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0,eth1", image.as_str()], 2)?;
    let (one, two) = (lab.open(0)?, lab.open(1)?);
    let paths = [one.find(Address::new(1, 1))?, two.find(Address::new(1, 1))?];
    ensure!(
        paths[0].mac == target_mac(0) && paths[1].mac == target_mac(1),
        "a path has the other's address"
    );
    ensure!(
        paths[0].identify()? == paths[1].identify()?,
        "the paths look like different disks"
    );
    for round in 0..1000_u64 {
        let lba = round * 37 % 4096;
        let data = pattern(round, *b"multi by");
        paths[round as usize % 2].write(lba, &data)?;
        ensure!(
            paths[(round as usize + 1) % 2].read(lba, 1)? == data,
            "round {round}: the other path is behind"
        );
    }
    Ok(())
}

#[test]
fn addresses_without_an_export_stay_silent() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let _target = Target::ready(&lab.target, &["serve", "7", "3", "eth0", image.as_str()], 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(Address::new(7, 3))?;
    for (shelf, slot) in [(7, 4), (8, 3), (0, 0), (0xffff, 4), (8, 0xff)] {
        let query = Request::query(disk.mac, Address::new(shelf, slot), 0, b"");
        ensure!(
            initiator.answers(query, &disk)?.is_empty(),
            "somebody answers for {shelf}.{slot}"
        );
    }
    Ok(())
}

/// Sends a request on a VLAN (or untagged) and returns the replies as they are on the wire; sockets do not show tags.
fn on_the_wire(
    lab: &Lab,
    initiator: &Initiator,
    tci: Option<u16>,
    mut request: Request,
) -> Result<Vec<Vec<u8>>> {
    (request.src, request.tci, request.tag) = (initiator.mac(), tci, 0x8000_1234);
    let capture = Capture::start(&lab.initiator, "eth0")?;
    initiator.send(&request.bytes())?;
    // The untagged export tells when the target has dealt with it.
    initiator.find(Address::new(1, 1))?.barrier()?;
    let frames = capture.stop()?.frames()?;
    Ok(frames
        .into_iter()
        .filter(|frame| frame[..6] == initiator.mac().0 && has_tag(frame, request.tag))
        .collect())
}

/// Whether a frame, with a VLAN tag or without, carries this AoE tag.
fn has_tag(frame: &[u8], tag: u32) -> bool {
    let at = if frame[12..14] == [0x81, 0] { 24 } else { 20 };
    frame.get(at..at + 4) == Some(&tag.to_be_bytes())
}

#[test]
fn vlans_are_kept_apart() -> Result<()> {
    needs!(Need::Root, Need::Tool("dumpcap"));
    let lab = Lab::new(Options::default())?;
    let images = [Image::stamped(64)?, Image::stamped(128)?];
    let _target = daemon(
        &lab,
        &[
            (1, 1, &images[0], "interfaces = [\"eth0\"]"),
            (1, 2, &images[1], "interfaces = [\"eth0\"]\nvlan = 5"),
        ],
        2,
    )?;
    let initiator = lab.open(0)?;
    let discover = || Request::query(Mac::BROADCAST, Address::ALL, 0, b"");

    // VID 5, priority 3 and the drop bit: the answer has VID and priority, not the bit.
    let replies = on_the_wire(&lab, &initiator, Some(0x7005), discover())?;
    ensure!(replies.len() == 1, "{} replies on VLAN 5", replies.len());
    ensure!(
        replies[0][12..18] == [0x81, 0, 0x60, 5, 0x88, 0xa2],
        "the tag is {:02x?}",
        &replies[0][12..18]
    );
    ensure!(
        replies[0][20..23] == [0, 1, 2] && replies[0].len() >= 64,
        "{:02x?}",
        replies[0]
    );
    let untagged = on_the_wire(&lab, &initiator, None, discover())?;
    ensure!(
        untagged.len() == 1 && untagged[0][16..19] == [0, 1, 1],
        "{untagged:02x?}"
    );
    // A priority tag is no VLAN: the untagged export answers with the same tag.
    let priority = on_the_wire(&lab, &initiator, Some(0xa000), discover())?;
    ensure!(
        priority.len() == 1 && priority[0][12..16] == [0x81, 0, 0xa0, 0],
        "{priority:02x?}"
    );
    ensure!(priority[0][20..23] == [0, 1, 1], "{priority:02x?}");
    ensure!(
        on_the_wire(&lab, &initiator, Some(6), discover())?.is_empty(),
        "somebody answers on VLAN 6"
    );

    let mac = lab::link::target_mac(0);
    let write = |slot| Request::ata(mac, Address::new(1, slot), 0x34, 3, 1, &pattern(3, *b"by vlan5"));
    ensure!(
        on_the_wire(&lab, &initiator, Some(5), write(1))?.is_empty(),
        "an untagged export answers on VLAN 5"
    );
    ensure!(
        on_the_wire(&lab, &initiator, None, write(2))?.is_empty(),
        "a VLAN's export answers untagged"
    );
    ensure!(
        images[0].read(3, 1)? == stamp(3) && images[1].read(3, 1)? == stamp(3),
        "a write crossed VLANs"
    );
    ensure!(on_the_wire(&lab, &initiator, Some(5), write(2))?.len() == 1);
    ensure!(images[1].read(3, 1)? == pattern(3, *b"by vlan5"));
    Ok(())
}

/// Has the daemon that serves the first image serve the second one, too, as 1.2 with these settings.
fn reload_with(target: &Target, images: &[Image; 2], settings: &str) -> Result<()> {
    let config = images[0].directory().join("xblade.toml");
    let mut text = std::fs::read_to_string(&config)?;
    let path = images[1].as_str();
    write!(
        text,
        "[[export]]\nshelf = 1\nslot = 2\npath = {path:?}\n{settings}\n"
    )?;
    std::fs::write(&config, text)?;
    target.ask(&["reload"])?;
    Ok(())
}

/// A bridge gets its frames without their tags: an export in a VLAN would be deaf there, and is told so by whoever is asked.
#[test]
fn a_vlan_whose_tags_do_not_reach_xdp_is_refused_at_start_and_reload_and_doctor_says_it() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    lab.target
        .ip("link add br0 type bridge forward_delay 0 mcast_snooping 0")?;
    lab.target.ip("link set br0 up")?;
    lab.target.ip("link set eth0 master br0")?;
    let images = [Image::stamped(64)?, Image::stamped(64)?];
    let tagged = "interfaces = [\"br0\"]\nvlan = 5";
    let untagged = (1, 1, &images[0], "interfaces = [\"br0\"]");
    let refused =
        |line: &str| line.contains("look untagged to XDP on br0") && line.contains("type vlan id 5");

    let mut target = daemon(&lab, &[untagged, (1, 2, &images[1], tagged)], 1)?;
    let (_, line) = target.process.wait_for_after(0, refused, TIMEOUT)?;
    ensure!(line.contains("1.2") && line.contains("FAILED"), "{line}");
    ensure!(target.ask(&["status"])?.status.code() == Some(3));
    ensure!(target.process.stop()? == 0);

    let mut target = daemon(&lab, &[untagged], 1)?;
    reload_with(&target, &images, tagged)?;
    let (_, line) = target.process.wait_for_after(0, refused, TIMEOUT)?;
    ensure!(line.contains("1.2") && line.contains("FAILED"), "{line}");
    // What is served is served on.
    ensure!(lab.open(0)?.find(Address::new(1, 1))?.read(5, 1)? == stamp(5));

    let mut doctor = std::process::Command::new(lab::target::binary()?);
    doctor.args(["doctor", "br0"]);
    let report = lab.target.output(doctor)?;
    ensure!(report.contains("no exports with `vlan`"), "{report}");
    Ok(())
}

/// The other end of a veth decides: served, with a word.
#[test]
fn a_vlan_on_a_veth_is_served_with_a_warning_at_start_and_reload() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let images = [Image::stamped(64)?, Image::stamped(64)?];
    let tagged = "interfaces = [\"eth0\"]\nvlan = 5";
    let warned = |line: &str| line.contains("1.2: eth0 is a veth") && line.contains("txvlan off");
    let mut target = daemon(&lab, &[(1, 2, &images[0], tagged)], 1)?;
    target.process.wait_for_after(0, warned, TIMEOUT)?;
    ensure!(target.process.stop()? == 0);

    let mut target = daemon(&lab, &[(1, 1, &images[0], "interfaces = [\"eth0\"]")], 1)?;
    reload_with(&target, &images, tagged)?;
    target.process.wait_for_after(0, warned, TIMEOUT)?;
    Ok(())
}

#[test]
fn an_advertisement_announces_each_export_once() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let initiator = lab.open(0)?;
    let _target = Target::ready(&lab.target, &["serve", "7", "3", "eth0", image.as_str()], 1)?;
    let reply = initiator.advertisement(|_| true)?;
    // An export is advertised once a second at most: a second time would be now.
    std::thread::sleep(Duration::from_millis(1200));
    let more = initiator.find(Address::new(7, 3))?.barrier()?;
    let more: Vec<_> = more
        .iter()
        .filter(|frame| frame[..6] == [0xff; 6] && frame[14] & 8 != 0)
        .collect();
    ensure!(more.is_empty(), "advertised again: {more:02x?}");
    ensure!(reply.dst == Mac::BROADCAST && reply.tag == 0 && reply.address == Address::new(7, 3));
    ensure!(reply.config() == (64, 2, vec![]), "{reply:?}");
    Ok(())
}
