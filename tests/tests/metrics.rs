//! What Prometheus makes of a running target, of the alert rules and of the dashboard that come with xblade.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aoe_common::Mac;
use lab::frame::ata;
use lab::image::stamp;
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Request, Target, needs, target};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn promtool() -> Result<Command> {
    Ok(Command::new(needs::find("promtool").context("promtool")?))
}

fn check(output: &Output) -> Result<String> {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

#[test]
fn the_alert_rules_fire_when_they_should() -> Result<()> {
    needs!(Need::Tool("promtool"));
    let rules = root().join("packaging/prometheus/xblade.rules.yml");
    check(&promtool()?.args(["check", "rules"]).arg(rules).output()?)?;
    let cases = root().join("tests/data/xblade.rules.test.yml");
    check(&promtool()?.args(["test", "rules"]).arg(cases).output()?)?;
    Ok(())
}

/// A daemon that serves e1.1, cannot serve e1.2, and has a copy of e1.3 for each machine.
struct Site {
    lab: Lab,
    target: Target,
    _image: Image,
    _golden: Image,
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Result<Site> {
        let lab = Lab::new(Options::default())?;
        let image = Image::stamped(64)?;
        let golden = Image::stamped(64)?;
        let directory = tempfile::tempdir()?;
        let export = |slot, path| {
            format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\ninterfaces = [\"eth0\"]\n")
        };
        let copies = export(3, golden.as_str()) + "overlay = \"volatile\"\noverlay_dir = \"overlays\"\n";
        std::fs::write(
            directory.path().join("xblade.toml"),
            export(1, image.as_str()) + &export(2, "/nonexistent") + &copies,
        )?;
        let target = Target::ready(&lab.target, &daemon(directory.path())?, 1)?;
        let initiator = lab.open(0)?;
        let disk = initiator.find(Address::new(1, 1))?;
        for lba in 0..5 {
            ensure!(disk.read(lba, 1)? == stamp(lba));
        }
        ensure!(initiator.find(Address::new(1, 3))?.read(0, 1)? == stamp(0));
        drop(initiator);
        Ok(Site {
            lab,
            target,
            _image: image,
            _golden: golden,
            directory,
        })
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() -> Result<()> {
    needs!(Need::Root, Need::Tool("promtool"));
    let site = Site::new()?;
    let text = site.target.ask(&["metrics", "--format", "text"])?;
    let file = site.directory.path().join("metrics");
    std::fs::write(&file, &text.stdout)?;
    let lint = promtool()?
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&file)?)
        .output()?;
    let said = check(&lint)?;
    ensure!(said.trim().is_empty(), "{said}");
    Ok(())
}

/// Answers scrapes as `xblade-metrics.socket` does: a process for each connection.
fn endpoint(control: PathBuf) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let binary = target::binary()?;
    // Ends with the test's process.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let answer = || -> Result<()> {
                let connection = std::os::fd::OwnedFd::from(connection?);
                Command::new(&binary)
                    .args(["metrics", "--http"])
                    .env("XBLADE_CONTROL", &control)
                    .stdin(connection.try_clone()?)
                    .stdout(connection)
                    .status()?;
                Ok(())
            };
            if let Err(error) = answer() {
                eprintln!("a scrape failed: {error:#}");
            }
        }
    });
    Ok(port)
}

/// A Prometheus that scrapes one endpoint each second.
struct Prometheus {
    process: Child,
    url: String,
}

