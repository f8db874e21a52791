//! What operators set up and look at: namespaces, several clients, a full cluster, settings that take a promise away, the commands that look
//! into a running xblade.

use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::*;

/// Runs a command in the target's namespace and gives what it says.
fn run(site: &Site, words: &[&str]) -> Result<String> {
    let mut command = Command::new(lab::target::binary()?);
    command.args(words);
    site.lab.target.output(command)
}

fn has(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "no {word}: {text}");
    }
    Ok(())
}

#[test]
fn an_image_in_a_namespace_is_a_disk_and_is_shown_as_one() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let mut site = Site::new()?;
    site.rbd("namespace create rbd/rack")?;
    // The same name as the one outside.
    site.rbd("create --size 32M rbd/rack/vm")?;
    site.rbd("snap create --no-progress rbd/rack/vm@empty")?;
    let mut target = site.daemon(&["rack/vm", "vm"])?;
    target.wait_ready(0, 2)?;
    let initiator = site.lab.open(0)?;
    let (inside, outside) = (initiator.find(ADDRESS)?, initiator.find(Address::new(1, 2))?);
    let model = used_at_random(&inside, SECTORS / 2, OBJECT, 200)?;
    ensure!(inside.identify()?.sectors() == SECTORS / 2 && outside.identify()?.sectors() == SECTORS);
    outside.write(0, &[9; SECTOR])?;
    ensure!(inside.read(0, 1)? == model[..SECTOR]);

    let listed = said(&target, &["ls"])?;
    let row = listed.lines().find(|line| line.contains("e1.1"));
    has(
        row.unwrap_or_default(),
        &["ready", "32 MiB", "rbd", "rbd:rbd/rack/vm"],
    )?;
    has(&said(&target, &["status"])?, &["healthy", "2 of 2 ready"])?;
    let config = site.ceph.path("xblade.toml");
    let config = config.to_str().context("odd path")?;
    // It is served, by the lock's owner.
    has(
        &run(&site, &["check", "--config", config])?,
        &["rbd:rbd/rack/vm", "32 MiB"],
    )?;
    has(&run(&site, &["doctor", "eth0"])?, &["librbd       found"])?;
    stalled_image_has_requests_and_no_rate(&mut site, &target)?;

    ensure!(target.process.stop()? == 0, "{}", target.process.log());
    let copy = site.ceph.path("copy");
    site.rbd(&format!("export --no-progress rbd/rack/vm {}", copy.display()))?;
    ensure!(fs::read(&copy)? == model, "the image at the end");
    let _snapshot = site.ready("eth1", "rbd:rbd/rack/vm@empty")?;
    let other = site.lab.open(1)?;
    ensure!(other.find(ADDRESS)?.read(0, 1)? == [0; SECTOR]);
    Ok(())
}

/// As the book says: while Ceph does not answer `xblade stat` shows no rate, and `ls` the requests under way.
fn stalled_image_has_requests_and_no_rate(site: &mut Site, target: &Target) -> Result<()> {
    let initiator = site.lab.open(0)?;
    site.ceph.osd().signal(Signal::SIGSTOP)?;
    let mut read = lab::Request::ata(target_mac(0), ADDRESS, ata::READ_EXT, 0, 1, &[]);
    (read.src, read.tag) = (initiator.mac(), 0x0555);
    let shown = || -> Result<()> {
        let mut listed = String::new();
        eventually("a request under way", TIMEOUT, || {
            // Again, as initiators do: one that a busy machine looks at too late is dropped.
            initiator.send(&read.bytes())?;
            listed = said(target, &["ls", "--columns", "export,in-flight"])?;
            let row = listed.lines().find(|line| line.contains("e1.1"));
            let count = row.and_then(|row| row.split_whitespace().last()?.parse::<u64>().ok());
            Ok(count.is_some_and(|count| count > 0))
        })
        .with_context(|| listed.clone())?;
        let told = said(target, &["stat", "200ms", "e1.1", "--count", "1", "--json"])?;
        let value: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let row = &value["exports"][0];
        for key in ["reads_per_second", "writes_per_second", "errors"] {
            ensure!(row[key].as_f64() == Some(0.0), "{key}: {told}");
        }
        Ok(())
    };
    let shown = shown();
    site.ceph.osd().signal(Signal::SIGCONT)?;
    shown?;
    eventually("its answer", TIMEOUT, || {
        let frame = initiator.receive(Duration::from_millis(100))?;
        Ok(frame.is_some_and(|frame| frame[20..24] == 0x0555u32.to_be_bytes()))
    })
}

