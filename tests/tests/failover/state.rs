//! What initiators set through one gateway is in force on the other, and what administrators do to the image is seen at once.

use std::time::Instant;

use aoe_common::Mac;
use lab::Request;
use lab::frame::ata;

use super::*;

/// May see the export, and may not use it.
const FRIEND: Mac = Mac([2, 0, 0, 0, 0, 0x65]);
/// May not even see it.
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);

#[test]
fn mask_and_reservation_move_with_the_image() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let config = site.config("wire_admin = true\n");
    let mut first = site.net.gateways[0].start(&config)?;
    wait_for_role(&first, "active")?;
    let second = site.net.gateways[1].start(&config)?;
    wait_for_role(&second, "standby")?;
    let initiator = site.net.initiator()?;
    let (own, disk) = (initiator.mac(), initiator.find(ADDRESS)?);
    let mask = initiator.ask(Request::mask(disk.mac, ADDRESS, 1, &[(1, own), (1, FRIEND)]))?;
    ensure!(mask.aoe_error().is_none(), "{mask:?}");
    let reservation = initiator.ask(Request::reserve(disk.mac, ADDRESS, 1, &[own]))?;
    ensure!(reservation.aoe_error().is_none(), "{reservation:?}");
    disk.write(5, &[5; 512])?;

    first.process.kill()?;
    wait_for_role(&second, "active")?;
    let now = initiator.ask(Request::mask(disk.mac, ADDRESS, 0, &[]))?;
    ensure!(now.argument[3..] == mask.argument[3..], "{now:?} {mask:?}");
    let now = initiator.ask(Request::reserve(disk.mac, ADDRESS, 0, &[]))?;
    ensure!(
        now.argument[1..] == reservation.argument[1..],
        "{now:?} {reservation:?}"
    );
    ensure!(disk.read(5, 1)? == [5; 512]);
    let answers = |source: Mac, mut request: Request| {
        request.src = source;
        initiator.answers(request, &disk)
    };
    let read = || Request::ata(disk.mac, ADDRESS, ata::READ_EXT, 5, 1, &[]);
    let query = || Request::query(disk.mac, ADDRESS, 0, b"");
    ensure!(answers(STRANGER, query())?.is_empty() && answers(STRANGER, read())?.is_empty());
    ensure!(answers(FRIEND, query())?.len() == 1);
    let refused = answers(FRIEND, read())?;
    ensure!(
        refused.len() == 1 && refused[0].aoe_error() == Some(6),
        "it is reserved: {refused:?}"
    );
    Ok(())
}

/// Ceph tells who watches an image that it has changed. xblade also looks by itself, here every 13 s: three times in two thirds of `detect`.
#[test]
fn growth_is_seen_when_it_happens() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    const TIMES: u64 = 6;
    const LOOKS: Duration = Duration::from_secs(13);
    let site = Site::new()?;
    let config = site
        .config("")
        .replace("[[export]]", "detect = \"60s\"\n[[export]]");
    let gateway = site.net.gateways[0].start(&config)?;
    wait_for_role(&gateway, "active")?;
    let initiator = site.net.initiator()?;
    let disk = initiator.find(ADDRESS)?;
    let began = Instant::now();
    for time in 1..=TIMES {
        let mebibytes = 64 + time;
        site.resize(mebibytes)?;
        eventually("the new size", TIMEOUT, || {
            Ok(disk.identify()?.sectors() == mebibytes << 11)
        })?;
    }
    println!("{TIMES} times in {:.1?}", began.elapsed());
    // By looks alone each time but the first would wait for the next one.
    ensure!(
        began.elapsed() < LOOKS * (TIMES as u32 - 1),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}
