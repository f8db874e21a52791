//! A target in a lab of its own, ready to be measured.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Lab, Options, Process};
use serde::Serialize;
use tempfile::TempDir;

use super::load::{Load, LoadResult, Run};
use super::{Bench, GENERATOR_CPU, SHELF, SLOT, TARGET_CPU, iscsi, nbd, tcp};
use crate::sh;

/// How long a target may take until it answers.
const START: Duration = Duration::from_secs(20);
/// How long a generator may take: longer than any load.
const GENERATOR: Duration = Duration::from_secs(120);

/// A program that serves AoE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contender {
    /// This project's.
    Xblade,
    /// Debian's package `vblade`.
    Vblade,
    /// Built by the user, where it is on the PATH.
    Ggaoed,
    /// Debian's package of the name: NBD over TCP.
    Nbdkit,
    /// Of Debian's package `qemu-utils`: NBD over TCP.
    QemuNbd,
    /// `tgtd` of Debian's package `tgt`, with `iscsi-perf` of `libiscsi-bin`: iSCSI.
    Tgt,
    /// No contender but the upper bound for an image in RAM.
    Echo,
    /// No contender but the upper bound for an image on disk: the same I/O by `fio` on the same file, without a network.
    Fio,
}

impl Contender {
    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Contender::Xblade => "xblade",
            Contender::Vblade => "vblade",
            Contender::Ggaoed => "ggaoed",
            Contender::Nbdkit => "nbdkit",
            Contender::QemuNbd => "qemu-nbd",
            Contender::Tgt => "tgtd",
            Contender::Echo => "echo",
            Contender::Fio => "fio",
        }
    }

    /// Whether it is reached over TCP.
    pub(super) fn is_on_tcp(self) -> bool {
        matches!(self, Contender::Nbdkit | Contender::QemuNbd | Contender::Tgt)
    }

    /// Whether its generator can make this load.
    pub(super) fn can(self, load: &Load) -> bool {
        self != Contender::Tgt || iscsi::can(load)
    }

    /// Those of AoE that are installed; xblade always is.
    pub(super) fn installed() -> Vec<Contender> {
        let all = [Contender::Xblade, Contender::Vblade, Contender::Ggaoed];
        all.into_iter()
            .filter(|&c| c == Contender::Xblade || sh::find(c.name()).is_some())
            .collect()
    }
}

/// How to serve.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    /// MTU of the links.
    pub mtu: u32,
    /// Queues of every end.
    pub queues: u32,
    /// Links; the first `served` of them are served.
    pub links: u32,
    /// Links the target serves.
    pub served: u32,
    /// The image.
    pub image: PathBuf,
    /// Acknowledge writes only when they are on the medium.
    pub sync: bool,
    /// Past the page cache.
    pub direct: bool,
    /// Serve this lab's initiator only.
    pub access_list: bool,
    /// Pin target and generator to their cpus.
    pub pinned: bool,
    /// Threaded NAPI on the target's end, its kernel thread pinned to the target's cpu.
    pub threaded: bool,
    /// A config file for `xblade daemon` instead of an image.
    pub config: Option<PathBuf>,
}

impl Serving {
    /// The usual way: one pinned link.
    pub(super) fn plain(image: &Path, mtu: u32) -> Serving {
        Serving {
            mtu,
            queues: 1,
            links: 1,
            served: 1,
            image: image.into(),
            sync: false,
            direct: false,
            access_list: false,
            pinned: true,
            threaded: false,
            config: None,
        }
    }
}

/// A target that answers.
pub(super) struct Running {
    /// Its namespaces and links.
    pub lab: Lab,
    /// The target.
    pub process: Process,
    /// What it is.
    pub contender: Contender,
    /// From the start of the process to its first answer.
    pub start_up: Duration,
    xblade: String,
    pinned: bool,
    /// Kernel threads that do the target's receive work.
    napi_threads: Vec<i32>,
    /// Config files and state, while the target runs.
    directory: TempDir,
}