#[test]
fn images_are_spread_over_clients_and_one_that_is_shut_out_takes_its_own_with_it() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    for image in ["second", "third"] {
        site.rbd(&format!("create --size 64M rbd/{image}"))?;
    }
    let mut target = site.daemon_with("clusters = 2\n", &["vm", "second", "third"])?;
    target.wait_ready(0, 3)?;
    // An address of each client, and a number of each watch behind it.
    let client = |image: &str| -> Result<String> {
        let watchers = site.ceph.watchers(&site.lab.target, image)?;
        ensure!(watchers.len() == 1, "{image}: {watchers:?}");
        Ok(watchers[0].clone())
    };
    let clients = [client("rbd/vm")?, client("rbd/second")?, client("rbd/third")?];
    let mut distinct = clients.to_vec();
    distinct.sort();
    distinct.dedup();
    ensure!(distinct.len() == 2, "three images of two clients: {clients:?}");

    let mark = target.process.mark();
    site.shut_out()?;
    let initiator = site.lab.open(0)?;
    for (slot, owner) in (1..).zip(&clients) {
        let address = Address::new(1, slot);
        if *owner == clients[0] {
            let name = format!("e1.{slot}");
            let fenced = |line: &str| line.contains(&name) && line.contains("FENCED");
            let open = |line: &str| line.contains(&name) && line.contains("open now, after");
            let (at, _) = target.process.wait_for_after(mark, fenced, TIMEOUT)?;
            target.process.wait_for_after(at, open, TIMEOUT)?;
        }
        let disk = initiator.find(address)?;
        disk.write(5, &[slot; SECTOR])?;
        ensure!(disk.read(5, 1)? == [slot; SECTOR]);
    }
    let log = target.process.log();
    for (slot, owner) in (1..).zip(&clients) {
        let is_fenced = log
            .lines()
            .any(|line| line.contains(&format!("e1.{slot}")) && line.contains("FENCED"));
        ensure!(is_fenced == (*owner == clients[0]), "e1.{slot}:\n{log}");
    }
    Ok(())
}

/// What quotas do cannot be tried here: the cluster's manager, of which there is none, adds up what they are about.
#[test]
fn a_full_cluster_is_waited_for() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    let _target = site.ready("eth0", "rbd:rbd/vm")?;
    let mut writer = site.writer()?;
    writer.run_till(200, TIMEOUT)?;
    let set = |name: &str, ratio: &str| {
        let words = format!("osd set-{name}-ratio {ratio}");
        site.ceph.ceph(&site.lab.target, &words).map(drop)
    };
    // Not below what counts as nearly full.
    for name in ["nearfull", "backfillfull", "full"] {
        set(name, "0.00001")?;
    }
    // The OSD finds out at its next heartbeat, and the client learns of it with the next map; then nothing is written, nor refused.
    let (full, mut still) = (Instant::now(), 0);
    while still < 5 {
        let before = writer.acknowledged;
        writer.run_for(Duration::from_secs(2))?;
        still = if writer.acknowledged == before {
            still + 1
        } else {
            0
        };
        ensure!(full.elapsed() < TIMEOUT, "writes are answered by a full cluster");
    }
    set("full", "0.95")?;
    writer.run_till(200, TIMEOUT)?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()
}

#[test]
fn a_setting_under_which_a_lost_lock_would_not_stop_writes_is_overruled_or_refused() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::new()?;
    // In ceph.conf: xblade's own wins, and whoever breaks its lock shuts it out.
    let conf = site.ceph.conf();
    let mut text = fs::read_to_string(&conf)?;
    text.push_str(
        "[client]\nrbd_blocklist_on_break_lock = false\nrbd_cache = true\nrados_osd_op_timeout = 5\n",
    );
    fs::write(&conf, text)?;
    let mut target = site.ready("eth0", "rbd:rbd/vm")?;
    let mut writer = site.writer()?;
    writer.run_till(200, TIMEOUT)?;
    // The one that died is shut out by the next one, too.
    target.process.kill()?;
    let watchers = site.ceph.watchers(&site.lab.target, "rbd/vm")?;
    target = site.serve("eth0", "rbd:rbd/vm", &["--wait"])?;
    target.wait_ready(0, 1)?;
    let shut_out = site.ceph.ceph(&site.lab.target, "osd blocklist ls")?;
    ensure!(
        watchers.len() == 1 && shut_out.contains(&watchers[0]),
        "{watchers:?} {shut_out}"
    );
    writer.run_till(200, TIMEOUT)?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;
    ensure!(target.process.stop()? == 0);
    // Of an image or a pool: those win over xblade's.
    for place in ["image set rbd/vm", "pool set rbd"] {
        site.rbd(&format!("config {place} rbd_blocklist_on_break_lock false"))?;
        let mut refused = site.serve("eth0", "rbd:rbd/vm", &[])?;
        refused
            .process
            .wait_for("rbd_blocklist_on_break_lock must be true", TIMEOUT)?;
        ensure!(refused.process.wait(TIMEOUT)?.code() == Some(1));
        let remove = place.replace("set", "remove");
        site.rbd(&format!("config {remove} rbd_blocklist_on_break_lock"))?;
    }
    site.ready("eth0", "rbd:rbd/vm").map(drop)
}
