//! What must not move a group, and what must although it looks well.

use lab::needs;

use super::*;

/// Questions to the active gateway have no answer for so long, if it gives none: more than it takes to be taken for dead.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

fn two_gateways(site: &Site) -> Result<[Target; 2]> {
    let first = site.start(0)?;
    wait_for_role(&first, "active")?;
    let second = site.start(1)?;
    wait_for_role(&second, "standby")?;
    eventually("the other one heard", TIMEOUT, || Ok(role(&second)?.1.is_empty()))?;
    Ok([first, second])
}

/// Its advertisements prove that it can send. What initiators send to it does not arrive.
#[test]
fn a_gateway_that_sends_and_does_not_receive_is_taken_over_from() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let [first, second] = two_gateways(&site)?;
    let mut writer = writer(&site.net)?;
    writer.run_till(100, TIMEOUT)?;
    let at_initiators = |word: &str| {
        let mut bridge = Command::new("bridge");
        bridge.args(["fdb", word, &site::GROUP.to_string(), "dev", "i", "master"]);
        bridge.args(["static", "sticky"].iter().filter(|_| word == "replace"));
        site.net.hub.output(bridge).map(drop)
    };
    // The switch has the group's address where no gateway is, whatever it sees.
    at_initiators("replace")?;
    wait_for_role(&second, "active").with_context(|| second.process.log())?;
    at_initiators("del")?;
    writer.run_till(200, TIMEOUT)?;
    wait_for_role(&first, "standby")?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()
}

#[test]
fn an_image_that_somebody_else_uses_is_left_to_him_until_the_operator_says_otherwise() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let alone = site.config("").replace("failover = \"san1\"\n", "");
    let mut other = site.net.gateways[0].start(&alone)?;
    other.process.wait_for("e1.1 ready", TIMEOUT)?;
    let gateway = site.start(1)?;
    let refused = |what: &str| {
        eventually(what, TIMEOUT, || {
            let (role, reason) = role(&gateway)?;
            Ok(role == "standby" && reason.contains("no gateway of a failover group"))
        })
    };
    refused("a gateway that leaves the image to its owner")?;
    let said = site.net.gateways[1].check()?;
    ensure!(said.contains("which is no gateway of a failover group"), "{said}");
    refused("the same, later")?;
    ensure!(!other.process.log().contains("FENCED"), "{}", other.process.log());

    let taken = gateway.ask(&["failover", "take", "san1"])?;
    ensure!(taken.status.success(), "{taken:?}");
    wait_for_role(&gateway, "active")?;
    other.process.wait_for("FENCED", TIMEOUT).map(drop)
}

#[test]
fn a_paused_export_is_no_reason_to_take_it_over_and_each_gateway_shows_the_same_disk() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let [first, second] = two_gateways(&site)?;
    let mut writer = writer(&site.net)?;
    writer.run_till(100, TIMEOUT)?;
    let initiator = site.net.initiator()?;
    let shown = || -> Result<_> { initiator.find(ADDRESS)?.identify() };
    let before = shown()?;

    let said = first.ask(&["export", "pause", "e1.1"])?;
    ensure!(said.status.success(), "{said:?}");
    writer.run_for(LONG_ENOUGH)?;
    ensure!(role(&first)?.0 == "active" && role(&second)?.0 == "standby");
    let said = first.ask(&["export", "resume", "e1.1"])?;
    ensure!(said.status.success(), "{said:?}");
    writer.run_till(200, TIMEOUT)?;

    let taken = second.ask(&["failover", "take", "san1"])?;
    ensure!(taken.status.success(), "{taken:?}");
    wait_for_role(&second, "active")?;
    writer.run_till(100, TIMEOUT)?;
    let after = shown()?;
    ensure!(before == after, "{before:?}\n{after:?}");
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()
}

#[test]
fn an_active_gateway_that_answers_nobody_for_want_of_ceph_says_so_once_and_when_it_is_over() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let mut gateway = site.start(0)?;
    wait_for_role(&gateway, "active")?;
    let lines = [
        (
            false,
            "WARN failover group san1: ACTIVE, and silent: Ceph does not answer",
        ),
        (true, "INFO failover group san1: ACTIVE, and answering again"),
    ];
    for (up, words) in lines {
        site.net.connect_ceph(0, up)?;
        let told = |line: &str| line.contains(words.split_once(' ').map_or("", |(_, said)| said));
        gateway.process.wait_for_after(0, told, TIMEOUT)?;
    }
    for (_, words) in lines {
        let (level, said) = words.split_once(' ').context("words")?;
        let log = gateway.process.log();
        let told: Vec<&str> = log.lines().filter(|line| line.contains(said)).collect();
        ensure!(told.len() == 1 && told[0].contains(level), "{told:?}\n{log}");
    }
    Ok(())
}

/// A write that is inside a gateway which was cut off must not be carried out when Ceph has forgotten that it was shut out.
#[test]
fn who_was_taken_over_from_stays_shut_out() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let [mut first, second] = two_gateways(&site)?;
    first.process.kill()?;
    wait_for_role(&second, "active")?;
    let listed = site.ceph("osd blocklist ls")?;
    // Each line has a client, and until when: a day with the time of day behind it.
    let days = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.get(..10));
    let until = days.max().context("nobody is shut out")?;
    let mut date = Command::new("date");
    date.args(["-u", "-d", "+20 days", "+%F"]);
    let weeks_from_now = site.net.hub.output(date)?;
    ensure!(
        until > weeks_from_now.trim(),
        "{listed}\n{}",
        second.process.log()
    );

    // A setting of the image's own would come before that.
    drop(second);
    site.rbd("image-meta set rbd/vm conf_rbd_blocklist_expire_seconds 30")?;
    let gateway = site.start(0)?;
    eventually("a gateway that refuses the image", TIMEOUT, || {
        Ok(role(&gateway)?.1.contains("rbd_blocklist_expire_seconds"))
    })?;
    site.rbd("image-meta remove rbd/vm conf_rbd_blocklist_expire_seconds")?;
    wait_for_role(&gateway, "active")
}

#[test]
fn a_gateway_that_would_show_another_part_of_the_image_does_not_take_it() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let mut first = site.start(0)?;
    wait_for_role(&first, "active")?;
    let second = site.net.gateways[1].start(&site.config("offset = \"1MiB\"\n"))?;
    wait_for_role(&second, "standby")?;
    first.process.kill()?;
    eventually("a gateway that refuses to take it", TIMEOUT, || {
        Ok(role(&second)?.1.contains("the gateway before served offset 0"))
    })?;
    let taken = second.ask(&["failover", "take", "san1"])?;
    ensure!(taken.status.success(), "{taken:?}");
    wait_for_role(&second, "active")
}
