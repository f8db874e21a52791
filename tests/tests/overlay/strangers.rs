//! Machines that the configuration does not name, or names while they run.

use super::*;

#[test]
fn strangers_are_refused_or_bounded_and_a_reload_names_them() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let mut target = room.start("unknown = \"refuse\"")?;
    let initiator = room.lab.open(0)?;
    let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
    pc.find()?;
    pc.write(5, *b"machine1")?;
    ensure!(stranger.ask_once(&Machine::query(0x8000_0042), AGAIN)?.is_none());
    // What was answered after it says that it was dealt with.
    pc.read(5)?;
    let more = format!("[[machine]]\nname = \"new\"\nmacs = [\"{STRANGER}\"]\n");
    room.config("unknown = \"refuse\"", &more)?;
    done(&target, &["reload"])?;
    stranger.find()?;
    ensure!(stranger.serial()? == "12.9:new");
    ensure!(pc.read(5)? == pattern(5, *b"machine1"), "disturbed by a reload");

    room.config("unknown_max = 1", "")?;
    done(&target, &["reload"])?;
    // It may be running on what it has, and gets another disk when it boots.
    stranger.find()?;
    ensure!(stranger.serial()? == "12.9:new");
    stranger.boot()?;
    ensure!(stranger.serial()? == "12.9:020000ae0009");
    let third = machine(&initiator, Mac([2, 0, 0, 0xae, 0, 10]));
    ensure!(third.ask_once(&Machine::query(0x8000_0042), AGAIN)?.is_none());
    target
        .process
        .wait_for_after(0, |line| line.contains("unknown_max"), TIMEOUT)?;
    ensure!(third.ask_once(&Machine::query(0x8000_0042), AGAIN)?.is_none());
    ensure!(told(&target, "02:00:00:ae:00:0a")?.is_none());
    Ok(())
}

/// The second machine has the disk's name now, the first one runs on it.
fn is_kept_until_its_machine_boots(of_pc18: &str) -> Result<()> {
    let third = Mac([2, 0, 0, 0xae, 0, 10]);
    let pc18 = |mac| format!("[[machine]]\nname = \"pc18\"\nmacs = [\"{mac}\"]\n{of_pc18}");
    let room = Room::new()?;
    let config = room.config("", &pc18(STRANGER))?;
    let mut target = room.start_config(&config)?;
    let initiator = room.lab.open(0)?;
    let (runs, waits) = (machine(&initiator, STRANGER), machine(&initiator, third));
    runs.find()?;
    runs.write(5, *b"machine1")?;
    room.config("", &pc18(third))?;
    done(&target, &["reload"])?;
    // Not as iPXE does, which would have a volatile copy begin anew in the end.
    let hears_nothing =
        || Ok::<_, anyhow::Error>(waits.ask_once(&Machine::query(0x8000_0042), AGAIN)?.is_none());
    ensure!(hears_nothing()?);
    let told = |line: &str| line.contains("gets no disk yet");
    target.process.wait_for_after(0, told, TIMEOUT)?;
    runs.write(5, *b"machine2")?;
    ensure!(hears_nothing()?, "the other one runs on it");
    ensure!(runs.read(5)? == pattern(5, *b"machine2"));
    runs.boot()?;
    ensure!(runs.serial()? == "12.9:020000ae0009");
    ensure!(runs.read(5)? == stamp(5));
    waits.find()?;
    ensure!(waits.serial()? == "12.9:pc18");
    ensure!(waits.read(5)? == pattern(5, *b"machine2"));
    Ok(())
}

#[test]
fn a_volatile_copy_is_its_running_machine_s_after_a_reload_and_nobody_else_s() -> Result<()> {
    needs!(Need::Root);
    is_kept_until_its_machine_boots("")
}

#[test]
fn a_persistent_copy_is_its_running_machine_s_after_a_reload_and_nobody_else_s() -> Result<()> {
    needs!(Need::Root);
    is_kept_until_its_machine_boots("overlay = \"persistent\"\n")
}

/// A scan of the network, or one stranger with many addresses.
#[test]
fn who_looks_for_the_disk_and_uses_it_not_has_no_copy_and_no_place() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let mut target = room.start("unknown_max = 1")?;
    let initiator = room.lab.open(0)?;
    for number in 0..32 {
        let scan = machine(&initiator, Mac([2, 0, 0, 0xaf, 0, number]));
        // As Linux does, and as iPXE does.
        scan.find()?;
        scan.boot()?;
    }
    let copies = room.golden.directory().join("overlays/12.9");
    let files = || Ok::<_, std::io::Error>(std::fs::read_dir(&copies)?.count());
    ensure!(files()? == 0, "{} files", files()?);
    let stranger = machine(&initiator, STRANGER);
    stranger.boot()?;
    stranger.write(5, *b"stranger")?;
    ensure!(told(&target, &STRANGER.to_string())?.is_some() && files()? > 0);
    stranger.boot()?;
    ensure!(stranger.read(5)? == stamp(5), "who has a copy gets it anew");
    let late = machine(&initiator, Mac([2, 0, 0, 0xaf, 0, 1]));
    ensure!(late.hears_nothing()?, "there is no place any more");
    let is_full = |line: &str| line.contains("unknown_max");
    target.process.wait_for_after(0, is_full, TIMEOUT)?;
    Ok(())
}
