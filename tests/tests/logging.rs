//! The log: what it tells, and that nobody who reads it badly harms the target.

use std::io::{BufRead, BufReader, PipeReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use lab::image::stamp;
use lab::link::initiator_mac;
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Request, Target, needs, target};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;

const E11: Address = Address::new(1, 1);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
const LIMIT: Duration = Duration::from_secs(30);

/// A target whose log goes into a pipe of one page; killed when dropped.
struct Piped(Child);

impl Piped {
    /// Starts it and reads its log until it is ready.
    fn ready(lab: &Lab, args: &[&str]) -> Result<(Piped, BufReader<PipeReader>)> {
        let (reader, writer) = std::io::pipe()?;
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", &target::binary()?])
            .args(args);
        command.stdout(Stdio::null()).stderr(writer);
        let child = lab.target.run(move || command.spawn())?;
        let mut log = BufReader::with_capacity(64, reader);
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            ensure!(log.read_line(&mut line)? > 0, "it ended before it was ready");
        }
        Ok((Piped(child), log))
    }

    /// Ends it by SIGTERM, which must succeed within a few seconds.
    fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM)?;
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "{status}");
                return Ok(());
            }
            ensure!(Instant::now() < end, "SIGTERM is ignored");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Much to log: each frame of a member and of a stranger, until the pipe has long been full.
fn fill(lab: &Lab) -> Result<()> {
    let initiator = lab.open(0)?;
    let disk = initiator.find(E11)?;
    for _ in 0..5 {
        for lba in 0..100 {
            let mut request = Request::query(disk.mac, E11, 0, b"");
            request.src = STRANGER;
            request.tag = 0x0666_0000 + lba as u32;
            initiator.send_many(&[request.bytes()])?;
            ensure!(disk.read(lba, 1)? == stamp(lba), "sector {lba}");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(4096)?;
    let allow = initiator_mac(0).to_string();
    let args = ["serve", "1", "1", "eth0", image.as_str(), "--allow", &allow];
    let args = [&args[..], &["--log", "trace"]].concat();

    let (target, log) = Piped::ready(&lab, &args)?;
    fill(&lab)?;
    target.stop().context("a pipe that is full")?;
    drop(log);

    let (target, log) = Piped::ready(&lab, &args)?;
    drop(log);
    fill(&lab)?;
    target.stop().context("a reader that went away")
}

#[test]
fn each_level_tells_more() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(4096)?;
    let allow = initiator_mac(0).to_string();
    for (filter, of_the_program, of_frames) in [
        ("info", false, false),
        ("info,xblade::kernel=debug", true, false),
        ("info,xblade::frames=trace", false, true),
        ("trace", true, true),
    ] {
        let args = [
            "serve",
            "1",
            "1",
            "eth0",
            image.as_str(),
            "--allow",
            &allow,
            "--log",
            filter,
        ];
        let mut target = Target::ready(&lab.target, &args, 1)?;
        let initiator = lab.open(0)?;
        let disk = initiator.find(E11)?;
        let mut request = Request::query(disk.mac, E11, 0, b"");
        request.src = STRANGER;
        ensure!(
            initiator.answers(request, &disk)?.is_empty(),
            "a stranger was answered"
        );
        ensure!(disk.read(5, 1)? == stamp(5));
        if of_the_program {
            target
                .process
                .wait_for("XDP program: denied 02:00:00:00:00:66", LIMIT)?;
        }
        if of_frames {
            target.process.wait_for("1 sectors at LBA 5", LIMIT)?;
        }
        target.process.signal(Signal::SIGTERM)?;
        target.process.wait(LIMIT)?;
        let log = target.process.log();
        ensure!(log.contains("XDP program: ") == of_the_program, "{filter}: {log}");
        ensure!(log.contains("at LBA 5") == of_frames, "{filter}: {log}");
    }
    Ok(())
}

/// Standard error that is the journal, as systemd says it by a variable.
#[test]
fn the_journal_gets_whole_messages_with_their_priority() -> Result<()> {
    needs!(Need::Root);
    let dir = tempfile::tempdir()?;
    let journal = UnixDatagram::bind(dir.path().join("socket"))?;
    journal.set_read_timeout(Some(LIMIT))?;
    let config = dir.path().join("x.toml");
    std::fs::write(&config, "[[export]]\nslot = 255\n")?;
    let (mut reader, writer) = std::io::pipe()?;
    let stream = fstat(writer.as_fd())?;
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind \"$1\" /run/systemd/journal \
                  && shift && exec \"$@\"";
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .args([&target::binary()?, "check", "--config"])
        .arg(&config)
        .env("JOURNAL_STREAM", format!("{}:{}", stream.st_dev, stream.st_ino))
        .stderr(writer)
        .status()?;
    ensure!(status.code() == Some(1), "{status}");
    let mut bytes = [0; 8192];
    let count = journal.recv(&mut bytes)?;
    let entry = String::from_utf8_lossy(&bytes[..count]);
    ensure!(
        entry.starts_with("PRIORITY=3\nSYSLOG_IDENTIFIER=xblade\nMESSAGE\n"),
        "{entry}"
    );
    ensure!(
        entry.contains("slot = 255: a slot is") && entry.contains("^^^"),
        "{entry}"
    );
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut reader, &mut rest)?;
    ensure!(rest.is_empty(), "and nothing twice: {rest}");
    Ok(())
}

#[test]
fn cpus_that_are_not_there_are_told_in_one_line_and_nobody_is_pinned_to_them() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options::default())?;
    let image = Image::stamped(64)?;
    let args = ["serve", "1", "1", "eth0", image.as_str(), "--cpus", "1000-1023"];
    let mut target = Target::ready(&lab.target, &args, 1)?;
    ensure!(lab.open(0)?.find(E11)?.read(5, 1)? == stamp(5));
    ensure!(target.process.stop()? == 0);
    let log = target.process.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("CPU")).collect();
    ensure!(
        told.len() == 1 && told[0].contains("CPUs 1000-1023 are not"),
        "{log}"
    );
    Ok(())
}
