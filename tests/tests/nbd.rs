//! Exports of NBD servers as exports of xblade: what an initiator sees of servers of three kinds, also when they are killed.

mod servers;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::frame::ata;
use lab::image::{SECTOR, stamp};
use lab::initiator::Disk;
use lab::link::target_mac;
use lab::needs::Need;
use lab::packages;
use lab::process::Process;
use lab::seed;
use lab::target::daemon;
use lab::writer::{Options, Writer};
use lab::{Address, Image, Lab, Request, Stopwatch, Target, eventually, needs, used_at_random};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const ADDRESS: Address = Address::new(1, 1);
const TIMEOUT: Duration = Duration::from_secs(60);
/// Sectors of an image: 64 MiB.
const SECTORS: u64 = 64 << 11;

/// A lab, and a directory with an image in qcow2.
struct Site {
    // Dropped in this order.
    lab: Lab,
    directory: TempDir,
}

impl Site {
    fn new() -> Result<Site> {
        let site = Site {
            lab: Lab::new(lab::Options {
                mtu: 9000,
                ..Default::default()
            })?,
            directory: tempfile::tempdir()?,
        };
        qemu_img(&["create", "-q", "-f", "qcow2", &site.path("image"), "64M"])?;
        Ok(site)
    }

    /// Writes to the export, through whatever happens to the server.
    fn writer(&self) -> Result<Writer> {
        let options = Options {
            seed: seed(),
            address: ADDRESS,
            target: target_mac(0),
            sectors: 1024,
            per_write: 8,
            depth: 16,
            patience: Duration::from_millis(200),
        };
        Ok(Writer::new(self.lab.open(0)?, options))
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_string_lossy().into_owned()
    }

    /// Starts `qemu-nbd` with the image on a socket.
    fn qemu_nbd(&self) -> Result<Process> {
        let socket = self.path("nbd.sock");
        // What a killed one has left.
        let _ = fs::remove_file(&socket);
        let words = [
            "--persistent",
            "--shared=8",
            "--discard=unmap",
            "-f",
            "qcow2",
            "-k",
            &socket,
            &self.path("image"),
        ];
        let process = Process::spawn(&self.lab.target, "qemu-nbd", &words)?;
        appears(&socket)?;
        Ok(process)
    }

    /// QEMU's block layer as a daemon, with the image as its export `disk`.
    fn storage_daemon(&self) -> Result<Process> {
        let (image, socket) = (self.path("image"), self.path("nbd.sock"));
        let file = format!("driver=file,node-name=file,filename={image},discard=unmap");
        let server = format!("addr.type=unix,addr.path={socket}");
        let words = [
            "--blockdev",
            &file,
            "--blockdev",
            "driver=qcow2,node-name=image,file=file,discard=unmap",
            "--nbd-server",
            &server,
            "--export",
            "type=nbd,id=disk,node-name=image,name=disk,writable=on",
        ];
        let process = Process::spawn(&self.lab.target, "qemu-storage-daemon", &words)?;
        appears(&socket)?;
        Ok(process)
    }

    fn address(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path("nbd.sock"))
    }

    fn serve(&self, address: &str, more: &[&str]) -> Result<Target> {
        Target::start(
            &self.lab.target,
            &[&["serve", "1", "1", "eth0", address], more].concat(),
        )
    }

    fn ready(&self, address: &str) -> Result<Target> {
        let mut target = self.serve(address, &[])?;
        target.wait_ready(0, 1)?;
        Ok(target)
    }

    /// What the image holds.
    fn content(&self) -> Result<Vec<u8>> {
        let raw = self.path("raw");
        qemu_img(&["convert", "-O", "raw", &self.path("image"), &raw])?;
        Ok(fs::read(raw)?)
    }
}

