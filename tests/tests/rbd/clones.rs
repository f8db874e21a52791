//! One golden image in Ceph, and a clone of it for each machine.

use lab::image::{pattern, stamp};
use lab::target::daemon;
use lab::{Image, Initiator};

use super::*;
use crate::overlay::{Machine, PC, STRANGER, done, machine, told};

const IMAGE_SECTORS: u64 = 8 << 11;
/// The machine with a persistent copy.
const KEEPER: aoe_common::Mac = aoe_common::Mac([2, 0, 0, 0xae, 0, 5]);

/// With an image `rbd/golden` and two snapshots of it, which differ in sector 6.
fn site() -> Result<Site> {
    let site = Site::new()?;
    let image = Image::stamped(IMAGE_SECTORS)?;
    site.rbd(&format!("import --no-progress {} rbd/golden", image.as_str()))?;
    site.rbd("snap create --no-progress rbd/golden@one")?;
    let mut target = site.ready("eth1", "rbd:rbd/golden")?;
    let initiator = site.lab.open(1)?;
    initiator.find(super::ADDRESS)?.write(6, &[7; SECTOR])?;
    ensure!(target.process.stop()? == 0, "{}", target.process.log());
    site.rbd("snap create --no-progress rbd/golden@two")?;
    for snapshot in ["one", "two"] {
        site.rbd(&format!("snap protect rbd/golden@{snapshot}"))?;
    }
    Ok(site)
}

fn configure(site: &Site, snapshot: &str) -> Result<()> {
    let text = format!(
        "[ceph]\nconf = {:?}\n[[export]]\nshelf = 12\nslot = 9\npath = \"rbd:rbd/golden@{snapshot}\"\ninterfaces = [\"eth0\"]\n\
         overlay = \"volatile\"\noverlay_dir = \"overlays\"\n[[machine]]\nname = \"pc17\"\nmacs = [\"{}\", \"{}\"]\n\
         [[machine]]\nname = \"keeper\"\nmacs = [\"{KEEPER}\"]\noverlay = \"persistent\"\n",
        site.ceph.conf(),
        PC[0],
        PC[1]
    );
    Ok(fs::write(site.ceph.path("xblade.toml"), text)?)
}

fn start(site: &Site, snapshot: &str) -> Result<Target> {
    configure(site, snapshot)?;
    start_again(site)
}

fn start_again(site: &Site) -> Result<Target> {
    Target::ready_again(&site.lab.target, &daemon(site.ceph.directory())?, 1)
}

fn machines(initiator: &Initiator) -> [Machine<'_>; 3] {
    [PC[0], KEEPER, STRANGER].map(|mac| machine(initiator, mac))
}

#[test]
fn each_machine_has_a_clone_of_its_own_and_new_snapshots_are_for_who_boots() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = site()?;
    let mut target = start(&site, "one")?;
    let initiator = site.lab.open(0)?;
    let [pc, keeper, stranger] = machines(&initiator);
    let all = [
        (&pc, *b"machine1"),
        (&keeper, *b"keeper.."),
        (&stranger, *b"stranger"),
    ];
    for (machine, word) in all {
        machine.boot()?;
        machine.write(5, word)?;
    }
    for (machine, word) in all {
        ensure!(machine.read(5)? == pattern(5, word) && machine.read(6)? == stamp(6));
    }
    ensure!(machine(&initiator, PC[1]).read(5)? == pattern(5, *b"machine1"));
    ensure!(pc.serial()? == "12.9:pc17");
    let row = told(&target, "pc17")?.context("pc17")?;
    ensure!(
        row["wrote_bytes"].as_u64() >= Some(512) && row["old_image"] == false,
        "{row}"
    );
    let images = site.rbd("ls rbd")?;
    for name in ["machine-pc17", "machine-keeper", "unknown-02-00-00-ae-00-09"] {
        ensure!(images.contains(&format!("golden.12.9.{name}\n")), "{images}");
    }

    // A restart disturbs nobody, nor does another snapshot in the config.
    ensure!(target.process.stop()? == 0, "{}", target.process.log());
    let target = start(&site, "two")?;
    for (machine, word) in all {
        machine.find()?;
        ensure!(machine.read(5)? == pattern(5, word) && machine.read(6)? == stamp(6));
    }
    ensure!(told(&target, "pc17")?.context("pc17")?["old_image"] == true);
    pc.boot()?;
    ensure!(pc.read(5)? == stamp(5) && pc.read(6)? == [7; SECTOR]);
    keeper.boot()?;
    ensure!(keeper.read(5)? == pattern(5, *b"keeper..") && keeper.read(6)? == stamp(6));

    done(&target, &["overlay", "reset", "--force", "e12.9", "keeper"])?;
    ensure!(keeper.read(5)? == stamp(5) && keeper.read(6)? == [7; SECTOR]);
    ensure!(told(&target, "keeper")?.context("keeper")?["persistent"] == true);
    done(
        &target,
        &["overlay", "discard", "--force", "e12.9", &STRANGER.to_string()],
    )?;
    ensure!(!site.rbd("ls rbd")?.contains("unknown-"));
    let output = target.ask(&["overlay", "commit", "e12.9", "pc17"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("rbd cp"), "{said}");
    Ok(())
}