impl Running {
    /// Builds a lab and starts the target in it.
    pub(super) fn start(bench: &Bench, contender: Contender, serving: &Serving) -> Result<Running> {
        let lab = Lab::new(Options {
            mtu: serving.mtu,
            queues: serving.queues,
            links: serving.links,
        })?;
        if contender.is_on_tcp() {
            tcp::address(&lab)?;
        }
        let path = |path: &Path| Ok(path.to_str().context("an odd path")?.to_owned()) as Result<String>;
        let xblade = path(&bench.xblade)?;
        let ours = match contender {
            Contender::Echo => path(&bench.echo)?,
            _ => xblade.clone(),
        };
        let directory = tempfile::tempdir()?;
        let mut words = command(&ours, contender, serving, directory.path())?;
        if serving.pinned {
            words.splice(0..0, ["taskset", "-c", TARGET_CPU].map(String::from));
        }
        let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let started = Instant::now();
        let process = Process::spawn(&lab.target, &words[0], &args)?;
        let mut running = Running {
            lab,
            process,
            contender,
            start_up: Duration::ZERO,
            xblade,
            pinned: serving.pinned,
            napi_threads: Vec::new(),
            directory,
        };
        if contender == Contender::Tgt {
            running.process.wait_for("bs_init", START)?;
            iscsi::export(
                &running.lab,
                &path(running.directory.path())?,
                &path(&serving.image)?,
            )?;
        }
        running.wait(started)?;
        if serving.threaded {
            running.napi_threads = match thread_napi(&running.lab) {
                // without an XDP program a veth has no NAPI to thread
                Err(_) if contender != Contender::Xblade => Vec::new(),
                result => result?,
            };
        }
        Ok(running)
    }

    fn wait(&mut self, started: Instant) -> Result<()> {
        while started.elapsed() < START {
            let probe = Load {
                count: Some(1),
                warm_up: 0.0,
                ..Load::reads(1, 1)
            };
            if self.generate(&probe, &[]).is_ok() {
                self.start_up = started.elapsed();
                return Ok(());
            }
            if !self.process.is_running() {
                break;
            }
        }
        bail!(
            "{} does not answer; it printed:\n{}",
            self.contender.name(),
            self.process.log()
        )
    }

    /// Runs a load and accounts for it.
    pub(super) fn load(&mut self, load: &Load) -> Result<Run> {
        let (cpu, napi, busy) = (self.process.cpu_time()?, self.napi_time(), system_busy()?);
        let result = self.generate(load, &[])?;
        let target = self.process.cpu_time()?.saturating_sub(cpu) + self.napi_time().saturating_sub(napi);
        let system = system_busy()?.saturating_sub(busy);
        ensure!(
            self.process.is_running(),
            "{} is gone:\n{}",
            self.contender.name(),
            self.process.log()
        );
        Ok(Run::new(load, result, target, system))
    }

    /// Starts `xblade bench` and waits for its result. `more` are further arguments.
    pub(super) fn generate(&self, load: &Load, more: &[&str]) -> Result<LoadResult> {
        match self.contender {
            Contender::Nbdkit | Contender::QemuNbd => return nbd::generate(&self.lab, load),
            Contender::Tgt => return iscsi::generate(&self.lab, load),
            _ => (),
        }
        let mut process = self.spawn_bench(load.link, GENERATOR_CPU, &load.arguments(), more)?;
        result(&mut process)
    }

    /// Starts `xblade bench` on a link with these arguments.
    pub(super) fn spawn_bench(
        &self,
        link: u32,
        cpu: &str,
        args: &[String],
        more: &[&str],
    ) -> Result<Process> {
        let interface = format!("eth{link}");
        let mut words: Vec<&str> = if self.pinned {
            vec!["taskset", "-c", cpu]
        } else {
            Vec::new()
        };
        words.extend([self.xblade.as_str(), "bench", &interface]);
        words.extend(args.iter().map(String::as_str));
        words.extend(more);
        Process::spawn(&self.lab.initiator, words[0], &words[1..])
    }

    /// Starts a second xblade on another link, pinned like the target, and waits until it serves.
    pub(super) fn spawn_xblade(&self, link: u32, image: &Path) -> Result<Process> {
        let (shelf, slot, interface) = (SHELF.to_string(), SLOT.to_string(), format!("eth{link}"));
        let image = image.to_str().context("an odd path of an image")?;
        let words = [
            "-c",
            TARGET_CPU,
            &self.xblade,
            "serve",
            &shelf,
            &slot,
            &interface,
            image,
        ];
        let mut process = Process::spawn(&self.lab.target, "taskset", &words)?;
        process.wait_for("ready", START)?;
        Ok(process)
    }

    fn napi_time(&self) -> Duration {
        let ns = |pid: &i32| -> Option<u64> {
            let account = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
            account.split_whitespace().next()?.parse().ok()
        };
        Duration::from_nanos(self.napi_threads.iter().filter_map(ns).sum())
    }
}

