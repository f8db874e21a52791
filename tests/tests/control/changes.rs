//! What operators change of a running target: reload, pause and resume, exports from the command line, failover groups, kept states.

use super::*;

#[test]
fn a_reload_tells_what_it_did() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new(&export(9, "/nonexistent/nine", ""))?;
    let other = Image::stamped(64)?;
    let e11 = |more: &str| export(1, site.image.as_str(), more);
    site.configure(&(e11("read_only = true") + &export(3, other.as_str(), "")))?;
    let expected = "+ e1.3\n~ e1.1  read_only false → true\n- e1.9\n= 0 unchanged\n";
    ensure!(site.ask(&["reload", "--dry-run"], 0)? == expected);
    ensure!(site.export()?["read_only"] == false, "a dry run changes nothing");
    let watch = Stopwatch::start()?;
    let reloaded = site.ask(&["reload"], 0)?;
    ensure!(reloaded == expected, "{reloaded}");
    // As long as requests in flight are waited for: there are none, and nobody else holds the old store.
    ensure!(watch.idle_time()? < Duration::from_secs(5), "it waited");
    ensure!(site.export()?["read_only"] == true);
    ensure!(site.lab.open(0)?.find(Address::new(1, 3))?.read(5, 1)? == stamp(5));

    site.configure("[[export]]\nshelf = 1\nslot = 255\n")?;
    let wrong = site.target.ask(&["reload"])?;
    ensure!(wrong.status.code() == Some(1), "{}", told(&wrong));
    ensure!(told(&wrong).contains("slot = 255: a slot is"), "{}", told(&wrong));
    ensure!(site.export()?["state"] == "ready", "what was in force stays so");
    let metrics = site.ask(&["metrics"], 0)?;
    ensure!(metrics.contains("\nxblade_reload_success 0\n"), "{metrics}");

    site.configure(&(e11("") + &export(4, "/nonexistent/four", "")))?;
    let told = site.ask(&["reload"], 3)?;
    ensure!(
        told.contains("+ e1.4\n") && told.contains("FAILED e1.4: "),
        "{told}"
    );
    Ok(())
}

#[test]
fn a_paused_export_is_silent_and_on_the_medium_until_it_is_resumed() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new("")?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(E11)?;
    // Another export proves that what is silent was not merely slow.
    let other = Image::stamped(64)?;
    site.ask(
        &[
            "export",
            "add",
            "1",
            "2",
            "eth0",
            other.as_str(),
            "--set",
            "read_only=true",
        ],
        0,
    )?;
    let witness = initiator.find(Address::new(1, 2))?;
    let word = pattern(9, *b"a word 2");
    disk.write(9, &word)?;
    ensure!(site.ask(&["export", "pause", "e1.1"], 0)? == "paused e1.1\n");
    ensure!(site.image.read(9, 1)? == word);
    ensure!(
        initiator
            .answers(Request::query(disk.mac, E11, 0, b""), &witness)?
            .is_empty()
    );
    let state = site.json(&["ls", "e1.1"], 3)?;
    ensure!(state["exports"][0]["state"] == "paused", "{state}");

    // Moved meanwhile: another store, still paused.
    let moved = path(&site.image, "moved.raw");
    std::fs::copy(site.image.path(), &moved)?;
    site.configure(&(export(1, &moved, "") + &export(2, other.as_str(), "read_only = true")))?;
    let told = site.ask(&["reload"], 0)?;
    ensure!(told.contains("~ e1.1  path "), "{told}");
    ensure!(
        initiator
            .answers(Request::query(disk.mac, E11, 0, b""), &witness)?
            .is_empty()
    );
    ensure!(site.ask(&["export", "resume", "e1.*"], 0)? == "resumed e1.1\n");
    ensure!(initiator.find(E11)?.read(9, 1)? == word);
    site.ask(&["export", "resume", "e1.1"], 1)?;
    site.ask(&["export", "pause", "e7.7"], 1)?;
    Ok(())
}

