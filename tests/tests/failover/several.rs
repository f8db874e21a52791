//! Groups of several images, of which one is in a state of its own.

use std::fmt::Write as _;

use lab::needs;

use super::*;

impl Site {
    /// The configuration of a gateway with more images in its group, at slots from 2 on, each with more for its export.
    fn config_of_several(&self, group: &str, images: &[(&str, &str)]) -> Result<String> {
        let mut text = self
            .config("")
            .replace("[[export]]", &format!("{group}[[export]]"));
        for ((image, export), slot) in images.iter().zip(2..) {
            write!(
                text,
                "[[export]]\nshelf = 1\nslot = {slot}\npath = \"rbd:rbd/{image}\"\ninterfaces = [\"eth0\"]\nfailover = \"san1\"\n{export}"
            )?;
        }
        Ok(text)
    }

    /// Has `rados` do something with the objects of the pool.
    fn rados(&self, words: &[&str]) -> Result<String> {
        let mut rados = Command::new("timeout");
        rados.arg("60").args(lab::ceph::words_of("rados"));
        rados.args(["-c", &self.conf(), "-p", "rbd"]).args(words);
        self.net.hub.output(rados)
    }
}

/// Waits until an export is served by an active gateway.
fn wait_for_export(target: &Target, address: &str) -> Result<()> {
    eventually(&format!("{address} that is served"), TIMEOUT, || {
        Ok(target.ask(&["ls", address])?.status.success())
    })
}

/// Its gateway is dead, and nobody says so a second time.
#[test]
fn an_image_that_was_away_at_the_take_over_is_taken_from_its_dead_gateway_later() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    site.rbd("create --size 64M rbd/second")?;
    let config = site.config_of_several("", &[("second", "")])?;
    let mut first = site.net.gateways[0].start(&config)?;
    wait_for_role(&first, "active")?;
    let second = site.net.gateways[1].start(&config)?;
    wait_for_role(&second, "standby")?;
    // The name of the image, which leads to all else. `rbd` would break the lock itself.
    let directory = tempfile::tempdir()?;
    let kept = directory.path().join("id").display().to_string();
    site.rados(&["get", "rbd_id.second", &kept])?;
    site.rados(&["rm", "rbd_id.second"])?;
    first.process.kill()?;
    wait_for_role(&second, "active")?;
    site.rados(&["put", "rbd_id.second", &kept])?;
    let locks = site.rbd("lock ls rbd/second")?;
    ensure!(locks.contains("client."), "the dead one has it: {locks}");
    wait_for_export(&second, "e1.2")?;
    ensure!(role(&second)?.0 == "active");
    Ok(())
}

/// Else the healthy one would be shut out for nothing, again and again.
#[test]
fn a_gateway_with_another_part_of_one_image_shuts_nobody_out() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    site.net.connect_gateways(false)?;
    for image in ["second", "third"] {
        site.rbd(&format!("create --size 64M rbd/{image}"))?;
    }
    let config = site.config_of_several("", &[("second", "")])?;
    let mut first = site.net.gateways[0].start(&config)?;
    wait_for_role(&first, "active")?;
    wait_for_export(&first, "e1.2")?;
    let other = site.config_of_several("", &[("second", "offset = \"1MiB\"\n")])?;
    let second = site.net.gateways[1].start(&other)?;
    eventually("a gateway that refuses to take it", TIMEOUT, || {
        Ok(role(&second)?.1.contains("the gateway before served offset 0"))
    })?;
    let blocklist = site.ceph("osd blocklist ls")?;
    ensure!(!blocklist.contains("10.77.0.2"), "{blocklist}");
    ensure!(role(&first)?.0 == "active", "{}", first.process.log());
    ensure!(!first.process.log().contains("silent and closing"));

    // One that is added to an active gateway, with what another one wrote long ago.
    site.rbd("image-meta set rbd/third xblade.range offset_7")?;
    let added = site.config_of_several("", &[("second", ""), ("third", "")])?;
    let mark = first.process.mark();
    site.net.gateways[0].reload(&mut first, &added)?;
    let forget = "rbd image-meta remove rbd/third xblade.range";
    let advises = |line: &str| line.contains("FAILED") && line.contains(forget);
    let (_, line) = first.process.wait_for_after(mark, advises, TIMEOUT)?;
    ensure!(role(&first)?.0 == "active", "{line}");
    site.rbd("image-meta remove rbd/third xblade.range")?;
    wait_for_export(&first, "e1.3")?;
    ensure!(role(&first)?.0 == "active" && role(&second)?.0 == "standby");
    Ok(())
}

/// Ceph gives its clients numbers, one after the other.
#[test]
fn a_take_over_of_many_images_connects_once_more_and_not_for_each() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    const IMAGES: usize = 12;
    let site = Site::new()?;
    let names: Vec<String> = (0..IMAGES).map(|number| format!("image{number}")).collect();
    for name in &names {
        site.rbd(&format!("create --size 8M rbd/{name}"))?;
    }
    site.rbd("create --size 8M rbd/mark")?;
    let images: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    // Nobody looks at the images by himself meanwhile, with a client of its own.
    let config = site.config_of_several("detect = \"60s\"\n", &images)?;
    let mut first = site.net.gateways[0].start(&config)?;
    let taken = |target: &Target| -> Result<()> {
        wait_for_role(target, "standby")?;
        let taken = target.ask(&["failover", "take", "san1"])?;
        ensure!(taken.status.success(), "{taken:?}");
        wait_for_role(target, "active")
    };
    taken(&first)?;
    let second = site.net.gateways[1].start(&config)?;
    wait_for_role(&second, "standby")?;
    first.process.kill()?;
    taken(&second)?;
    // Of the command itself.
    site.rbd("lock add rbd/mark mark")?;
    let number = |image: &str| -> Result<u64> {
        let locks = site.rbd(&format!("lock ls rbd/{image}"))?;
        let mut words = locks.split_whitespace();
        let client = words.find_map(|word| word.strip_prefix("client."));
        Ok(client.context("no lock")?.parse()?)
    };
    let gateway = number("vm")?;
    for name in &names {
        ensure!(number(name)? == gateway, "{name} is another client's");
    }
    let between = number("mark")? - gateway - 1;
    println!("{between} numbers of clients since the gateway's");
    // A client may take two of them, and on a busy machine one image may be done before the next begins.
    ensure!(between <= IMAGES as u64, "{between} numbers for {IMAGES} images");
    Ok(())
}
