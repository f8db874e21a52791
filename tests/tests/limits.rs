//! A machine that gives xblade little: no further thread, few open files, a small stack, a bounded address space.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::image::stamp;
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Process, needs, target};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Longest wait for what must happen; generous, the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Nobody else runs as this user: RLIMIT_NPROC counts all of a user's threads, and does not hold root.
const USER: &str = "--reuid=47301";
/// What xblade needs, and to reach files of root.
const RIGHTS: &str = "+net_admin,+net_raw,+bpf,+perfmon,+ipc_lock,+sys_nice,+dac_override";

/// The words that start a program as a user whom RLIMIT_NPROC holds.
fn as_user() -> [String; 5] {
    [
        USER.to_owned(),
        "--clear-groups".to_owned(),
        format!("--inh-caps={RIGHTS}"),
        format!("--ambient-caps={RIGHTS}"),
        "--".to_owned(),
    ]
}

/// A daemon with a config file of its own, as a user whom RLIMIT_NPROC holds.
struct Site {
    lab: Lab,
    directory: TempDir,
    images: Vec<Image>,
}

impl Site {
    fn new(stores: &[&str]) -> Result<Site> {
        let site = Site {
            lab: Lab::new(Options::default())?,
            directory: tempfile::Builder::new().prefix("xblade-").tempdir()?,
            images: stores
                .iter()
                .map(|_| Image::stamped(4096))
                .collect::<Result<_>>()?,
        };
        site.configure(stores)?;
        Ok(site)
    }

    fn configure(&self, stores: &[&str]) -> Result<()> {
        let export = |(slot, (store, image)): (usize, (&&str, &Image))| {
            format!(
                "[[export]]\nshelf = 1\nslot = {}\npath = {:?}\ninterfaces = [\"eth0\"]\nstore = {store:?}\nwire_admin = true\n",
                slot + 1,
                image.path()
            )
        };
        let text: String = stores.iter().zip(&self.images).enumerate().map(export).collect();
        Ok(std::fs::write(self.directory.path().join("xblade.toml"), text)?)
    }

    fn path(&self, name: &str) -> Result<String> {
        let path = self.directory.path().join(name);
        Ok(path.to_str().context("odd path")?.to_owned())
    }

    /// Starts it with limits as prlimit(1) takes them.
    fn start(&self, limits: &[&str]) -> Result<Process> {
        let mut words = as_user().to_vec();
        words.push("prlimit".to_owned());
        words.extend(limits.iter().map(|&limit| limit.to_owned()));
        words.push(target::binary()?);
        words.extend(target::daemon(self.directory.path())?);
        words.extend(["--control".to_owned(), self.path("sock")?]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Process::spawn(&self.lab.target, "setpriv", &words)
    }

    fn ask(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(target::binary()?);
        command.args(args).env("XBLADE_CONTROL", self.path("sock")?);
        Ok(command.output()?)
    }

    /// Writes, reads and flushes an export for a while.
    fn use_export(&self, slot: u8) -> Result<()> {
        let initiator = self.lab.open(0)?;
        let disk = initiator.find(Address::new(1, slot))?;
        for round in 0..200 {
            let lba = 2 * (round * 37 % 2000);
            let data: Vec<u8> = (lba..lba + 2).flat_map(|lba| stamp(lba + 7)).collect();
            disk.write(lba, &data)
                .with_context(|| format!("1.{slot}: write {round}"))?;
            if round % 20 == 0 {
                disk.flush().with_context(|| format!("1.{slot}: flush"))?;
            }
            let back = disk
                .read(lba, 2)
                .with_context(|| format!("1.{slot}: read {round}"))?;
            ensure!(back == data, "1.{slot} reads something else");
        }
        Ok(())
    }
}

fn wait_ready(process: &mut Process, mark: usize) -> Result<String> {
    Ok(process
        .wait_for_after(mark, |line| line.contains(" ready"), TIMEOUT)?
        .1)
}

/// Sets the soft limit of a running process, as its user may.
fn limit(process: &Process, limit: &str) -> Result<()> {
    let pid = process.pid().to_string();
    let status = Command::new("setpriv")
        .args([USER, "--clear-groups", "--", "prlimit", "--pid", &pid, limit])
        .status()?;
    ensure!(status.success(), "prlimit {limit}");
    Ok(())
}

fn threads(process: &Process) -> Result<Vec<String>> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid()))?;
    let names = tasks
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("comm")));
    Ok(names.flatten().map(|name| name.trim().to_owned()).collect())
}