fn qemu_img(words: &[&str]) -> Result<()> {
    let output = packages::command("qemu-img")
        .args(words)
        .output()
        .context("qemu-img")?;
    ensure!(
        output.status.success(),
        "qemu-img {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn appears(socket: &str) -> Result<()> {
    eventually("the server's socket", TIMEOUT, || Ok(Path::new(socket).exists()))
}

/// Uses a disk at random around the borders of qcow2's clusters of 64 KiB, and gives what it must hold then.
fn exercise(disk: &Disk<'_>) -> Result<Vec<u8>> {
    ensure!(disk.identify()?.sectors() == SECTORS);
    let model = used_at_random(disk, SECTORS, 128, 400)?;
    let zeroes = disk.identify()?.words[69];
    ensure!(
        zeroes & 1 << 5 != 0 && zeroes & 1 << 14 != 0,
        "zeros after TRIM are promised: {zeroes:#x}"
    );
    Ok(model)
}

#[test]
fn an_image_in_qcow2_is_a_disk() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-nbd"),
        Need::Tool("qemu-storage-daemon")
    );
    for daemon in [false, true] {
        let site = Site::new()?;
        let (mut server, export) = match daemon {
            false => (site.qemu_nbd()?, ""),
            true => (site.storage_daemon()?, "disk"),
        };
        let mut target = site.ready(&site.address(export))?;
        let initiator = site.lab.open(0)?;
        let model = exercise(&initiator.find(ADDRESS)?)?;
        ensure!(target.process.stop()? == 0);
        server.stop()?;
        ensure!(site.content()? == model, "the image at the end");
    }
    Ok(())
}

#[test]
fn a_server_on_the_network_is_a_disk() -> Result<()> {
    needs!(Need::Root, Need::Tool("nbdkit"), Need::Tool("qemu-img"));
    let site = Site::new()?;
    let mut server = Process::spawn(
        &site.lab.target,
        "nbdkit",
        &[
            "--foreground",
            "--ipaddr",
            "127.0.0.1",
            "--port",
            "10809",
            "memory",
            "64M",
        ],
    )?;
    // `--wait`: the server may not listen yet.
    let mut target = site.serve("nbd://127.0.0.1/", &["--wait"])?;
    target.wait_ready(0, 1)?;
    let initiator = site.lab.open(0)?;
    exercise(&initiator.find(ADDRESS)?)?;
    ensure!(target.process.stop()? == 0);
    server.stop()?;
    Ok(())
}

#[test]
fn nothing_that_was_answered_is_lost_when_the_server_is_killed() -> Result<()> {
    needs!(Need::Root, Need::Tool("qemu-nbd"));
    let site = Site::new()?;
    let mut server = site.qemu_nbd()?;
    let mut target = site.ready(&site.address(""))?;
    let mut writer = site.writer()?;
    for _ in 0..5 {
        writer.run_till(100, TIMEOUT)?;
        server.kill()?;
        // Silence, not errors: those would end the writer.
        writer.run_for(Duration::from_millis(300))?;
        server = site.qemu_nbd()?;
    }
    writer.run_till(100, TIMEOUT)?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;
    ensure!(target.process.is_running());
    Ok(())
}

#[test]
fn an_export_waits_for_its_server() -> Result<()> {
    needs!(Need::Root, Need::Tool("qemu-nbd"));
    let site = Site::new()?;
    let mut refused = site.serve(&site.address(""), &[])?;
    refused.process.wait_for("No such file or directory", TIMEOUT)?;
    ensure!(refused.process.wait(TIMEOUT)?.code() == Some(1));

    let config = site.path("xblade.toml");
    let address = site.address("");
    fs::write(
        &config,
        format!("[[export]]\nshelf = 1\nslot = 1\npath = {address:?}\ninterfaces = [\"eth0\"]\n"),
    )?;
    let control = site.path("control.sock");
    let mut words = daemon(site.directory.path())?.to_vec();
    words.extend(["--control".to_owned(), control.clone()]);
    let mut target = Target::start(&site.lab.target, &words)?;
    target.process.wait_for("FAILED", TIMEOUT)?;
    let mut server = site.qemu_nbd()?;
    target.wait_ready(0, 1)?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(ADDRESS)?;
    disk.write(9, &[7; SECTOR])?;
    ensure!(disk.read(9, 1)? == [7; SECTOR]);

    // It is shown that the server is gone, and that it is back.
    let state = || -> Result<(Option<i32>, String)> {
        let asked = target.ask(&["status", "--control", &control])?;
        let text = String::from_utf8_lossy(&asked.stdout).into_owned();
        Ok((asked.status.code(), text))
    };
    server.kill()?;
    eventually("the loss is shown", TIMEOUT, || {
        let (code, text) = state()?;
        Ok(code == Some(3) && text.contains("silent until it is back"))
    })?;
    let _server = site.qemu_nbd()?;
    eventually("it is healthy again", TIMEOUT, || Ok(state()?.0 == Some(0)))?;
    ensure!(disk.read(9, 1)? == [7; SECTOR]);
    Ok(())
}

