//! A running target looked into and changed: the control socket and the commands that use it.

mod changes;

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::image::{pattern, stamp};
use lab::link::initiator_mac;
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Request, Stopwatch, Target, needs, target};
use serde_json::Value;

const E11: Address = Address::new(1, 1);
const LIMIT: Duration = Duration::from_secs(60);

/// A daemon with a config file.
struct Site {
    lab: Lab,
    image: Image,
    target: Target,
}

impl Site {
    /// Serves e1.1 and what else `more` says.
    fn new(more: &str) -> Result<Site> {
        let lab = Lab::new(Options::default())?;
        let image = Image::stamped(64)?;
        write_config(&image, &(export(1, image.as_str(), "") + more))?;
        let target = Target::ready(&lab.target, &daemon(image.directory())?, 1)?;
        Ok(Site { lab, image, target })
    }

    fn configure(&self, text: &str) -> Result<()> {
        write_config(&self.image, text)
    }

    /// Runs a command that must end with this code; returns what it printed.
    fn ask(&self, args: &[&str], code: i32) -> Result<String> {
        let output = self.target.ask(args)?;
        ensure!(output.status.code() == Some(code), "{args:?}: {}", told(&output));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn json(&self, args: &[&str], code: i32) -> Result<Value> {
        let args = [args, &["--json"]].concat();
        let value: Value = serde_json::from_str(&self.ask(&args, code)?)?;
        ensure!(value["schema"] == 1, "{value}");
        Ok(value)
    }

    fn export(&self) -> Result<Value> {
        let all = self.json(&["ls", "e1.1"], 0)?;
        Ok(all["exports"][0].clone())
    }
}

fn path(image: &Image, name: &str) -> String {
    image.directory().join(name).to_string_lossy().into_owned()
}

fn write_config(image: &Image, text: &str) -> Result<()> {
    Ok(std::fs::write(path(image, "xblade.toml"), text)?)
}

fn export(slot: u8, path: &str, more: &str) -> String {
    format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\ninterfaces = [\"eth0\"]\n{more}\n")
}

fn told(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn what_is_served_and_done_can_be_seen() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new("")?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(E11)?;
    for lba in 0..5 {
        ensure!(disk.read(lba, 1)? == stamp(lba));
    }
    disk.write(7, &pattern(7, *b"a word 1"))?;

    let status = site.ask(&["status"], 0)?;
    ensure!(
        status.contains("healthy") && status.contains("1 of 1 ready"),
        "{status}"
    );
    let ls = site.ask(&["ls"], 0)?;
    ensure!(
        ls.starts_with("EXPORT") && ls.contains("e1.1") && ls.contains("ready"),
        "{ls}"
    );
    let bare = site.ask(&["ls", "--no-header", "-o", "export,reads"], 0)?;
    ensure!(bare == "e1.1  5\n", "{bare}");
    let export = site.export()?;
    let counters = &export["counters"];
    ensure!(
        counters["reads"] == 5 && counters["read_bytes"] == 5 * 512,
        "{counters}"
    );
    ensure!(
        counters["writes"] == 1 && counters["in_flight"] == 0,
        "{counters}"
    );
    let timed = |name: &str| -> u64 {
        let buckets = counters[name]["buckets"].as_array().into_iter().flatten();
        buckets.filter_map(|bucket| bucket[1].as_u64()).sum()
    };
    ensure!((timed("read_time"), timed("write_time")) == (5, 1), "{counters}");
    let initiators = site.json(&["initiators"], 0)?;
    let row = &initiators["initiators"][0];
    ensure!(
        row["initiator"] == initiator_mac(0).to_string() && row["reads"] == 5,
        "{row}"
    );

    let interfaces = site.json(&["status"], 0)?;
    ensure!(interfaces["interfaces"][0]["state"] == "ready", "{interfaces}");
    let metrics = site.ask(&["metrics"], 0)?;
    for line in [
        "xblade_healthy 1",
        "xblade_export_reads_completed_total{export=\"e1.1\"} 5",
        "xblade_export_written_bytes_total{export=\"e1.1\"} 512",
    ] {
        ensure!(
            metrics.lines().any(|found| found == line),
            "{line} is not in {metrics}"
        );
    }
    Ok(())
}

#[test]
fn rates_are_told_again_and_again() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new("")?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(E11)?;
    let args = ["stat", "50ms", "e1.*", "--json"];
    let mut stat = Command::new(target::binary()?)
        .args(args)
        .env("XBLADE_CONTROL", site.target.control())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(stat.stdout.take().context("piped")?).lines();
    let begin = Instant::now();
    let seen = loop {
        disk.read(3, 1)?;
        let line: Value = serde_json::from_str(&lines.next().context("it ended")??)?;
        if line["exports"][0]["reads_per_second"].as_f64() > Some(0.0) || begin.elapsed() > LIMIT {
            break line;
        }
    };
    stat.kill()?;
    stat.wait()?;
    let row = &seen["exports"][0];
    ensure!(
        row["reads_per_second"].as_f64() > Some(0.0) && row["p99_us"].as_u64() > Some(0),
        "{seen}"
    );
    let table = site.ask(&["stat", "50ms", "--count", "2"], 0)?;
    ensure!(
        table.matches("r/s").count() + table.matches("R/S").count() == 2,
        "{table}"
    );
    Ok(())
}

