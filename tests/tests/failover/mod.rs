//! Two gateways in front of one image in Ceph, of which one answers: what initiators see when it dies, hangs, loses Ceph or the
//! network, or is told to go; and that no acknowledged write is ever lost on the way.

mod attacked;
mod edge_cases;
mod linux;
mod many_exports;
mod several;
mod site;
mod stale;
mod state;
mod two_images;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use disks::Disk;
use lab::capture::Capture;
use lab::ceph::NEEDS;
use lab::needs::Need;
use lab::writer::Writer;
use lab::{Image, Target, eventually, needs};
use nix::sys::signal::Signal;

use site::{ADDRESS, Site, TIMEOUT, network, role, stop, wait_for_role, writer};

/// Subcommands of Query Config.
const READ: u8 = 0;
const SET: u8 = 3;

#[test]
fn a_gateway_that_dies_or_goes_is_followed_by_the_other() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let mut first = site.start(0)?;
    wait_for_role(&first, "active")?;
    let mut writer = writer(&site.net)?;
    writer.run_till(200, TIMEOUT)?;
    let initiator = site.net.initiator()?;
    let disk = initiator.find(ADDRESS)?;
    ensure!(
        disk.mac == site::GROUP,
        "it answers from the group's address: {}",
        disk.mac
    );
    ensure!(disk.query(SET, b"kept with the image")?.is_some());

    // The card takes frames to the group's address as long as the gateway is active.
    ensure!(site.takes_group_address(0)? && !site.takes_group_address(1)?);

    // The second one says nothing, to nobody.
    let heard = Capture::start(&site.net.hub, "gb")?;
    let second = site.start(1)?;
    wait_for_role(&second, "standby")?;
    ensure!(initiator.discover(ADDRESS, 1)?.len() == 1);
    writer.run_till(500, TIMEOUT)?;
    ensure!(role(&second)?.0 == "standby" && role(&first)?.0 == "active");
    let heard = heard.stop()?;
    let frames = heard.frames()?;
    // The switch knows where the initiator is: what goes to it does not pass by here, but for what comes from here.
    let to_initiator = |frame: &&Vec<u8>| frame[..6] == initiator.mac().0;
    let said: Vec<&Vec<u8>> = frames.iter().filter(to_initiator).collect();
    ensure!(said.is_empty(), "a standby answers nobody: {said:x?}");
    let asked = frames
        .iter()
        .filter(|frame| frame[6..12] == site::own_mac(1).0)
        .count();
    ensure!(asked > 1, "it asks for the other one");

    // Killed.
    first.process.kill()?;
    writer.longest_wait = Duration::ZERO;
    writer.run_till(500, TIMEOUT)?;
    println!("killed: the longest wait was {:?}", writer.longest_wait);
    ensure!(role(&second)?.0 == "active");
    let reply = disk.query(READ, b"")?.context("no answer")?;
    ensure!(reply.config().2 == b"kept with the image", "{reply:?}");
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;

    // An orderly end hands over.
    let first = site.start(0)?;
    wait_for_role(&first, "standby")?;
    stop(second)?;
    writer.longest_wait = Duration::ZERO;
    writer.run_till(500, TIMEOUT)?;
    println!("ended: the longest wait was {:?}", writer.longest_wait);

    moved_by_the_operator(&site, &mut writer, &first)
}

/// There and back again.
fn moved_by_the_operator(site: &Site, writer: &mut Writer, first: &Target) -> Result<()> {
    let second = site.start(1)?;
    wait_for_role(&second, "standby")?;
    let taken = second.ask(&["failover", "take", "san1"])?;
    ensure!(
        taken.status.success(),
        "{}",
        String::from_utf8_lossy(&taken.stderr)
    );
    writer.run_till(300, TIMEOUT)?;
    wait_for_role(first, "standby")?;
    ensure!(role(&second)?.0 == "active");
    eventually("a card without the address", TIMEOUT, || {
        Ok(!site.takes_group_address(0)?)
    })?;
    ensure!(site.takes_group_address(1)?);
    let back = first.ask(&["failover", "take", "san1"])?;
    ensure!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    writer.run_till(300, TIMEOUT)?;
    let released = first.ask(&["failover", "release", "san1"])?;
    ensure!(released.status.success());
    ensure!(role(first)?.0 == "standby");
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()
}

#[test]
fn a_gateway_that_hangs_or_loses_ceph_is_shut_out_and_answers_nobody_afterwards() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let mut first = site.start(0)?;
    wait_for_role(&first, "active")?;
    let mut second = site.start(1)?;
    wait_for_role(&second, "standby")?;
    let mut writer = writer(&site.net)?;
    writer.run_till(200, TIMEOUT)?;

    // It hangs with writes under way, and wakes up when the other one has long been writing.
    first.process.signal(Signal::SIGSTOP)?;
    writer.run_till(500, TIMEOUT)?;
    ensure!(role(&second)?.0 == "active");
    let mark = first.process.mark();
    first.process.signal(Signal::SIGCONT)?;
    writer.run_till(500, TIMEOUT)?;
    first
        .process
        .wait_for_after(mark, |line| line.contains("standing by"), TIMEOUT)?;
    ensure!(role(&second)?.0 == "active", "it stays where it is");
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;

    // It loses Ceph and keeps the network of the initiators, with writes inside librbd; Ceph comes back when they are old.
    first.process.kill()?;
    let first = site.start(0)?;
    wait_for_role(&first, "standby")?;
    writer.run_till(100, TIMEOUT)?;
    site.net.connect_ceph(1, false)?;
    writer.longest_wait = Duration::ZERO;
    writer.run_till(2000, TIMEOUT)?;
    println!("without Ceph: the longest wait was {:?}", writer.longest_wait);
    ensure!(role(&first)?.0 == "active");
    let mark = second.process.mark();
    site.net.connect_ceph(1, true)?;
    second
        .process
        .wait_for_after(mark, |line| line.contains("standing by"), TIMEOUT)?;
    writer.run_till(500, TIMEOUT)?;
    ensure!(role(&first)?.0 == "active");
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()
}