fn said_nothing_of_defects(log: &str) -> Result<()> {
    ensure!(
        !log.contains("panicked") && !log.contains("defect of xblade"),
        "{log}"
    );
    Ok(())
}

#[test]
fn without_further_threads_everything_is_served_slower_and_threads_come_back() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new(&["mmap", "direct", "mmap"])?;
    site.configure(&["mmap", "direct"])?;
    let mut process = site.start(&[])?;
    wait_ready(&mut process, 0)?;
    limit(&process, "--nproc=1:")?;
    let mark = process.mark();
    for slot in [1, 2, 1, 2] {
        site.use_export(slot)?;
    }
    // Control goes on: what initiators set is kept, what the operator asks is answered, a reload adds an export.
    let initiator = site.lab.open(0)?;
    let set = initiator.find(Address::new(1, 1))?.query(3, b"kept")?;
    ensure!(
        set.is_some_and(|reply| reply.error == 0),
        "the config string is refused"
    );
    let kept = site.ask(&["state", "list"])?;
    ensure!(kept.status.success(), "{kept:?}");
    site.configure(&["mmap", "direct", "mmap"])?;
    process.signal(Signal::SIGHUP)?;
    process.wait_for_after(mark, |line| line.contains("was reloaded"), TIMEOUT)?;
    site.use_export(3)?;
    let lines = process.lines(mark..process.mark());
    let told = lines
        .iter()
        .filter(|line| line.contains("RLIMIT_NPROC is 1 (ulimit -u"))
        .count();
    ensure!((1..=3).contains(&told) && lines.len() < 30, "{lines:#?}");
    // There are threads again.
    limit(&process, "--nproc=1000:")?;
    let deadline = Instant::now() + TIMEOUT;
    while !threads(&process)?.iter().any(|name| name.starts_with("write")) {
        ensure!(Instant::now() < deadline, "{:?}", threads(&process)?);
        site.use_export(1)?;
    }
    ensure!(process.stop()? == 0);
    said_nothing_of_defects(&process.log())
}

#[test]
fn too_few_threads_at_the_start_are_an_error_of_serve_and_something_that_a_daemon_tries_again() -> Result<()>
{
    needs!(Need::Root);
    let site = Site::new(&["mmap"])?;
    let image = site.images[0].as_str();
    let mut is_served = false;
    for limit in 1..40 {
        let mut words = as_user().to_vec();
        let serve = ["serve", "1", "1", "eth0", image].map(str::to_owned);
        words.extend([
            "prlimit".to_owned(),
            format!("--nproc={limit}"),
            target::binary()?,
        ]);
        words.extend(serve);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut process = Process::spawn(&site.lab.target, "setpriv", &words)?;
        is_served = wait_ready(&mut process, 0).is_ok();
        if is_served {
            ensure!(limit > 4, "{limit} threads are not enough");
            ensure!(process.stop()? == 0);
        } else {
            let status = process.wait(TIMEOUT)?;
            let log = process.log();
            ensure!(status.code() == Some(1), "{limit}: {status}\n{log}");
            ensure!(
                log.contains(&format!("RLIMIT_NPROC is {limit}")),
                "{limit}: {log}"
            );
        }
        said_nothing_of_defects(&process.log())?;
        if is_served {
            break;
        }
    }
    ensure!(is_served);
    // The log and the control thread have theirs, what serves has not.
    let mut process = site.start(&["--nproc=6:"])?;
    let failed = |line: &str| line.contains("RLIMIT_NPROC is 6") && line.contains("trying again");
    process.wait_for_after(0, failed, TIMEOUT)?;
    limit(&process, "--nproc=1000:")?;
    wait_ready(&mut process, 0)?;
    site.use_export(1)?;
    ensure!(process.stop()? == 0);
    said_nothing_of_defects(&process.log())
}

/// Runs `serve` as `sh` does with a limit, to its end or until it is ready.
fn limited(lab: &Lab, ulimit: &str, image: &Path) -> Result<(bool, String)> {
    let script = format!(
        "ulimit {ulimit} && exec {} serve 1 1 eth0 {}",
        target::binary()?,
        image.display()
    );
    let mut process = Process::spawn(&lab.target, "sh", &["-c", &script])?;
    if wait_ready(&mut process, 0).is_ok() {
        ensure!(process.stop()? == 0);
        return Ok((true, process.log()));
    }
    let status = process.wait(TIMEOUT)?;
    ensure!(status.code() == Some(1), "{status}\n{}", process.log());
    Ok((false, process.log()))
}