#[test]
fn exports_come_and_go_without_the_file() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new("")?;
    let other = Image::stamped(64)?;
    let add = ["export", "add", "1", "5", "eth0", other.as_str()];
    let forgotten = "not saved: the next reload or restart forgets it (--save keeps it)\n";
    ensure!(site.ask(&add, 0)? == format!("+ e1.5\n= 1 unchanged\n{forgotten}"));
    let initiator = site.lab.open(0)?;
    ensure!(initiator.find(Address::new(1, 5))?.read(5, 1)? == stamp(5));
    let twice = site.target.ask(&add)?;
    ensure!(twice.status.code() == Some(1), "{}", told(&twice));
    ensure!(site.ask(&["export", "rm", "e1.5"], 0)? == format!("- e1.5\n= 1 unchanged\n{forgotten}"));
    site.ask(&["export", "rm", "e1.5"], 1)?;
    site.ask(&add, 0)?;
    ensure!(
        site.ask(&["reload"], 0)? == "- e1.5\n= 1 unchanged\n",
        "the file is the truth"
    );
    Ok(())
}

#[test]
fn a_name_that_is_no_exports_is_refused_before_anything_is_done() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new("")?;
    for args in [
        &["export", "pause", "e1.*", "e7.7"][..],
        &["export", "resume", "e1.1", "e7.7"],
        &["export", "rm", "e1.*", "e7.7"],
        &["ls", "e7.7"],
        &["ls", "e1.1", "e7.7"],
        &["initiators", "e7.7"],
        &["stat", "e7.7"],
        &["overlay", "list", "e7.7"],
        &["dump", "e7.7", "-w", "/dev/null"],
    ] {
        let output = site.target.ask(args)?;
        let said = told(&output);
        ensure!(output.status.code() == Some(1), "{args:?}: {said}");
        ensure!(
            output.stdout.is_empty() && said.contains("e7.7"),
            "{args:?}: {said}"
        );
    }
    ensure!(site.export()?["state"] == "ready");
    Ok(())
}

#[test]
fn a_group_that_cannot_be_taken_is_told_at_once() -> Result<()> {
    needs!(Need::Root);
    let image = Image::stamped(64)?;
    let group = "[[failover]]\nname = \"g\"\nmac = \"02:78:62:00:00:01\"\npeers = [\"02:00:00:00:00:0a\"]\n\
                 command = \"/no/such/program\"\ndetect = \"60s\"\n";
    let site = Site::new(&(group.to_owned() + &export(2, image.as_str(), "failover = \"g\"")))?;
    for _ in 0..3 {
        // A try ends before anybody can look; waiting for the group to move would take a minute.
        let watch = Stopwatch::start()?;
        let output = site.target.ask(&["failover", "take", "g"])?;
        let said = told(&output);
        ensure!(
            output.status.code() == Some(1) && said.contains("/no/such/program take"),
            "{said}"
        );
        ensure!(watch.idle_time()? < Duration::from_secs(30), "{said}");
    }
    let ls = site.target.ask(&["ls", "e1.2", "-o", "reason"])?;
    let said = told(&ls);
    ensure!(
        said.contains("/no/such/program take") && !said.contains("another gateway"),
        "{said}"
    );
    Ok(())
}

#[test]
fn what_initiators_left_behind_is_told_and_cleared_by_the_target() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new("")?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(E11)?;
    disk.query(4, b"label \xff")?;
    let list = site.json(&["state", "list"], 0)?;
    let kept = &list["states"][0];
    ensure!(
        kept["state"] == "1.1" && kept["string"] == "label \\xff" && kept["string_bytes"] == 7,
        "{list}"
    );
    let shown = site.ask(&["state", "show", "1", "1"], 0)?;
    ensure!(
        shown.contains("\"label \\xff\" (7 bytes)") && shown.contains("everyone"),
        "{shown}"
    );
    let cleared = site.json(&["state", "clear", "1", "1", "--string"], 0)?;
    ensure!(cleared["state"] == "1.1", "{cleared}");
    ensure!(site.json(&["state", "list"], 0)?["states"] == serde_json::json!([]));
    let reply = disk.query(0, b"")?.context("no reply")?;
    ensure!(reply.config().2.is_empty(), "it is in force at once");

    let wrong = site.target.ask(&["state", "clear", "9", "9"])?;
    ensure!(
        wrong.status.code() == Some(1) && told(&wrong).contains("nothing is kept for 9.9"),
        "{}",
        told(&wrong)
    );
    site.ask(&["state", "list", "--control", "/nonexistent/socket"], 4)?;
    Ok(())
}