#[test]
fn gateways_that_do_not_hear_each_other_take_the_image_once_and_not_in_turns() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    site.net.connect_gateways(false)?;
    let first = site.start(0)?;
    wait_for_role(&first, "active")?;
    let mut writer = writer(&site.net)?;
    writer.run_till(200, TIMEOUT)?;
    let second = site.start(1)?;
    wait_for_role(&second, "active")?;
    wait_for_role(&first, "standby")?;
    let (_, reason) = role(&first)?;
    ensure!(!reason.is_empty());
    writer.run_till(1000, TIMEOUT)?;
    // The first one leaves it to the second for a minute.
    let held = first.ask(&["failover", "status", "--columns", "group,role,held"])?;
    let held = String::from_utf8_lossy(&held.stdout).into_owned();
    ensure!(held.contains("standby") && !held.contains(" -"), "{held}");

    // A gateway that the initiators cannot reach any more is no good, however well it is otherwise.
    drop(first);
    let first = site.start(0)?;
    site.net.connect_gateways(true)?;
    wait_for_role(&first, "standby")?;
    eventually("the other one heard", TIMEOUT, || Ok(role(&first)?.1.is_empty()))?;
    site.net.connect_initiators(1, false)?;
    writer.run_till(500, TIMEOUT)?;
    ensure!(role(&first)?.0 == "active");
    wait_for_role(&second, "standby")?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()
}

/// A group with the image, whose lock is this program.
fn config_with(program: &Path, image: &Image) -> String {
    format!(
        "[[failover]]\nname = \"san1\"\nmac = \"{}\"\npeers = [\"{}\", \"{}\"]\ncommand = \"{}\"\n[[export]]\nshelf = 1\n\
         slot = 1\npath = \"{}\"\ninterfaces = [\"eth0\"]\nfailover = \"san1\"\nsync = true\n",
        site::GROUP,
        site::own_mac(0),
        site::own_mac(1),
        program.display(),
        image.as_str()
    )
}

#[test]
fn a_program_can_take_the_part_of_the_lock() -> Result<()> {
    needs!(NEEDS[0]);
    let net = network()?;
    let shared = tempfile::tempdir()?;
    let image = Image::sparse(1 << 16)?;
    let program = shared.path().join("lock");
    // What a cluster manager knows: the owner is gone when its process is.
    let owner = shared.path().join("owner");
    let owner = owner.display();
    fs::write(
        &program,
        format!(
            "#!/bin/sh\ncase $1 in\n\
             take) if kill -0 \"$(cat {owner} 2>/dev/null)\" 2>/dev/null; then echo \"it is in other hands\" >&2; exit 1; fi\n\
             echo $PPID > {owner} ;;\n\
             check) [ \"$(cat {owner})\" = $PPID ] ;;\n\
             release) if [ \"$(cat {owner})\" = $PPID ]; then rm {owner}; fi ;;\nesac\n"
        ),
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let config = config_with(&program, &image);
    let start = |number: usize| net.gateways[number].start(&config);
    let mut first = start(0)?;
    wait_for_role(&first, "active")?;
    let second = start(1)?;
    wait_for_role(&second, "standby")?;
    let mut writer = writer(&net)?;
    writer.run_till(300, TIMEOUT)?;
    let refused = second.ask(&["failover", "take", "san1"])?;
    ensure!(!refused.status.success());
    ensure!(
        String::from_utf8_lossy(&refused.stderr).contains("it is in other hands"),
        "{refused:?}"
    );
    writer.run_till(300, TIMEOUT)?;
    first.process.kill()?;
    writer.run_till(300, TIMEOUT)?;
    ensure!(role(&second)?.0 == "active");
    // Somebody else has taken the storage away.
    fs::write(shared.path().join("owner"), "1")?;
    wait_for_role(&second, "standby")?;
    fs::remove_file(shared.path().join("owner"))?;
    let first = start(0)?;
    writer.run_till(300, TIMEOUT)?;
    ensure!(role(&first)?.0 == "active");
    stop(first)?;
    ensure!(
        !shared.path().join("owner").exists(),
        "it is given back at the end"
    );
    Ok(())
}

/// A process that waits in the kernel for a disk cannot be ended; the service can.
#[test]
fn a_check_that_hangs_with_its_disk_ends_the_service() -> Result<()> {
    needs!(NEEDS[0], Need::File("/dev/fuse"), Need::File("/dev/loop-control"));
    let net = network()?;
    let place = &net.gateways[0];
    let mut disk = Disk::new(&place.namespace, 1)?;
    let device = disk.block_device(&place.namespace)?;
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("lock");
    fs::write(
        &program,
        format!(
            "#!/bin/sh\n[ \"$1\" != check ] || exec dd if={device} of=/dev/null bs=4096 count=1 iflag=direct\n"
        ),
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let image = Image::sparse(1 << 16)?;
    let gateway = place.start(&config_with(&program, &image))?;
    wait_for_role(&gateway, "active")?;
    disk.switches().hangs.store(true, Ordering::Relaxed);
    wait_for_role(&gateway, "standby")?;
    let (_, reason) = role(&gateway)?;
    ensure!(reason.contains("it took longer than 5 s"), "{reason}");
    ensure!(disk.waiting() > 0, "it still waits");
    disk.switches().hangs.store(false, Ordering::Relaxed);
    stop(gateway)
}
