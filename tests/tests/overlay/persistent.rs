//! What copies outlive: kills, boots and, where they are persistent, a restart of the host.

use std::process::Command;

use lab::net::MEMORY;

use super::*;

#[test]
fn a_copy_outlives_a_kill() -> Result<()> {
    needs!(Need::Root);
    outlives_kills("")
}

#[test]
fn a_persistent_copy_outlives_a_kill_before_its_commit() -> Result<()> {
    needs!(Need::Root);
    outlives_kills("overlay = \"persistent\"\n")
}

fn outlives_kills(of_pc: &str) -> Result<()> {
    let room = Room::new()?;
    let initiator = room.lab.open(0)?;
    let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
    for round in 0..4u64 {
        let mut target = room.start_with("flush_interval = \"1h\"", of_pc)?;
        pc.find()?;
        stranger.find()?;
        for before in 0..round {
            ensure!(pc.read(before)? == pattern(before, *b"machine1"), "round {round}");
            ensure!(
                stranger.read(before)? == pattern(before, *b"stranger"),
                "round {round}"
            );
        }
        pc.write(round, *b"machine1")?;
        stranger.write(round, *b"stranger")?;
        target.process.kill()?;
    }
    Ok(())
}

#[test]
fn a_persistent_copy_outlives_boots_and_a_restart_of_the_host() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let initiator = room.lab.open(0)?;
    let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
    let of_pc = "overlay = \"persistent\"\n";
    let mut target = room.start_with("sync = true", of_pc)?;
    for machine in [&pc, &stranger] {
        machine.boot()?;
        machine.write(5, *b"written.")?;
        machine.boot()?;
    }
    ensure!(pc.read(5)? == pattern(5, *b"written."));
    ensure!(stranger.read(5)? == stamp(5));
    let row = told(&target, "pc17")?.context("pc17")?;
    ensure!(row["persistent"] == true && row["written_bytes"] == 512, "{row}");
    target.process.kill()?;

    // What the page cache alone knew is of another boot of the host.
    let map = room.golden.directory().join("overlays/12.9/machine-pc17.map");
    std::fs::write(&map, b"what a power cut left")?;
    let mut target = room.start_with("sync = true", of_pc)?;
    pc.find()?;
    ensure!(pc.read(5)? == pattern(5, *b"written.") && pc.read(6)? == stamp(6));
    ensure!(target.process.stop()? == 0);

    // Another image is refused until the operator says so.
    room.replace(7)?;
    let mut target = room.start_with("", of_pc)?;
    target.process.wait_for_after(
        0,
        |line| line.contains("was made on another golden image"),
        TIMEOUT,
    )?;
    ensure!(pc.hears_nothing()?);
    let row = told(&target, "pc17")?.context("pc17")?;
    ensure!(
        row["problem"]
            .as_str()
            .is_some_and(|said| said.contains("xblade overlay reset")),
        "{row}"
    );
    done(&target, &["overlay", "reset", "--force", "e12.9", "pc17"])?;
    ensure!(pc.read(5)? == [7; 512]);
    Ok(())
}

#[test]
fn a_pause_puts_persistent_copies_on_their_medium() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let mut target = room.start_with("flush_interval = \"1h\"", "overlay = \"persistent\"\n")?;
    let initiator = room.lab.open(0)?;
    let pc = machine(&initiator, PC[0]);
    pc.find()?;
    pc.write(5, *b"written.")?;
    done(&target, &["export", "pause", "e12.9"])?;
    target.process.kill()?;
    std::fs::remove_file(room.golden.directory().join("overlays/12.9/machine-pc17.map"))?;
    let _target = room.start_with("", "overlay = \"persistent\"\n")?;
    ensure!(pc.read(5)? == pattern(5, *b"written."));
    Ok(())
}

/// What says which sectors are the copy's is made anew after a restart of the host, and others may have filled the memory by then.
#[test]
fn a_persistent_copy_is_served_when_the_memory_for_its_bits_is_full() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let has = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}"), MEMORY]);
        room.lab.target.output(mount).map(drop)
    };
    let start = || room.start_with("flush_interval = \"1h\"", "overlay = \"persistent\"\n");
    let mut target = start()?;
    let initiator = room.lab.open(0)?;
    let pc = machine(&initiator, PC[0]);
    pc.find()?;
    pc.write(5, *b"written.")?;
    ensure!(target.process.stop()? == 0);
    let map = room.golden.directory().join("overlays/12.9/machine-pc17.map");
    std::fs::remove_file(&map)?;
    let mut empty = Command::new("rm");
    empty.args(["-r", &format!("{MEMORY}/copies")]);
    room.lab.target.output(empty)?;
    // A page, which is the head of the file with the bits.
    has("size=4k")?;

    let mut target = start()?;
    pc.find()?;
    ensure!(pc.read(5)? == pattern(5, *b"written.") && pc.read(6)? == stamp(6));
    let told = |line: &str| line.contains("there is no room in memory");
    target.process.wait_for_after(0, told, TIMEOUT)?;
    // Acknowledged, and not on the medium.
    pc.write(7, *b"killed..")?;
    target.process.kill()?;
    let mut target = start()?;
    for (lba, word) in [(5, *b"written."), (7, *b"killed..")] {
        ensure!(pc.read(lba)? == pattern(lba, word));
    }
    ensure!(target.process.stop()? == 0);

    has("size=1m")?;
    let _target = start()?;
    for (lba, word) in [(5, *b"written."), (7, *b"killed..")] {
        ensure!(pc.read(lba)? == pattern(lba, word));
    }
    ensure!(std::fs::metadata(&map)?.len() == 4096, "they are in memory again");
    Ok(())
}