/// A server that is there and does not answer, as one whose own disk hangs: it costs its export only, and not the end.
#[test]
fn a_server_that_stops_answering_keeps_nobody_else_waiting() -> Result<()> {
    needs!(Need::Root, Need::Tool("qemu-nbd"));
    let site = Site::new()?;
    let server = site.qemu_nbd()?;
    let healthy = Image::stamped(64)?;
    let (config, address) = (site.path("xblade.toml"), site.address(""));
    let text = |exports: &[(u8, &str)]| {
        let lines = exports
            .iter()
            .map(|(slot, path)| format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\n"));
        format!(
            "[defaults]\ninterfaces = [\"eth0\"]\n{}",
            lines.collect::<String>()
        )
    };
    fs::write(&config, text(&[(1, &address), (2, healthy.as_str())]))?;
    let mut target = Target::ready(&site.lab.target, &daemon(site.directory.path())?, 2)?;
    let initiator = site.lab.open(0)?;
    initiator.find(ADDRESS)?.write(9, &[7; SECTOR])?;
    server.signal(Signal::SIGSTOP)?;
    let other = Address::new(1, 2);
    let answers = |target: &mut Target| -> Result<()> {
        for lba in 0..20 {
            ensure!(initiator.find(other)?.read(lba, 1)? == stamp(lba));
        }
        let mark = target.process.mark();
        target.process.signal(Signal::SIGUSR1)?;
        let told = |line: &str| line.contains("exports are open");
        target.process.wait_for_after(mark, told, TIMEOUT)?;
        Ok(())
    };
    for n in 0..2000u64 {
        let (to, lba) = (target_mac(0), n * 16 % (SECTORS - 16));
        let mut request = match n % 3 {
            0 => Request::ata(to, ADDRESS, ata::READ_EXT, lba, 8, &[]),
            1 => Request::ata(to, ADDRESS, ata::WRITE_EXT, lba, 8, &[8; 8 * SECTOR]),
            _ => Request::ata(to, ADDRESS, ata::FLUSH_EXT, 0, 0, &[]),
        };
        (request.src, request.tag) = (initiator.mac(), 0x8100_0000 + n as u32);
        initiator.send(&request.bytes())?;
    }
    answers(&mut target)?;
    // It goes and comes back, and does not answer at all.
    for exports in [
        &[(2, healthy.as_str())][..],
        &[(1, &address), (2, healthy.as_str())],
    ] {
        fs::write(&config, text(exports))?;
        let mark = target.process.mark();
        target.process.signal(Signal::SIGHUP)?;
        let is_read = |line: &str| line.contains("was reloaded");
        target.process.wait_for_after(mark, is_read, TIMEOUT)?;
        answers(&mut target)?;
    }
    server.signal(Signal::SIGCONT)?;
    ensure!(initiator.find(ADDRESS)?.read(9, 1)?.len() == SECTOR);
    server.signal(Signal::SIGSTOP)?;
    let watch = Stopwatch::start()?;
    target.process.signal(Signal::SIGTERM)?;
    target.process.wait(TIMEOUT)?;
    let took = watch.idle_time()?;
    ensure!(took < Duration::from_secs(12), "{took:?}");
    server.signal(Signal::SIGCONT)?;
    Ok(())
}