#[test]
fn what_is_not_served_is_told_by_exit_codes() -> Result<()> {
    needs!(Need::Root);
    let (nowhere, no_ethernet) = (Image::stamped(64)?, Image::stamped(64)?);
    let nowhere = export(3, nowhere.as_str(), "").replace("eth0", "eth7");
    let no_ethernet = export(4, no_ethernet.as_str(), "read_only = true").replace("eth0", "lo");
    let missing = export(2, "/nonexistent/image", "");
    let site = Site::new(&(missing + &nowhere + &no_ethernet))?;
    let status = site.ask(&["status"], 3)?;
    for expected in [
        "DEGRADED",
        "1 of 4 ready",
        "e1.2: /nonexistent/image: no such file",
        "e1.3: served on no interface",
        "eth7: it does not exist",
        "lo: it carries no Ethernet frames",
    ] {
        ensure!(status.contains(expected), "{expected:?} is missing in {status}");
    }
    let ls = site.ask(&["ls"], 3)?;
    let row = |name: &str| ls.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    ensure!(
        row("e1.2").contains("FAILED") && row("e1.3").contains("waiting"),
        "{ls}"
    );
    ensure!(row("e1.2").matches("/nonexistent/image").count() == 1, "{ls}");
    site.ask(&["ls", "e1.3"], 3)?;
    site.ask(&["ls", "e1.1"], 0)?;
    let nobody = Command::new(target::binary()?)
        .args(["status", "--control", "/nonexistent/socket"])
        .output()?;
    ensure!(nobody.status.code() == Some(4), "{}", told(&nobody));
    Ok(())
}

#[test]
fn counters_go_on_when_a_port_is_opened_again() -> Result<()> {
    needs!(Need::Root);
    let mut site = Site::new("")?;
    let read = |site: &Site| site.lab.open(0)?.find(E11)?.read(5, 1);
    read(&site)?;
    let mark = site.target.process.mark();
    site.lab.target.ip("link set eth0 mtu 1400")?;
    site.target
        .process
        .wait_for_after(mark, |line| line.contains("ready on eth0"), LIMIT)?;
    read(&site)?;
    let export = site.export()?;
    ensure!(export["counters"]["reads"] == 2, "{export}");
    ensure!(export["initiators"][0]["reads"] == 2, "{export}");
    Ok(())
}

#[test]
fn who_is_turned_away_is_listed() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new("")?;
    let allow = format!("allow = [\"{}\"]", initiator_mac(0));
    site.configure(&export(1, site.image.as_str(), &allow))?;
    site.ask(&["reload"], 0)?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(E11)?;
    let mut request = Request::query(disk.mac, E11, 0, b"");
    request.src = aoe_common::Mac([2, 0, 0, 0, 0, 0x66]);
    ensure!(initiator.answers(request, &disk)?.is_empty());
    let begin = Instant::now();
    loop {
        let denied = site.json(&["denied"], 0)?;
        let row = &denied["denied"][0];
        if row["source"] == "02:00:00:00:00:66" && row["export"] == "e1.1" {
            return Ok(());
        }
        ensure!(begin.elapsed() < LIMIT, "{denied}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn only_root_changes_anything_and_bad_requests_harm_nobody() -> Result<()> {
    needs!(Need::Root);
    let mut site = Site::new("")?;
    let socket = site.target.control();
    ensure!(socket.metadata()?.permissions().mode() & 0o777 == 0o660);
    // As if everybody were in the group.
    let open = |path: &PathBuf, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    open(&socket, 0o666)?;
    open(&socket.parent().context("a directory")?.to_owned(), 0o755)?;
    let script = r#"printf '{"call":"pause","exports":["e1.1"]}\n{"call":"state"}\n' | python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(sys.stdin.buffer.read())
f = s.makefile()
print(f.readline(), f.readline())' "$1""#;
    let stranger = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "sh", "-c", script, "sh"])
        .arg(&socket)
        .output()?;
    let said = told(&stranger);
    ensure!(
        said.contains("only root may change anything") && said.contains("\"state\":\"ready\""),
        "{said}"
    );

    let mut garbage = UnixStream::connect(&socket)?;
    for _ in 0..100 {
        garbage.write_all(b"\x00\xff{{{{\n")?;
    }
    garbage
        .write_all(&[b'x'; 70_000])
        .or_else(|error| match error.kind() {
            // It may have closed the connection by then.
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => Ok(()),
            _ => Err(error),
        })?;
    ensure!(site.export()?["state"] == "ready");
    site.ask(&["log", "debug"], 0)?;
    site.target.process.wait_for("the log shows debug", LIMIT)?;
    site.ask(&["log", "x=y=z"], 1)?;
    ensure!(site.target.process.stop()? == 0);
    ensure!(!socket.exists(), "the socket is gone with the process");
    Ok(())
}