impl Prometheus {
    fn start(directory: &Path, endpoint: u16) -> Result<Prometheus> {
        let rules = root()
            .join("packaging/prometheus/xblade.rules.yml")
            .canonicalize()?;
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{rules:?}]\nscrape_configs:\n\
             - job_name: xblade\n  static_configs: [{{ targets: [\"127.0.0.1:{endpoint}\"] }}]\n"
        );
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, config)?;
        check(&promtool()?.args(["check", "config"]).arg(&file).output()?)?;
        // Free a moment ago; another program that takes it now makes the test fail, not lie.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = std::fs::File::create(directory.join("log"))?;
        let process = Command::new(needs::find("prometheus").context("prometheus")?)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let url = format!("http://127.0.0.1:{port}");
        Ok(Prometheus { process, url })
    }

    fn query(&self, expression: &str) -> Result<Output> {
        Ok(promtool()?
            .args(["query", "instant", &self.url, expression])
            .output()?)
    }

    /// Asks until the answer has a text.
    fn wait_for(&self, expression: &str, wanted: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let answer = self.query(expression)?;
            if answer.status.success() && String::from_utf8_lossy(&answer.stdout).contains(wanted) {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < LIMIT,
                "{expression} does not get {wanted}: {answer:?}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The expressions of a dashboard, with values for its variables.
fn expressions(board: &Value) -> Vec<String> {
    let panels = board["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.filter_map(|target| target["expr"].as_str());
    let filled = expressions.map(|text| {
        text.replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
            .replace("$export", ".*")
    });
    filled.collect()
}

#[test]
fn prometheus_reads_a_running_target_and_the_dashboard_asks_for_what_there_is() -> Result<()> {
    needs!(Need::Root, Need::Tool("prometheus"), Need::Tool("promtool"));
    let site = Site::new()?;
    let endpoint = endpoint(site.target.control())?;
    let prometheus = Prometheus::start(site.directory.path(), endpoint)?;
    let reads = "xblade_export_reads_completed_total{export=\"e1.1\"}";
    prometheus.wait_for(reads, "=> 5 @")?;
    prometheus.wait_for("up{job=\"xblade\"}", "=> 1 @")?;
    prometheus.wait_for("xblade_healthy", "=> 0 @")?;
    prometheus.wait_for(
        "ALERTS{alertname=\"XbladeExportDown\",export=\"e1.2\",alertstate=\"pending\"}",
        "=> 1 @",
    )?;
    site.lab.open(0)?.find(Address::new(1, 1))?.read(7, 1)?;
    prometheus.wait_for(reads, "=> 6 @")?;

    let text = std::fs::read_to_string(root().join("packaging/grafana/xblade.json"))?;
    let expressions = expressions(&serde_json::from_str(&text)?);
    ensure!(expressions.len() > 15, "{expressions:?}");
    for expression in expressions {
        check(&prometheus.query(&expression)?).with_context(|| expression.clone())?;
        for name in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if name.starts_with("xblade_") {
                prometheus.wait_for(&format!("count({name})"), "=>")?;
            }
        }
    }
    Ok(())
}

/// More than there are rows for: the rest are told together, and nothing is lost.
#[test]
fn initiators_beyond_the_bound_share_a_row() -> Result<()> {
    needs!(Need::Root);
    // Where one has a row already.
    let site = Site::new()?;
    let initiator = site.lab.open(0)?;
    let address = Address::new(1, 1);
    let to = initiator.find(address)?.mac;
    for n in 1..=70 {
        let reply = initiator.ask(Request {
            src: Mac([2, 0, 0, 0, 0xaf, n]),
            ..Request::ata(to, address, ata::READ_EXT, u64::from(n % 64), 1, &[])
        })?;
        ensure!(reply.data() == stamp(u64::from(n % 64)), "{reply:?}");
    }
    let columns = ["--no-header", "-o", "initiator,reads"];
    let words = [&["initiators", "e1.1"], &columns[..]].concat();
    let said = check(&site.target.ask(&words)?)?;
    let mut rows: Vec<(&str, &str)> = said.lines().filter_map(|row| row.split_once("  ")).collect();
    rows.retain(|(initiator, _)| *initiator != lab::link::initiator_mac(0).to_string());
    let (others, named): (Vec<_>, Vec<_>) = rows
        .iter()
        .partition(|(initiator, _)| initiator.starts_with("other"));
    ensure!(
        named.len() == 63 && named.iter().all(|(_, reads)| reads.trim() == "1"),
        "{said}"
    );
    ensure!(others.len() == 1 && others[0].1.trim() == "7", "{said}");
    let metrics = check(&site.target.ask(&["metrics"])?)?;
    let line = "xblade_initiator_read_bytes_total{export=\"e1.1\",initiator=\"other\"} 3584";
    ensure!(metrics.lines().any(|found| found == line), "{metrics}");
    Ok(())
}
