//! Two gateways whose configurations name different images under one address: each gets the lock of its own, and no lock keeps them apart.

use lab::needs;

use super::*;

/// The words of a status.
fn asked(target: &Target, key: &str) -> Result<serde_json::Value> {
    let output = target.ask(&["failover", "status", "--json"])?;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(value["groups"][0][key].clone())
}

/// What the operator is told who takes a group while another gateway goes on serving something else.
fn is_refused(target: &Target) -> Result<()> {
    let taken = target.ask(&["failover", "take", "san1"])?;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    ensure!(
        !taken.status.success()
            && said.contains("another gateway goes on answering")
            && said.contains("different images"),
        "{taken:?}"
    );
    Ok(())
}

/// The status and the log of the gateway that left.
fn says_what_happened(target: &Target, images: &[Image; 2]) -> Result<()> {
    let words = [
        "two gateways active at one address".to_owned(),
        site::own_mac(0).to_string(),
        images[0].as_str().to_owned(),
        images[1].as_str().to_owned(),
        "xblade failover take san1".to_owned(),
    ];
    let (_, reason) = role(target)?;
    let log = target.process.log();
    let line = log
        .lines()
        .find(|line| line.contains("silent and closing: two gateways"));
    let line = line.context("no line in the log")?;
    for word in &words {
        ensure!(
            reason.contains(word.as_str()) && line.contains(word.as_str()),
            "{word}: {reason}\n{line}"
        );
    }
    ensure!(line.contains("ERROR"), "{line}");
    Ok(())
}

#[test]
fn of_two_gateways_with_different_images_one_leaves_and_says_why() -> Result<()> {
    needs!(NEEDS[0]);
    let net = network()?;
    let images = [Image::sparse(1 << 20)?, Image::sparse(1 << 20)?];
    // Each has what it asks for: the program knows nothing of the other one.
    let start = |number: usize| {
        let config = config_with(Path::new("/bin/true"), &images[number]);
        net.gateways[number].start(&config)
    };
    let mut first = start(0)?;
    wait_for_role(&first, "active")?;
    let second = start(1)?;
    wait_for_role(&second, "standby")?;
    eventually("the other one heard", TIMEOUT, || Ok(role(&second)?.1.is_empty()))?;
    let mut writer = writer(&net)?;
    writer.run_till(100, TIMEOUT)?;

    // It hears that the other one goes on answering, and never does itself.
    is_refused(&second)?;
    ensure!(role(&first)?.0 == "active");
    writer.run_till(100, TIMEOUT)?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;

    // What it does not hear it cannot know.
    drop(second);
    let second = start(1)?;
    wait_for_role(&second, "standby")?;
    net.connect_gateways(false)?;
    wait_for_role(&second, "active")?;
    ensure!(role(&first)?.0 == "active");
    let began = std::time::Instant::now();
    net.connect_gateways(true)?;
    wait_for_role(&second, "standby").with_context(|| second.process.log())?;
    println!(
        "two were active for {:.1?} after they heard each other",
        began.elapsed()
    );
    says_what_happened(&second, &images)?;
    // Who stays says so, as long as there are two.
    ensure!(role(&first)?.0 == "active");
    let stays = |line: &str| line.contains(&site::own_mac(1).to_string()) && line.contains("keeps it");
    first.process.wait_for_after(0, stays, TIMEOUT)?;
    eventually("one gateway alone", TIMEOUT, || Ok(role(&first)?.1.is_empty()))?;

    // What it has is not what initiators had: it does not take the other one's place by itself.
    first.process.kill()?;
    eventually("a silence that is long enough", TIMEOUT, || {
        Ok(asked(&second, "heard_seconds")?
            .as_f64()
            .is_some_and(|heard| heard > 8.0))
    })?;
    ensure!(role(&second)?.0 == "standby");
    let taken = second.ask(&["failover", "take", "san1"])?;
    ensure!(taken.status.success(), "{taken:?}");
    ensure!(role(&second)? == ("active".to_owned(), String::new()));
    Ok(())
}

#[test]
fn of_two_gateways_with_different_images_in_ceph_one_leaves_within_seconds() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    site.rbd("create --size 64M rbd/other")?;
    let other = site.config("").replace("rbd/vm", "rbd/other");
    site.net.connect_gateways(false)?;
    let first = site.start(0)?;
    wait_for_role(&first, "active")?;
    let second = site.net.gateways[1].start(&other)?;
    wait_for_role(&second, "active")?;
    let began = std::time::Instant::now();
    site.net.connect_gateways(true)?;
    wait_for_role(&second, "standby").with_context(|| second.process.log())?;
    println!(
        "two were active for {:.1?} after they heard each other",
        began.elapsed()
    );
    ensure!(role(&first)?.0 == "active" && role(&second)?.1.contains("two gateways active"));

    // The configuration is mended: it stands by for the image that the other one serves.
    let mut second = second;
    site.net.gateways[1].reload(&mut second, &site.config(""))?;
    eventually("a gateway without complaint", TIMEOUT, || {
        Ok(role(&second)? == ("standby".to_owned(), String::new()))
    })?;
    let mut writer = writer(&site.net)?;
    writer.run_till(100, TIMEOUT)?;
    stop(first)?;
    writer.run_till(100, TIMEOUT)?;
    ensure!(role(&second)?.0 == "active");
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()
}

#[test]
fn an_image_that_was_replaced_is_not_served_beside_the_one_of_before() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let first = site.start(0)?;
    wait_for_role(&first, "active")?;
    let second = site.start(1)?;
    wait_for_role(&second, "standby")?;
    let mut writer = writer(&site.net)?;
    writer.run_till(100, TIMEOUT)?;
    site.rbd("mv rbd/vm rbd/before")?;
    site.rbd("create --size 64M rbd/vm")?;
    is_refused(&second)?;
    writer.run_till(100, TIMEOUT)?;
    ensure!(role(&first)?.0 == "active" && role(&second)?.0 == "standby");
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;

    // The operator wants the new one.
    let released = first.ask(&["failover", "release", "san1"])?;
    ensure!(released.status.success(), "{released:?}");
    let line = first.process.log();
    let line = line
        .lines()
        .find(|line| line.contains("released by the operator"));
    ensure!(line.is_some_and(|line| line.contains("INFO")), "{line:?}");
    let taken = second.ask(&["failover", "take", "san1"])?;
    let active = role(&second)?.0 == "active";
    ensure!(taken.status.success() || active, "{taken:?}");
    ensure!(active && role(&first)?.0 == "standby");
    Ok(())
}
