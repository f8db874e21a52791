//! What the operator is told when machines cannot work on their copies.

use std::fs::File;
use std::io::Write as _;

use lab::eventually;
use lab::file_system::Mounted;
use serde_json::Value;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a command prints, and whether it ends with this code.
fn said(target: &Target, args: &[&str], code: i32) -> Result<(String, bool)> {
    let output = target.ask(args)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((text, output.status.code() == Some(code)))
}

/// Waits until `status` and the metrics say that something is wrong, with these words, and returns what `status` says.
fn degraded(target: &Target, words: &[&str], metric: &str) -> Result<Value> {
    let found = std::cell::RefCell::new(Value::Null);
    let told = eventually("status says it", PATIENCE, || {
        let (text, is_degraded) = said(target, &["status", "--json"], 3)?;
        let (metrics, _) = said(target, &["metrics"], 0)?;
        *found.borrow_mut() = serde_json::from_str(&text)?;
        let lines = metrics.lines().any(|line| line == metric);
        Ok(is_degraded && lines && words.iter().all(|word| text.contains(word)))
    });
    told.with_context(|| found.borrow().to_string())?;
    Ok(found.into_inner())
}

fn healthy(target: &Target) -> Result<()> {
    eventually("status is healthy", PATIENCE, || {
        Ok(said(target, &["status"], 0)?.1)
    })
}

#[test]
fn a_full_directory_of_copies_and_a_copy_that_is_refused_are_told_with_what_to_do() -> Result<()> {
    needs!(Need::Root);
    let room = Room::new()?;
    let place = Mounted::new(&room.lab.target, "tmpfs", "tmpfs", "size=4m")?;
    let config = room.config("", "overlay = \"persistent\"\n")?;
    let own = format!("overlay_dir = {:?}", place.path("overlays"));
    let text = std::fs::read_to_string(&config)?.replace("overlay_dir = \"overlays\"", &own);
    std::fs::write(&config, text)?;
    let mut target = room.start_config(&config)?;
    let initiator = room.lab.open(0)?;
    let pc = machine(&initiator, PC[0]);
    pc.find()?;
    pc.write(5, *b"before!!")?;
    healthy(&target)?;

    let filler = place.path("filler");
    let into = filler.clone();
    room.lab.target.run(move || {
        let mut file = File::create(into)?;
        while file.write_all(&[1; 4096]).is_ok() {}
        anyhow::Ok(())
    })?;
    degraded(
        &target,
        &["12.9: the file system is full", "xblade overlay discard"],
        "xblade_overlay_full_copies{export=\"e12.9\"} 0",
    )?;
    ensure!(pc.write(200, *b"no room!").is_err());
    let told = degraded(
        &target,
        &["writes of pc17 are refused"],
        "xblade_overlay_full_copies{export=\"e12.9\"} 1",
    )?;
    ensure!(told["full_copies"] == 1 && told["silent_machines"] == 0, "{told}");
    let (list, _) = said(&target, &["overlay", "list"], 0)?;
    ensure!(
        list.contains("full") && list.contains("the file system of overlay_dir is full"),
        "{list}"
    );
    room.lab.target.run(move || std::fs::remove_file(filler))?;
    healthy(&target)?;
    pc.write(200, *b"room now")?;
    ensure!(pc.read(5)? == pattern(5, *b"before!!"));

    ensure!(target.process.stop()? == 0, "{}", target.process.log());
    room.replace(9)?;
    let target = room.start_config(&config)?;
    let told = degraded(
        &target,
        &[
            "pc17 hears nothing",
            "another golden image",
            "xblade overlay reset",
        ],
        "xblade_overlay_silent_machines{export=\"e12.9\"} 1",
    )?;
    ensure!(told["silent_machines"] == 1, "{told}");
    let (list, _) = said(&target, &["overlay", "list"], 0)?;
    ensure!(
        list.contains("persistent") && list.contains("FAILED") && list.contains("another golden image"),
        "{list}"
    );
    done(&target, &["overlay", "reset", "--force", "e12.9", "pc17"])?;
    healthy(&target)
}