#[test]
fn few_open_files_are_an_error_that_names_the_limit_and_a_small_stack_is_none() -> Result<()> {
    needs!(Need::Root);
    let (lab, image) = (Lab::new(Options::default())?, Image::stamped(64)?);
    for files in [8, 20, 40] {
        let (ready, log) = limited(&lab, &format!("-n {files}"), image.path())?;
        let told = format!("only {files} files may be open");
        ensure!(
            !ready && log.contains(&told) && log.contains("ulimit -Hn"),
            "{log}"
        );
        said_nothing_of_defects(&log)?;
    }
    ensure!(
        limited(&lab, "-n 64", image.path())?.0,
        "as many as the message asks for"
    );
    for kib in [64, 128] {
        ensure!(
            limited(&lab, &format!("-s {kib}"), image.path())?.0,
            "a stack of {kib} KiB"
        );
    }
    Ok(())
}

#[test]
fn an_image_that_the_address_space_has_no_room_for_is_an_error_that_names_the_limit() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("image");
    std::fs::File::create(&path)?.set_len(16 << 30)?;
    let (ready, log) = limited(&lab, &format!("-v {}", 8 << 20), &path)?;
    ensure!(
        !ready && log.contains("more than can be mapped here (RLIMIT_AS is 8589934592 bytes"),
        "{log}"
    );
    said_nothing_of_defects(&log)
}

/// An image that finds no addresses is FAILED with the limit's name and served when that is raised; others are served meanwhile.
#[test]
fn a_bounded_address_space_is_named_and_what_finds_no_room_in_it_is_tried_again() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new(&["mmap", "mmap"])?;
    site.configure(&["mmap"])?;
    let mut process = site.start(&[])?;
    wait_ready(&mut process, 0)?;
    std::fs::File::options()
        .write(true)
        .open(site.images[1].path())?
        .set_len(4 << 30)?;
    // Room for what goes on, and none for four gigabytes.
    let bound = (process.memory_kib("VmSize")? << 10) + (512 << 20);
    limit(&process, &format!("--as={bound}:"))?;
    let mark = process.mark();
    site.configure(&["mmap", "mmap"])?;
    process.signal(Signal::SIGHUP)?;
    let failed =
        |line: &str| line.contains("FAILED") && line.contains("4294967296 bytes are more than can be mapped");
    let (_, line) = process.wait_for_after(mark, failed, TIMEOUT)?;
    let named = format!("RLIMIT_AS is {bound} bytes (ulimit -v, LimitAS= of a systemd unit)");
    ensure!(
        line.contains(&named) && line.contains("store = \"direct\""),
        "{line}"
    );
    site.use_export(1)?;
    let mark = process.mark();
    limit(&process, "--as=unlimited:")?;
    wait_ready(&mut process, mark)?;
    site.use_export(2)?;
    ensure!(process.stop()? == 0);
    said_nothing_of_defects(&process.log())
}

/// The links, the config and the control socket need descriptors, too, and most of all where there are none for exports.
#[test]
fn exports_leave_descriptors_for_the_way_out() -> Result<()> {
    needs!(Need::Root);
    let stores = ["mmap"; 90];
    let site = Site::new(&stores)?;
    let mut target = site.start(&["--nofile=96:96"])?;
    target.wait_for_after(0, |line| line.contains("exports cannot be served yet"), TIMEOUT)?;
    let log = target.log();
    ensure!(
        log.contains("of 96 are kept for interfaces and commands"),
        "{log}"
    );
    ensure!(!log.contains("Too many open files"), "{log}");
    wait_ready(&mut target, 0)?;

    // An interface that goes and comes back is opened anew.
    let mark = target.mark();
    site.lab.target.ip("link set eth0 mtu 4000")?;
    wait_ready(&mut target, mark)?;
    site.use_export(1)?;

    site.configure(&stores[..20])?;
    let told = site.ask(&["reload"])?;
    ensure!(told.status.success(), "{told:?}");
    let listed = site.ask(&["ls"])?;
    ensure!(listed.status.success(), "{listed:?}\n{}", target.log());
    ensure!(target.stop()? == 0);
    said_nothing_of_defects(&target.log())
}
