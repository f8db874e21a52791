//! One export on one link: every combination of MTU, queues and XDP mode, read-only, flush, wrong requests.

use anyhow::{Result, ensure};
use aoe_common::Mac;
use lab::frame::ata;
use lab::image::{Random, pattern, stamp};
use lab::initiator::{Disk, Initiator};
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Process, Request, Target, needs};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const SECTORS: u64 = 8192;
const E11: Address = Address::new(1, 1);

/// The queue of a frame on a veth pair is the processor that sends it.
fn send_from_cpu(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Random reads and writes of every size against a model of the disk, sent by every queue in turn.
fn exercise(disk: Disk<'_>, model: &mut [u8], sectors_per_frame: u8, queues: u32, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    for round in 0..600 {
        if round % 50 == 0 {
            send_from_cpu(round / 50 % queues as usize)?;
        }
        let count = 1 + random.below(u64::from(sectors_per_frame));
        let lba = random.below(model.len() as u64 / 512 - count + 1);
        let range = lba as usize * 512..(lba + count) as usize * 512;
        if random.below(3) == 0 {
            random.fill(&mut model[range.clone()]);
            disk.write(lba, &model[range])?;
        } else {
            ensure!(
                disk.read(lba, count as u8)? == model[range],
                "seed {seed}: {count} sectors at {lba} are wrong"
            );
        }
    }
    Ok(())
}

fn serve(mtu: u32, queues: u32, mode: &str) -> Result<()> {
    let lab = Lab::new(Options {
        mtu,
        queues,
        links: 1,
    })?;
    let image = Image::stamped(SECTORS)?;
    let mut target = Target::start(
        &lab.target,
        &["serve", "1", "1", "eth0", image.as_str(), "--mode", mode],
    )?;
    let ready = target.wait_ready(0, 1)?;
    let word = if mode == "skb" { "generic" } else { "native" };
    for word in ["e1.1", "eth0", word, "copy"] {
        ensure!(ready.contains(word), "{word} is not in {ready:?}");
    }

    let sectors_per_frame = ((mtu - 36) / 512) as u8;
    let initiator = lab.open(0)?;
    discovered(&initiator, sectors_per_frame)?;
    let disk = initiator.find(E11)?;
    let identity = disk.identify()?;
    ensure!(identity.sectors() == SECTORS, "{} sectors", identity.sectors());
    ensure!(!identity.text(10..20).is_empty(), "a blank serial number");
    ensure!(disk.read(5, 1)? == stamp(5));

    let mut model: Vec<u8> = (0..SECTORS).flat_map(stamp).collect();
    exercise(
        disk,
        &mut model,
        sectors_per_frame,
        queues,
        u64::from(mtu + queues),
    )?;
    ensure!(
        image.read(0, SECTORS as usize)? == model,
        "the image is not what was written"
    );

    refuses(disk, sectors_per_frame)?;
    ensure!(
        target.process.stop()? == 0,
        "SIGTERM must end it with exit code 0"
    );
    let link = lab.target.ip("-d link show eth0")?;
    ensure!(!link.contains("xdp"), "an XDP program is left: {link}");
    Ok(())
}

/// The export, and nothing else, says what it is when everybody is asked.
fn discovered(initiator: &Initiator, sectors_per_frame: u8) -> Result<()> {
    let found = initiator.discover(Address::ALL, 1)?;
    ensure!(
        found.len() == 1 && found[0].address == E11,
        "discovery found {found:?}"
    );
    ensure!(
        found[0].src == lab::link::target_mac(0),
        "the answer came from {}",
        found[0].src
    );
    ensure!(
        found[0].config() == (64, sectors_per_frame, vec![]),
        "config {:?}",
        found[0].config()
    );
    Ok(())
}

/// Reads that cannot be answered get the error that says why.
fn refuses(disk: Disk<'_>, sectors_per_frame: u8) -> Result<()> {
    let too_many = disk.ata(ata::READ_EXT, 0, sectors_per_frame + 1, &[])?;
    ensure!(
        (too_many.status(), too_many.ata_error()) == (0x41, 0x04),
        "{too_many:?}"
    );
    let beyond = disk.ata(ata::READ_EXT, SECTORS - 1, 2, &[])?;
    ensure!(
        (beyond.status(), beyond.ata_error()) == (0x41, 0x10),
        "{beyond:?}"
    );
    Ok(())
}

#[test]
fn mtu_1500_native_1_queue() -> Result<()> {
    needs!(Need::Root);
    serve(1500, 1, "copy")
}

#[test]
fn mtu_1500_native_2_queues() -> Result<()> {
    needs!(Need::Root);
    serve(1500, 2, "copy")
}

#[test]
fn mtu_1500_generic_1_queue() -> Result<()> {
    needs!(Need::Root);
    serve(1500, 1, "skb")
}

#[test]
fn mtu_1500_generic_2_queues() -> Result<()> {
    needs!(Need::Root);
    serve(1500, 2, "skb")
}

#[test]
fn mtu_9000_native_1_queue() -> Result<()> {
    needs!(Need::Root);
    serve(9000, 1, "copy")
}

#[test]
fn mtu_9000_native_2_queues() -> Result<()> {
    needs!(Need::Root);
    serve(9000, 2, "copy")
}

#[test]
fn mtu_9000_generic_1_queue() -> Result<()> {
    needs!(Need::Root);
    serve(9000, 1, "skb")
}

#[test]
fn mtu_9000_generic_2_queues() -> Result<()> {
    needs!(Need::Root);
    serve(9000, 2, "skb")
}

