//! A group of very many exports.

use std::fmt::Write as _;
use std::time::Instant;

use lab::needs;

use super::*;

/// Exports, each of a part of one image.
const EXPORTS: usize = 250;
/// Sectors of each.
const SECTORS: usize = 8;
/// Answers that a standby has been sent until the other gateway ends: with that many left unread it would hear it for half a minute more.
const ANSWERS: u64 = 35_000;

/// Each export is asked for all the time, and one answer says all. What is not read of the others must not be heard later on, when there is
/// nobody any more who answers.
#[test]
fn a_standby_hears_no_answers_of_an_earlier_time() -> Result<()> {
    needs!(NEEDS[0]);
    let net = network()?;
    let image = Image::sparse((EXPORTS * SECTORS) as u64)?;
    let mut config = config_with(Path::new("/bin/true"), &image);
    let (group, export) = config.split_at(config.find("[[export]]").context("an export")?);
    let mut all = group.to_owned();
    for slot in 0..EXPORTS {
        let of_slot = export.replace("slot = 1", &format!("slot = {slot}"));
        let first = slot * SECTORS;
        write!(all, "{of_slot}offset = {first}\nlength = {SECTORS}\n")?;
    }
    config = all;
    let mut first = net.gateways[0].start(&config)?;
    wait_for_role(&first, "active")?;
    let second = net.gateways[1].start(&config)?;
    wait_for_role(&second, "standby")?;
    eventually("a standby with many answers", TIMEOUT, || {
        let mut cat = Command::new("cat");
        cat.arg("/sys/class/net/gb/statistics/tx_packets");
        Ok(net.hub.output(cat)?.trim().parse::<u64>()? > ANSWERS)
    })?;
    ensure!(role(&second)?.0 == "standby");
    first.process.kill()?;
    let killed = Instant::now();
    wait_for_role(&second, "active")?;
    let waited = killed.elapsed();
    println!("followed after {waited:.1?}");
    // Else it is 30 s and more.
    ensure!(waited < Duration::from_secs(15), "{waited:?}");
    Ok(())
}
