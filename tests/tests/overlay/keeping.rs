//! Copies that the operator has stay, and what is told of their machines.

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
