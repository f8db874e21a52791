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