#[test]
fn auto_takes_native_mode_on_veth() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let mut target = Target::start(&lab.target, &["serve", "1", "1", "eth0", image.as_str()])?;
    let ready = target.wait_ready(0, 1)?;
    ensure!(ready.contains("native"), "{ready}");
    Ok(())
}

#[test]
fn a_mode_that_the_interface_lacks_is_refused() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let args = ["serve", "1", "1", "eth0", image.as_str(), "--mode", "zerocopy"];
    let mut target = Target::start(&lab.target, &args)?;
    let status = target.process.wait(lab::target::START)?;
    ensure!(!status.success(), "veth has no zero-copy, yet it served");
    let log = target.process.log();
    ensure!(
        log.contains("eth0") && log.contains("zero"),
        "the message names neither interface nor mode: {log}"
    );
    Ok(())
}

#[test]
fn a_read_only_export_aborts_writes() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str(), "-r"], 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    let reply = disk.ata(ata::WRITE_EXT, 9, 1, &[0x57; 512])?;
    ensure!(
        reply.aoe_error().is_none() && (reply.status(), reply.ata_error()) == (0x41, 0x04),
        "{reply:?}"
    );
    ensure!(disk.read(9, 1)? == stamp(9) && image.read(9, 1)? == stamp(9));
    Ok(())
}

#[test]
fn offset_and_length_export_a_part() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let args = ["serve", "1", "1", "eth0", image.as_str(), "-o", "10", "-l", "20"];
    let _target = Target::ready(&lab.target, &args, 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    ensure!(disk.identify()?.sectors() == 20);
    ensure!(disk.read(0, 1)? == stamp(10));
    disk.write(19, &pattern(1, *b"lastone!"))?;
    ensure!(image.read(29, 1)? == pattern(1, *b"lastone!"));
    let reply = disk.ata(ata::WRITE_EXT, 20, 1, &[0x57; 512])?;
    ensure!((reply.status(), reply.ata_error()) == (0x41, 0x10), "{reply:?}");
    ensure!(image.read(30, 1)? == stamp(30), "a write left its part");
    Ok(())
}

#[test]
fn sync_writes_and_flushes_are_answered() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(4096)?;
    let _target = Target::ready(
        &lab.target,
        &["serve", "1", "1", "eth0", image.as_str(), "--sync"],
        1,
    )?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    let mut model: Vec<u8> = (0..4096).flat_map(stamp).collect();
    exercise(disk, &mut model, 2, 1, 7)?;
    disk.flush()?;
    ensure!(image.read(0, 4096)? == model);
    Ok(())
}

#[test]
fn growth_is_seen_by_the_next_identify() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    ensure!(disk.identify()?.sectors() == 64);
    image.file().set_len(128 * 512)?;
    ensure!(disk.identify()?.sectors() == 128);
    disk.write(127, &stamp(127))?;
    ensure!(disk.read(127, 1)? == stamp(127) && image.read(127, 1)? == stamp(127));
    Ok(())
}

#[test]
fn memory_stores_serve_without_touching_the_file() -> Result<()> {
    needs!(Need::Root);
    for store in ["ram", "null"] {
        let lab = Lab::new(Options::default())?;
        let image = Image::stamped(64)?;
        let args = ["serve", "1", "1", "eth0", image.as_str(), "--store", store];
        let _target = Target::ready(&lab.target, &args, 1)?;
        let initiator = lab.open(0)?;
        let disk = initiator.find(E11)?;
        ensure!(disk.identify()?.sectors() == 64, "{store}");
        disk.write(3, &[0x57; 512])?;
        let kept = if store == "ram" { [0x57; 512] } else { [0; 512] };
        ensure!(disk.read(3, 1)? == kept, "{store}: wrong data");
        ensure!(image.read(3, 1)? == stamp(3), "{store} wrote to the file");
    }
    Ok(())
}

#[test]
fn a_write_to_everybody_changes_nothing() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    for (dst, address) in [
        (disk.mac, Address::ALL),
        (Mac::BROADCAST, E11),
        (Mac::BROADCAST, Address::ALL),
    ] {
        let write = Request::ata(dst, address, ata::WRITE_EXT, 9, 1, &[0x57; 512]);
        let replies = initiator.answers(write, &disk)?;
        ensure!(replies.is_empty(), "{replies:?}");
    }
    ensure!(image.read(0, 64)? == (0..64).flat_map(stamp).collect::<Vec<u8>>());
    Ok(())
}

/// In a time namespace, as of a container that was moved here from another host, the clock is not that of the filter's stamps.
#[test]
fn in_a_time_namespace_writes_are_not_taken_for_old() -> Result<()> {
    needs!(Need::Root, Need::Tool("unshare"));
    for ahead in ["100000", "-20"] {
        let lab = Lab::new(Options::default())?;
        let image = Image::stamped(64)?;
        let xblade = lab::target::binary()?;
        let arguments = [
            "--time",
            "--monotonic",
            ahead,
            &xblade,
            "serve",
            "1",
            "1",
            "eth0",
            image.as_str(),
        ];
        let mut target = Process::spawn(&lab.target, "unshare", &arguments)?;
        let initiator = lab.open(0)?;
        let disk = initiator.find(E11)?;
        disk.write(3, &[7; 512])?;
        ensure!(disk.read(3, 1)? == [7; 512], "{ahead} s ahead");
        target.stop()?;
    }
    Ok(())
}
