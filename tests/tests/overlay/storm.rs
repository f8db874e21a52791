//! Many machines that boot at once from one image: what they take of memory, and the time till the last has read what it wants.

use std::os::unix::fs::MetadataExt as _;

use lab::image::SECTOR;

use super::*;

const MACHINES: u8 = 20;
/// What each reads: 32 MiB.
const READ_SECTORS: u64 = 32 << 11;
/// A frame of MTU 9000.
const AT_ONCE: u8 = 16;
/// What each machine may take besides the image: its bits, its place in tables, what it wrote.
const EACH_KIB: u64 = 512;
/// What differs from run to run, the program's own pages among it.
const REST_KIB: u64 = 8 << 10;

/// Each of these reads all of it, all at the same place by turns.
fn read_all(machines: &[Machine<'_>]) -> Result<Duration> {
    let began = Instant::now();
    for lba in (0..READ_SECTORS).step_by(AT_ONCE.into()) {
        for machine in machines {
            let reply = machine.ata(ata::READ_EXT, lba, AT_ONCE, &[])?;
            ensure!(
                reply.status() == 0x40 && reply.data()[..SECTOR] == stamp(lba),
                "sector {lba} of {}",
                machine.mac
            );
        }
    }
    Ok(began.elapsed())
}

#[test]
fn twenty_machines_that_read_the_same_take_the_memory_of_one() -> Result<()> {
    needs!(Need::Root);
    let room = Room {
        lab: Lab::new(Options {
            mtu: 9000,
            ..Options::default()
        })?,
        golden: Image::stamped(READ_SECTORS)?,
    };
    let target = room.start("")?;
    let initiator = room.lab.open(0)?;
    let machines: Vec<Machine<'_>> = (0..MACHINES)
        .map(|number| machine(&initiator, Mac([2, 0, 0, 0xae, 1, number])))
        .collect();
    let memory = || -> Result<[u64; 2]> {
        let process = &target.process;
        Ok([process.memory_kib("RssAnon")?, process.memory_kib("RssFile")?])
    };
    let start = memory()?;
    machines[0].boot()?;
    let alone = read_all(&machines[..1])?;
    let one = memory()?;
    for machine in &machines[1..] {
        machine.boot()?;
    }
    let together = read_all(&machines)?;
    for (machine, lba) in machines.iter().zip(0..) {
        machine.write(lba, *b"machine.")?;
    }
    let all = memory()?;
    let grown = |now: [u64; 2], kind: usize| now[kind].saturating_sub(start[kind]);
    println!(
        "{} KiB read by one machine in {alone:.2?}: xblade takes {} KiB and {} KiB of mapped files; by each of {MACHINES} in {together:.2?}: \
         {} KiB and {} KiB",
        READ_SECTORS / 2,
        grown(one, 0),
        grown(one, 1),
        grown(all, 0),
        grown(all, 1),
    );
    let each = u64::from(MACHINES) * EACH_KIB;
    ensure!(grown(all, 1) < READ_SECTORS / 2 + each + REST_KIB);
    ensure!(grown(all, 0) < grown(one, 0) + each + REST_KIB);
    let directory = room.golden.directory().join("overlays/12.9");
    let mut space = 0;
    for entry in std::fs::read_dir(directory)? {
        space += entry?.metadata()?.blocks() / 2;
    }
    println!("their copies take {space} KiB on the disk");
    ensure!(space < each);
    Ok(())
}