/// Waits for a generator's end and reads what it measured.
pub(super) fn result(process: &mut Process) -> Result<LoadResult> {
    let json = |line: &str| line.starts_with('{');
    // found here, or at its end: the generator has printed it a moment ago then
    if process.wait_for_after(0, json, GENERATOR).is_err() {
        std::thread::sleep(Duration::from_millis(300));
    }
    process.wait(GENERATOR)?;
    let log = process.log();
    let line = log
        .lines()
        .find(|line| json(line))
        .with_context(|| format!("the generator: {log}"))?;
    serde_json::from_str(line).context("the generator's JSON")
}

/// The command that serves as asked, with `ours` where the program is of this project; `directory` is for what it needs
/// beside the image.
fn command(ours: &str, contender: Contender, serving: &Serving, directory: &Path) -> Result<Vec<String>> {
    let image = serving.image.to_str().context("an odd path of an image")?;
    let directory = directory.to_str().context("an odd temporary directory")?;
    let (shelf, slot) = (SHELF.to_string(), SLOT.to_string());
    let interfaces: Vec<String> = (0..serving.served).map(|n| format!("eth{n}")).collect();
    let interfaces = interfaces.join(",");
    let mac = lab::link::initiator_mac(0).to_string();
    let mut words: Vec<&str>;
    let config;
    match contender {
        Contender::Xblade => {
            words = vec![ours];
            if let Some(path) = &serving.config {
                config = path.display().to_string();
                words.extend(["daemon", "--config", &config, "--state-dir", directory]);
            } else {
                words.extend(["serve", "--buffers", "64"]);
                words.extend(serving.sync.then_some("--sync"));
                words.extend(serving.direct.then_some("--direct"));
                if serving.access_list {
                    words.extend(["--allow", &mac]);
                }
                words.extend([&shelf, &slot, &interfaces, image]);
            }
        }
        Contender::Vblade => {
            words = vec!["vblade", "-b", "64"];
            words.extend(serving.sync.then_some("-s"));
            words.extend(serving.direct.then_some("-d"));
            if serving.access_list {
                words.extend(["-m", &mac]);
            }
            words.extend([&shelf, &slot, &interfaces, image]);
        }
        Contender::Echo => words = vec![ours, &interfaces, image],
        Contender::Nbdkit => words = nbd::nbdkit(image),
        Contender::QemuNbd => words = nbd::qemu_nbd(image),
        Contender::Tgt => return Ok(iscsi::tgtd(directory)),
        Contender::Fio => bail!("fio serves nothing"),
        Contender::Ggaoed => {
            ensure!(!serving.sync && !serving.access_list, "not compared with ggaoed");
            config = format!("{directory}/ggaoed.conf");
            let text = format!(
                "[defaults]\ninterfaces = {interfaces}\nqueue-length = 64\ndirect-io = {}\n\
                 [bench]\nshelf = {shelf}\nslot = {slot}\npath = {image}\n",
                serving.direct
            );
            std::fs::write(&config, text)?;
            words = vec!["ggaoed", "-n", "-c", &config];
        }
    }
    Ok(words.into_iter().map(String::from).collect())
}

/// Turns threaded NAPI on for the target's end, pins the new kernel threads and returns them.
fn thread_napi(lab: &Lab) -> Result<Vec<i32>> {
    let before = napi_threads()?;
    lab.target.write("/sys/class/net/eth0/threaded", "1")?;
    let new: Vec<i32> = napi_threads()?
        .into_iter()
        .filter(|pid| !before.contains(pid))
        .collect();
    for pid in &new {
        sh::output(Command::new("taskset").args(["-pc", TARGET_CPU, &pid.to_string()]))?;
    }
    ensure!(!new.is_empty(), "the kernel made no NAPI thread");
    Ok(new)
}

fn napi_threads() -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with("napi/") {
            found.extend(entry.file_name().to_str().and_then(|pid| pid.parse::<i32>().ok()));
        }
    }
    Ok(found)
}

/// How long all cpus together have been busy since the machine started.
fn system_busy() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; a tick is 10 ms on every Linux there is
    let busy: u64 = ticks
        .iter()
        .enumerate()
        .filter(|(i, _)| matches!(i, 0..3 | 5..7))
        .map(|(_, t)| t)
        .sum();
    Ok(Duration::from_millis(busy * 10))
}
