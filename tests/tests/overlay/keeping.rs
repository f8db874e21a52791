//! Copies that the operator has stay, copies that running machines keep, and what is told of their machines.

use super::*;

#[test]
fn a_pinned_copy_stays_over_a_boot_and_its_machine_s_figures_begin_anew() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let mut target = room.start("")?;
    let initiator = room.lab.open(0)?;
    let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
    for machine in [&pc, &stranger] {
        machine.boot()?;
        machine.write(5, *b"written.")?;
        machine.read(5)?;
        machine.read(6)?;
    }
    let counted = |target: &Target| -> Result<[u64; 3]> {
        let row = told(target, "pc17")?.context("pc17")?;
        ensure!(row["counted_since"].as_f64() >= row["since"].as_f64(), "{row}");
        let bytes = |key: &str| row[key].as_u64().with_context(|| format!("{key}: {row}"));
        Ok([
            bytes("image_read_bytes")?,
            bytes("copy_read_bytes")?,
            bytes("wrote_bytes")?,
        ])
    };
    // Who reads ahead reads more of it, and what is answered late is asked for again.
    let [image, copy, wrote] = counted(&target)?;
    ensure!(
        image >= 512 && copy >= 512 && wrote >= 512,
        "{image} {copy} {wrote}"
    );

    done(&target, &["overlay", "pin", "e12.9", "pc17"])?;
    let table = target.ask(&["overlay", "list"])?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(table.contains("pinned"), "{table}");
    for _ in 0..2 {
        pc.boot()?;
        ensure!(counted(&target)? == [0; 3]);
        ensure!(pc.read(5)? == pattern(5, *b"written.") && pc.read(6)? == stamp(6));
        target.process.kill()?;
        target = room.start("")?;
        pc.find()?;
    }
    room.replace(7)?;
    for machine in [&pc, &stranger] {
        machine.boot()?;
    }
    ensure!(pc.read(5)? == pattern(5, *b"written.") && pc.read(6)? == stamp(6));
    ensure!(stranger.read(5)? == [7; 512]);
    done(&target, &["overlay", "unpin", "e12.9", "pc17"])?;
    pc.boot()?;
    ensure!(pc.read(5)? == [7; 512]);
    let output = target.ask(&["overlay", "pin", "e12.9", "nobody"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && said.contains("nobody has no copy that is open"),
        "{said}"
    );
    Ok(())
}

const THIRD: Mac = Mac([2, 0, 0, 0xae, 0, 10]);

fn pc18(mac: Mac, lines: &str) -> String {
    format!("[[machine]]\nname = \"pc18\"\nmacs = [\"{mac}\"]\n{lines}")
}

/// How a process of xblade ends.
#[derive(Clone, Copy)]
enum End {
    Kill,
    Terminate,
}

impl End {
    fn of(self, target: &mut Target) -> Result<()> {
        match self {
            End::Kill => target.process.kill(),
            End::Terminate => {
                ensure!(target.process.stop()? == 0);
                Ok(())
            }
        }
    }
}

/// The configuration gives the name of the copy that a machine runs on to another machine, and xblade is started again.
fn is_kept_over_a_restart(of_pc18: &str, reloads: bool, ends: [End; 2]) -> Result<()> {
    let room = Room::new()?;
    let config = room.config("", &pc18(STRANGER, of_pc18))?;
    let mut target = room.start_config(&config)?;
    let initiator = room.lab.open(0)?;
    let (runs, waits) = (machine(&initiator, STRANGER), machine(&initiator, THIRD));
    runs.find()?;
    runs.write(5, *b"machine1")?;
    room.config("", &pc18(THIRD, of_pc18))?;
    if reloads {
        done(&target, &["reload"])?;
    }
    let hears_nothing =
        || Ok::<_, anyhow::Error>(waits.ask_once(&Machine::query(0x8000_0042), AGAIN)?.is_none());
    for end in ends {
        end.of(&mut target)?;
        target = room.start_config(&config)?;
        ensure!(
            runs.read(5)? == pattern(5, *b"machine1"),
            "another copy under a running system"
        );
        ensure!(runs.serial()? == "12.9:pc18");
        ensure!(hears_nothing()?, "the other one runs on it");
        let keeps =
            |line: &str| line.contains("keeps the disk of pc18") && line.contains(&STRANGER.to_string());
        target.process.wait_for_after(0, keeps, TIMEOUT)?;
        let waits = |line: &str| line.contains("gets no disk yet");
        target.process.wait_for_after(0, waits, TIMEOUT)?;
        ensure!(hears_nothing()?);
        let row = told(&target, "pc18")?.context("pc18")?;
        let keeps = serde_json::json!([STRANGER.to_string()]);
        ensure!(row["macs"] == keeps && row["kept_by"] == keeps, "{row}");
        let table = target.ask(&["overlay", "list"])?;
        ensure!(String::from_utf8(table.stdout)?.contains("kept"));
    }
    runs.write(5, *b"machine2")?;
    runs.boot()?;
    ensure!(runs.serial()? == "12.9:020000ae0009" && runs.read(5)? == stamp(5));
    waits.find()?;
    ensure!(waits.serial()? == "12.9:pc18" && waits.read(5)? == pattern(5, *b"machine2"));
    // What has ended stays so.
    runs.write(5, *b"machine3")?;
    ends[0].of(&mut target)?;
    let _target = room.start_config(&config)?;
    ensure!(runs.serial()? == "12.9:020000ae0009" && runs.read(5)? == pattern(5, *b"machine3"));
    ensure!(waits.serial()? == "12.9:pc18" && waits.read(5)? == pattern(5, *b"machine2"));
    Ok(())
}

#[test]
fn a_volatile_copy_is_its_running_machine_s_after_a_start_under_another_configuration() -> Result<()> {
    needs!(Need::Root);
    is_kept_over_a_restart("", false, [End::Kill, End::Terminate])
}

#[test]
fn a_persistent_copy_is_its_running_machine_s_after_a_start_under_another_configuration() -> Result<()> {
    needs!(Need::Root);
    let persistent = "overlay = \"persistent\"\n";
    is_kept_over_a_restart(persistent, false, [End::Terminate, End::Kill])
}

#[test]
fn a_copy_is_its_running_machine_s_after_a_reload_and_a_start() -> Result<()> {
    needs!(Need::Root);
    is_kept_over_a_restart("", true, [End::Kill, End::Terminate])
}