#[test]
fn a_pinned_clone_stays_and_one_that_ceph_shuts_out_is_opened_anew() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = site()?;
    let mut target = start(&site, "one")?;
    let initiator = site.lab.open(0)?;
    let [pc, keeper, _] = machines(&initiator);
    for machine in [&pc, &keeper] {
        machine.boot()?;
        machine.write(5, *b"written.")?;
    }
    done(&target, &["overlay", "pin", "e12.9", "pc17"])?;
    ensure!(target.process.stop()? == 0, "{}", target.process.log());
    let target = start(&site, "one")?;
    pc.boot()?;
    ensure!(told(&target, "pc17")?.context("pc17")?["pinned"] == true);
    ensure!(pc.read(5)? == pattern(5, *b"written."));

    let clone = "rbd/golden.12.9.machine-pc17";
    let watchers = site.ceph.watchers(&site.lab.target, clone)?;
    ensure!(watchers.len() == 1, "{watchers:?}");
    site.ceph
        .ceph(&site.lab.target, &format!("osd blocklist add {}", watchers[0]))?;
    for machine in [&pc, &keeper] {
        ensure!(machine.read(5)? == pattern(5, *b"written."));
        machine.write(5, *b"go.on...")?;
        ensure!(machine.read(5)? == pattern(5, *b"go.on..."));
    }
    done(&target, &["overlay", "unpin", "e12.9", "pc17"])?;
    pc.boot()?;
    ensure!(pc.read(5)? == stamp(5));
    Ok(())
}

#[test]
fn a_clone_is_its_running_machine_s_after_a_start_under_another_configuration() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = site()?;
    let mut target = start(&site, "one")?;
    let initiator = site.lab.open(0)?;
    let [pc, keeper, _] = machines(&initiator);
    let all = [
        (&pc, *b"machine1", "pc17", &PC[..]),
        (&keeper, *b"keeper..", "keeper", &[KEEPER]),
    ];
    for (machine, word, ..) in all {
        machine.boot()?;
        machine.write(5, word)?;
    }
    ensure!(target.process.stop()? == 0, "{}", target.process.log());
    // The names are swapped.
    let config = site.ceph.path("xblade.toml");
    let swapped = fs::read_to_string(&config)?
        .replace("name = \"keeper\"", "name = \"\"")
        .replace("name = \"pc17\"", "name = \"keeper\"")
        .replace("name = \"\"", "name = \"pc17\"");
    fs::write(&config, swapped)?;
    let target = start_again(&site)?;
    for (machine, word, name, macs) in all {
        ensure!(machine.read(5)? == pattern(5, word) && machine.serial()? == format!("12.9:{name}"));
        let macs: Vec<String> = macs.iter().map(ToString::to_string).collect();
        let row = told(&target, name)?.with_context(|| name.to_owned())?;
        ensure!(row["kept_by"] == serde_json::json!(macs), "{row}");
    }
    Ok(())
}

/// An image that was opened a moment ago is closed again for each of them: with several threads of librados that ended the process
/// in one of five runs of this.
#[test]
fn one_machine_after_the_other_gets_a_clone() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    const MACHINES: u8 = 24;
    let site = site()?;
    let mut target = start(&site, "one")?;
    let initiator = site.lab.open(0)?;
    for number in 0..MACHINES {
        let mac = aoe_common::Mac([2, 0, 0, 0xaf, 0, number]);
        let machine = machine(&initiator, mac);
        machine.boot()?;
        machine.serial()?;
    }
    ensure!(site.rbd("ls rbd")?.matches("golden.12.9.unknown-").count() == usize::from(MACHINES));
    ensure!(target.process.stop()? == 0, "{}", target.process.log());
    Ok(())
}

/// As xblade leaves it that is killed when it has made a clone, and not noted yet whose. What somebody has written to is nobody's to take away.
#[test]
fn a_clone_whose_making_was_cut_off_is_made_anew_and_one_with_data_is_not() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = site()?;
    // Such marks come with an image that was made of a machine's clone, and Ceph gives them to its clones.
    for mark in [
        "xblade.overlay volatile",
        "xblade.golden rbd:rbd/elder@one",
        "xblade.clone elder.12.9.machine-pc17",
        "xblade.pinned yes",
    ] {
        site.rbd(&format!("image-meta set rbd/golden {mark}"))?;
    }
    for name in ["keeper", "pc18"] {
        site.rbd(&format!("clone rbd/golden@one rbd/golden.12.9.machine-{name}"))?;
    }
    for mark in ["overlay", "golden", "clone", "pinned"] {
        site.rbd(&format!("image-meta remove rbd/golden xblade.{mark}"))?;
    }
    site.rbd("clone rbd/golden@one rbd/golden.12.9.machine-pc17")?;
    site.rbd("clone rbd/golden@one rbd/golden.12.9.unknown-02-00-00-ae-00-09")?;
    site.rbd(
        "bench --io-type write --io-size 4096 --io-total 4096 rbd/golden.12.9.unknown-02-00-00-ae-00-09",
    )?;
    let mut target = start(&site, "one")?;
    let initiator = site.lab.open(0)?;
    let [pc, keeper, _] = machines(&initiator);
    for machine in [&pc, &keeper] {
        machine.boot()?;
        machine.write(5, *b"written.")?;
    }
    for (name, is_persistent) in [("pc17", false), ("keeper", true)] {
        let row = told(&target, name)?.with_context(|| name.to_owned())?;
        ensure!(
            row["persistent"] == is_persistent && row["pinned"] == false,
            "{row}"
        );
    }
    let is_told = |line: &str| line.contains("machine-pc17") && line.contains("cut off");
    target.process.wait_for_after(0, is_told, super::TIMEOUT)?;
    let is_refused = |line: &str| line.contains("rbd rm") && line.contains("did not make");
    target.process.wait_for_after(0, is_refused, super::TIMEOUT)?;
    ensure!(site.rbd("ls rbd")?.contains("golden.12.9.unknown-"));
    Ok(())
}
