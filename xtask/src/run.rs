//! `cargo xtask run`: the main job. The real `xblade` serves an image in one network namespace; from another, xblade's
//! own initiator finds it, writes, reads back, and checks every byte.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Address, Image, Lab, Options, Process};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{cargo, clock, setup, sh};

/// Set by Ctrl-C and SIGTERM: everything is then taken down in order.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

const SECTORS: u64 = (1 << 30) / 512;
const E11: Address = Address::new(1, 1);
/// MTU of each link of the lab.
const MTUS: [u32; 2] = [1500, 9000];

/// Options of `cargo xtask run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A binary to use instead of building one.
    #[arg(long, hide = true)]
    binary: Option<PathBuf>,
    /// How long the user has waited before this program was started.
    #[arg(long, hide = true, default_value_t = 0)]
    waited_ms: u64,
    /// Instead of the demonstration, run `xblade` with these arguments.
    #[arg(last = true, value_name = "XBLADE ARGS")]
    xblade: Vec<String>,
}

/// Runs the demonstration, or `xblade` with the user's arguments.
pub(crate) fn run(args: &Args) -> Result<()> {
    // Before the build: whoever cannot become root should not wait for it.
    let sudo = match args.xblade.is_empty() && !nix::unistd::geteuid().is_root() {
        true => Some(sh::find("sudo").context(
            "the lab is made of network namespaces, which needs root, and there is no sudo here: run this as root",
        )?),
        false => None,
    };
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            say(&format!(
                "xtask is built after {:.0} s; building xblade (profile demo), which takes most of the time",
                clock::since_the_command_began().as_secs_f64()
            ));
            cargo::demo()?
        }
    };
    if !args.xblade.is_empty() {
        return Err(Command::new(&binary).args(&args.xblade).exec())
            .with_context(|| format!("starting {}", binary.display()));
    }
    if let Some(sudo) = sudo {
        return again_as_root(
            &sudo,
            "run",
            &binary,
            &[format!(
                "--waited-ms={}",
                clock::since_the_command_began().as_millis()
            )],
        );
    }
    setup::ensure(&["iproute2"])?;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("catching Ctrl-C")?;
    let waited = || clock::since_the_command_began() + Duration::from_millis(args.waited_ms);
    let built = waited();
    let result = demonstrate(&binary);
    // What a user's Ctrl-C did to the children is no failure of its own.
    ensure!(
        !INTERRUPTED.load(Ordering::Relaxed),
        "interrupted; nothing is left behind"
    );
    println!(
        "{}(a build that is soon ready: the release is faster, see cargo xtask bench)\n\neverything held, in {:.0} s: {:.0} s to build, {:.0} s to run",
        result?,
        waited().as_secs_f64(),
        built.as_secs_f64(),
        (waited() - built).as_secs_f64()
    );
    Ok(())
}

/// Goes on through sudo, with the binary that is built already: root would leave files of its own in the build directory.
pub(crate) fn again_as_root(sudo: &Path, task: &str, binary: &Path, more: &[String]) -> Result<()> {
    say("the lab is made of network namespaces, which needs root: going on through sudo");
    let mut command = Command::new(sudo);
    command
        .arg(std::env::current_exe()?)
        .args([task, "--binary"])
        .arg(binary)
        .args(more);
    Err(command.exec()).context("starting sudo")
}

/// One line of the table.
struct Row {
    what: &'static str,
    link: usize,
    rps: f64,
    mibs: f64,
    p50: f64,
    p99: f64,
}

/// The whole demonstration; returns the table.
fn demonstrate(binary: &Path) -> Result<String> {
    let binary = binary.to_str().context("an odd path")?;
    say("making two namespaces and two links between them");
    let lab = Lab::new(Options {
        links: MTUS.len() as u32,
        ..Options::default()
    })?;
    for (n, mtu) in MTUS.iter().enumerate() {
        lab.set_mtu(n as u32, *mtu)?;
    }
    let image = Image::sparse(SECTORS)?;

    say("serving a sparse image of 1 GiB as e1.1");
    let mut target = Process::spawn(
        &lab.target,
        binary,
        &["serve", "1", "1", "eth0,eth1", image.as_str()],
    )?;
    let mut modes = Vec::new();
    let mut mark = 0;
    for _ in MTUS {
        let (at, line) = wait(&mut target, mark, |line| line.contains("ready"))?;
        mark = at + 1;
        modes.push(line);
    }

    let mut sectors_per_frame = Vec::new();
    for (n, mtu) in (0..).zip(MTUS) {
        sectors_per_frame.push(identify(&lab, n, mtu)?);
    }
    let rows = measure(&lab, binary, &sectors_per_frame)?;
    ensure!(target.stop()? == 0, "xblade did not end well:\n{}", target.log());
    for n in 0..MTUS.len() {
        let link = lab.target.ip(&format!("-d link show eth{n}"))?;
        ensure!(
            !link.contains("prog/xdp"),
            "an XDP program is left on eth{n}: {link}"
        );
    }
    Ok(table(&rows, &modes, &sectors_per_frame))
}

