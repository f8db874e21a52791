//! What goes wrong under a target: a kill, a backing file that shrinks, a full disk.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::frame::ata;
use lab::image::{Random, pattern, stamp};
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Request, Target, needs};

const E11: Address = Address::new(1, 1);

/// Kills the target 50 times amid writes; whatever was acknowledged must be in the image each time.
fn killed_amid_writes(options: &[&str]) -> Result<()> {
    const SECTORS: u64 = 4096;
    let lab = Lab::new(Options {
        mtu: 9000,
        ..Options::default()
    })?;
    let image = Image::stamped(SECTORS)?;
    let args = [&["serve", "1", "1", "eth0", image.as_str()], options].concat();
    let mut random = Random::new(1946);
    for round in 0..50_u64 {
        let mut target = Target::ready(&lab.target, &args, 1)?;
        let initiator = lab.open(0)?;
        let mac = initiator.find(E11)?.mac;
        // A window of writes without waiting, each to sectors of its own, killed somewhere in the middle.
        let first = round * 37;
        let writes: Vec<(u32, u64, u8)> = (0..64_u32)
            .map(|n| {
                (
                    0x100 + n,
                    (first + u64::from(n) * 17) % (SECTORS - 17),
                    1 + (n % 17) as u8,
                )
            })
            .collect();
        let word = (*b"round   ").map(|byte| {
            if byte == b' ' {
                b'0' + (round % 10) as u8
            } else {
                byte
            }
        });
        let data = |lba: u64, count: u8| -> Vec<u8> {
            (lba..lba + u64::from(count))
                .flat_map(|sector| pattern(sector, word))
                .collect()
        };
        let frames: Vec<Vec<u8>> = writes
            .iter()
            .map(|&(tag, lba, count)| {
                let mut request = Request::ata(mac, E11, ata::WRITE_EXT, lba, count, &data(lba, count));
                (request.src, request.tag) = (initiator.mac(), tag);
                request.bytes()
            })
            .collect();
        initiator.send_many(&frames)?;
        std::thread::sleep(Duration::from_micros(random.below(2000)));
        target.process.kill()?;
        let mut acknowledged = 0;
        for frame in initiator.collect(Duration::from_millis(20))? {
            let reply = lab::Reply::parse(&frame)?;
            let Some(&(_, lba, count)) = writes.iter().find(|(tag, ..)| *tag == reply.tag) else {
                continue;
            };
            ensure!(reply.status() == 0x40, "{reply:?}");
            acknowledged += 1;
            ensure!(
                image.read(lba, usize::from(count))? == data(lba, count),
                "round {round}: {count} sectors at {lba} were acknowledged and are not in the image"
            );
        }
        println!(
            "round {round}: {acknowledged} of {} acknowledged before the kill",
            writes.len()
        );
    }
    Ok(())
}

#[test]
fn fifty_kills_lose_no_acknowledged_write() -> Result<()> {
    needs!(Need::Root);
    killed_amid_writes(&[])
}

#[test]
fn fifty_kills_lose_no_acknowledged_write_with_sync() -> Result<()> {
    needs!(Need::Root);
    killed_amid_writes(&["--sync"])
}

#[test]
fn a_file_that_shrinks_gives_errors_and_no_crash() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(4096)?;
    let mut target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    ensure!(disk.read(4000, 2)?[..512] == stamp(4000));

    // Requests come all the while, some of them beyond the new end.
    let mut random = Random::new(17);
    for round in 0..600 {
        if round == 200 {
            image.file().set_len(1024 * 512)?;
        }
        let lba = random.below(4094);
        let write = random.below(2) == 0;
        let reply = if write {
            let data: Vec<u8> = (lba..lba + 2).flat_map(stamp).collect();
            disk.ata(ata::WRITE_EXT, lba, 2, &data)?
        } else {
            disk.ata(ata::READ_EXT, lba, 2, &[])?
        };
        ensure!(
            reply.aoe_error().is_none(),
            "an AoE error makes Linux wait for minutes: {reply:?}"
        );
        let good = reply.status() == 0x40;
        if round < 200 || lba + 2 <= 1024 {
            ensure!(good, "round {round}, sector {lba}: {reply:?}");
            ensure!(
                write || reply.data()[..512] == stamp(lba),
                "round {round}: sector {lba} is wrong"
            );
        } else if lba >= 1032 {
            // Within the last page the kernel gives zeros; beyond it there is nothing.
            ensure!(
                reply.status() & 1 != 0,
                "round {round}: sector {lba} is gone, yet the answer is {reply:?}"
            );
        }
    }
    ensure!(target.process.is_running());
    image.file().set_len(4096 * 512)?;
    disk.identify()?;
    let data = pattern(4000, *b"is back!");
    disk.write(4000, &data)?;
    ensure!(disk.read(4000, 1)? == data && image.read(4000, 1)? == data);
    ensure!(target.process.stop()? == 0);
    Ok(())
}

#[test]
fn a_full_disk_gives_device_faults_and_no_crash() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    // A file system of 4 MiB in the target's own mount namespace, with a sparse image of 16 MiB on it.
    lab.target.run(|| -> Result<()> {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("small"), "/mnt", Some("tmpfs"), flags, Some("size=4m"))
            .context("mounting a small file system")?;
        std::fs::File::create("/mnt/image.raw")?.set_len(16 << 20)?;
        Ok(())
    })?;
    let mut target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", "/mnt/image.raw"], 1)?;
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    let (mut stored, mut refused) = (Vec::new(), 0);
    for lba in (0..32768).step_by(16) {
        let reply = disk.ata(ata::WRITE_EXT, lba, 1, &stamp(lba))?;
        match (reply.aoe_error(), reply.status() & 1) {
            (None, 0) => stored.push(lba),
            (None, _) => refused += 1,
            _ => ensure!(false, "{reply:?}"),
        }
    }
    ensure!(
        !stored.is_empty() && refused > 0,
        "{} writes were stored, {refused} refused",
        stored.len()
    );
    for lba in stored {
        ensure!(
            disk.read(lba, 1)? == stamp(lba),
            "sector {lba} was acknowledged and is wrong"
        );
    }
    ensure!(target.process.is_running());
    ensure!(target.process.stop().is_ok());
    Ok(())
}
