//! New golden images by the operator's order, refused ones among them: whatever becomes of it, machines that run read what they wrote.

use super::*;

/// What a command that is refused says.
fn refused(target: &Target, args: &[&str]) -> Result<String> {
    let output = target.ask(args)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{args:?} was not refused");
    Ok(said)
}

const COMMIT: [&str; 5] = ["overlay", "commit", "--force", "e12.9", "pc17"];

#[test]
fn a_refused_commit_takes_nothing_from_a_machine_that_runs_on_an_old_image() -> Result<()> {
    needs!(Need::Root);
    for of_pc in ["", "overlay = \"persistent\"\n"] {
        let room = Room::new()?;
        let target = room.start_with("", of_pc)?;
        let initiator = room.lab.open(0)?;
        let (pc, stranger) = (machine(&initiator, PC[0]), machine(&initiator, STRANGER));
        pc.find()?;
        pc.write(5, *b"machine1")?;
        if of_pc.is_empty() {
            done(&target, &["overlay", "pin", "e12.9", "pc17"])?;
        }
        room.replace(7)?;
        stranger.boot()?;
        ensure!(stranger.read(5)? == [7; 512]);
        for _ in 0..2 {
            let said = refused(&target, &COMMIT)?;
            ensure!(said.contains("replaced"), "{said}");
            ensure!(pc.read(5)? == pattern(5, *b"machine1") && pc.read(6)? == stamp(6));
        }
        pc.boot()?;
        pc.write(6, *b"machine1")?;
        ensure!(pc.read(6)? == pattern(6, *b"machine1") && pc.read(7)? == stamp(7));
        ensure!(told(&target, "pc17")?.context("pc17")?["problem"].is_null());
    }
    Ok(())
}

#[test]
fn a_machine_that_was_heard_keeps_its_copy_unless_the_operator_insists() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let target = room.start("")?;
    let initiator = room.lab.open(0)?;
    let pc = machine(&initiator, PC[0]);
    pc.find()?;
    pc.write(5, *b"machine1")?;
    for action in ["reset", "discard", "commit"] {
        let said = refused(&target, &["overlay", action, "e12.9", "pc17"])?;
        ensure!(
            said.contains("pc17 was heard") && said.contains("--force"),
            "{action}: {said}"
        );
        ensure!(pc.read(5)? == pattern(5, *b"machine1"), "{action}");
    }
    done(&target, &["overlay", "discard", "--force", "e12.9", "pc17"])?;
    ensure!(pc.read(5)? == stamp(5));
    Ok(())
}

#[test]
fn an_image_that_another_export_s_persistent_copy_lies_on_is_not_replaced() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let config = room.config("", "")?;
    let other = "[[export]]\nshelf = 12\nslot = 10\noverlay = \"persistent\"\noverlay_dir = \"overlays\"\n";
    let interfaces = "interfaces = [\"eth0\"]\n";
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(
        &config,
        format!("{text}\n{other}{interfaces}path = {:?}\n", room.golden.as_str()),
    )?;
    let target = room.start_config(&config)?;
    let initiator = room.lab.open(0)?;
    let pc = machine(&initiator, PC[0]);
    pc.find()?;
    pc.write(5, *b"machine1")?;
    let query = Request {
        tag: 0x8000_0042,
        ..Request::query(Mac::BROADCAST, Address::new(12, 10), 0, b"")
    };
    pc.ask(&query)?;
    let said = refused(&target, &COMMIT)?;
    ensure!(said.contains("pc17 (e12.10)"), "{said}");
    ensure!(pc.read(5)? == pattern(5, *b"machine1"));
    done(&target, &["overlay", "discard", "--force", "e12.10", "pc17"])?;
    done(&target, &COMMIT)?;
    let image = std::fs::read(room.golden.path())?;
    ensure!(image[5 * 512..6 * 512] == pattern(5, *b"machine1"));
    Ok(())
}

#[test]
fn of_commits_at_once_one_is_done_and_the_others_machines_run_on() -> Result<()> {
    needs!(Need::Root);
    let room = Room {
        lab: Lab::new(Options::default())?,
        golden: Image::stamped(64 << 11)?,
    };
    let target = room.start("")?;
    let initiator = room.lab.open(0)?;
    let macs = [PC[0], STRANGER, Mac([2, 0, 0, 0xae, 0, 10])];
    let machines = macs.map(|mac| machine(&initiator, mac));
    let names = ["pc17".to_owned(), macs[1].to_string(), macs[2].to_string()];
    for (pc, lba) in machines.iter().zip(5..) {
        pc.find()?;
        pc.write(lba, *b"machine.")?;
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let commit = |name| target.ask(&["overlay", "commit", "--force", "e12.9", name]);
        let commits: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(move || commit(name.as_str())))
            .collect();
        commits
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect()
    });
    let image = std::fs::read(room.golden.path())?;
    ensure!(image.len() == 64 << 20);
    let mut done = 0;
    for ((result, pc), lba) in results.into_iter().zip(&machines).zip(5u64..) {
        let output = result.map_err(|_| anyhow::anyhow!("a panic"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        let in_image = &image[lba as usize * 512..][..512];
        if output.status.success() {
            done += 1;
            ensure!(in_image == pattern(lba, *b"machine."));
        } else {
            ensure!(
                said.contains("being merged") || said.contains("replaced"),
                "{said}"
            );
            ensure!(in_image == stamp(lba));
            ensure!(pc.read(4)? == stamp(4));
        }
        ensure!(pc.read(lba)? == pattern(lba, *b"machine."));
    }
    ensure!(done == 1, "{done} commits");
    ensure!(image[100 * 512..101 * 512] == stamp(100) && image[(64 << 20) - 512..] == stamp((64 << 11) - 1));
    Ok(())
}