/// Finds the export on link `n`; gives the sectors that a frame takes.
fn identify(lab: &Lab, n: u32, mtu: u32) -> Result<u8> {
    say(&format!("eth{n}: discovering and identifying"));
    let initiator = lab.open(n)?;
    let found = initiator.find(E11)?;
    let identity = found.identify()?;
    ensure!(
        identity.sectors() == SECTORS,
        "e1.1 says it has {} sectors, not {SECTORS}",
        identity.sectors()
    );
    let config = found
        .query(0, b"")?
        .context("the config query stays without an answer")?
        .config();
    let expected = (mtu - 36) / 512;
    ensure!(
        u32::from(config.1) == expected,
        "e1.1 takes {} sectors a frame, not {expected}",
        config.1
    );
    Ok(config.1)
}

/// Writes, reads back and checks on every link.
fn measure(lab: &Lab, binary: &str, sectors_per_frame: &[u8]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let write = "--write --sequential --destroy-data --verify --seed 1 --count 16384 --depth 32 --span";
    let read = "--verify --seed 1 --duration 3s --depth 64 --span";
    for (n, sectors) in sectors_per_frame.iter().enumerate() {
        let span = u64::from(*sectors) * 16384;
        let span = span.min(SECTORS);
        say(&format!(
            "eth{n}: writing, reading back, and checking {} MiB",
            span / 2048
        ));
        rows.push(bench(lab, binary, n, "write", &format!("{write} {span}"))?);
        say(&format!("eth{n}: random reads, each checked"));
        rows.push(bench(lab, binary, n, "read", &format!("{read} {span}"))?);
    }
    Ok(rows)
}

/// Runs `xblade bench` on link `n` and takes its result.
fn bench(lab: &Lab, binary: &str, n: usize, what: &'static str, options: &str) -> Result<Row> {
    let interface = format!("eth{n}");
    let mut args = vec!["bench", &interface, "1.1", "--json"];
    args.extend(options.split(' '));
    let mut process = Process::spawn(&lab.initiator, binary, &args)?;
    let (_, line) = wait(&mut process, 0, |line| line.starts_with('{'))?;
    let status = process.wait(Duration::from_secs(10))?;
    let result: Value = serde_json::from_str(&line).with_context(|| format!("bench printed {line}"))?;
    let number = |path: &str| result.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    for wrong in ["/errors", "/mismatches", "/timeouts", "/unstamped"] {
        ensure!(
            number(wrong) == 0.0,
            "{what} on {interface}: {} {}",
            number(wrong),
            &wrong[1..]
        );
    }
    ensure!(
        number("/verified") + number("/read_back") > 0.0,
        "{what} on {interface}: nothing was verified"
    );
    ensure!(status.success(), "bench ended with {status}: {}", process.log());
    Ok(Row {
        what,
        link: n,
        rps: number("/rps"),
        mibs: number("/mibs"),
        p50: number("/lat_us/p50"),
        p99: number("/lat_us/p99"),
    })
}

/// Waits for a line, in short steps so that Ctrl-C is heard.
fn wait(process: &mut Process, mark: usize, wanted: impl Fn(&str) -> bool) -> Result<(usize, String)> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let step = process.wait_for_after(mark, &wanted, Duration::from_millis(100));
        if INTERRUPTED.load(Ordering::Relaxed) {
            let _ = process.signal(Signal::SIGTERM);
            bail!("interrupted");
        }
        if step.is_ok() || !process.is_running() || Instant::now() > deadline {
            return step;
        }
    }
}

fn table(rows: &[Row], ready: &[String], sectors_per_frame: &[u8]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\n{:8} {:10} {:15} {:>8} {:>8} {:>8} {:>11} {:>9} {:>8} {:>8}",
        "address",
        "interface",
        "XDP mode",
        "size",
        "sectors",
        "verified",
        "requests/s",
        "MiB/s",
        "p50 µs",
        "p99 µs"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:8} {:10} {:15} {:>8} {:>8} {:>8} {:>11.0} {:>9.1} {:>8.0} {:>8.0}",
            "e1.1",
            format!("eth{}", row.link),
            mode(ready, row.link),
            "1 GiB",
            sectors_per_frame[row.link],
            row.what,
            row.rps,
            row.mibs,
            row.p50,
            row.p99
        );
    }
    text
}

/// The mode that the `ready` line of this interface names.
fn mode(ready: &[String], link: usize) -> String {
    let line = ready
        .iter()
        .find(|line| line.contains(&format!("eth{link}")))
        .map_or("", String::as_str);
    let attach = ["native", "generic"]
        .into_iter()
        .find(|word| line.contains(word))
        .unwrap_or("?");
    let bind = ["zero-copy", "zerocopy", "copy"]
        .into_iter()
        .find(|word| line.contains(word))
        .unwrap_or("?");
    format!("{attach}, {bind}")
}

/// Progress, on standard error: the table alone goes to standard output.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "· {text}");
}
