//! A disk that does not answer any more costs its own export, and keeps neither control nor the end nor the next process waiting.

mod closed_port;
mod neighbours;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use disks::Disk;
use disks::io_engine::{IoEngine, WAYS};
use lab::frame::ata;
use lab::image::{SECTOR, stamp};
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Request, Stopwatch, Target, needs};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const NEEDS: [Need; 3] = [
    Need::Root,
    Need::File("/dev/fuse"),
    Need::File("/dev/loop-control"),
];
const TIMEOUT: Duration = Duration::from_secs(60);
/// What the documentation promises for the end, and what a busy machine may add.
const END: Duration = Duration::from_secs(6 + 6);

const HUNG: Address = Address::new(1, 1);
const HEALTHY: Address = Address::new(1, 2);

/// A daemon with an export on a disk that hangs on command and one on an image, over one interface.
struct Served {
    // Dropped in this order.
    target: Target,
    disk: Disk,
    image: Image,
    lab: Lab,
    directory: TempDir,
    device: PathBuf,
}

impl Served {
    fn new(store: &str) -> Result<Served> {
        Served::with(store, "", IoEngine::Uring)
    }

    /// The same with further lines about the one whose disk hangs.
    fn with(store: &str, of_hung: &str, engine: IoEngine) -> Result<Served> {
        let lab = Lab::new(Options::default())?;
        engine.choose(&lab.target)?;
        let mut disk = Disk::new(&lab.target, 8)?;
        disk.preset(&(0..1024).flat_map(stamp).collect::<Vec<u8>>());
        let device = PathBuf::from(disk.block_device(&lab.target)?);
        Served::over(lab, (disk, device), store, of_hung)
    }

    /// The same with a disk that is there, by this path.
    fn over(lab: Lab, (disk, device): (Disk, PathBuf), store: &str, of_hung: &str) -> Result<Served> {
        let image = Image::stamped(64)?;
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        let mut text = format!("[defaults]\ninterfaces = [\"eth0\"]\nstore = \"{store}\"\n");
        for (slot, path, more) in [(1, device.as_path(), of_hung), (2, image.path(), "")] {
            writeln!(
                text,
                "[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\n{more}"
            )?;
        }
        std::fs::write(directory.path().join("xblade.toml"), text)?;
        let mut target = Target::start(&lab.target, &daemon(directory.path())?)?;
        target.wait_ready(0, 2)?;
        Ok(Served {
            target,
            disk,
            image,
            lab,
            directory,
            device,
        })
    }

    /// The next process.
    fn start(&self) -> Result<Target> {
        Target::start(&self.lab.target, &daemon(self.directory.path())?)
    }

    /// Whether the disk answers nothing from now on.
    fn disk_hangs(&self, hangs: bool) {
        self.disk.switches().hangs.store(hangs, Ordering::Relaxed);
    }

    /// The disk stops answering while it has reads and writes to do.
    fn hang(&self) -> Result<()> {
        self.hang_with_reads()?;
        let initiator = self.lab.open(0)?;
        for n in 0..64 {
            let mac = lab::link::target_mac(0);
            let mut write = Request::ata(mac, HUNG, ata::WRITE_EXT, 4096 + 8 * n, 1, &[7; SECTOR]);
            (write.src, write.tag) = (initiator.mac(), 0x8200_0000 + n as u32);
            initiator.send(&write.bytes())?;
        }
        Ok(())
    }

    /// The disk stops answering while it has reads to do.
    fn hang_with_reads(&self) -> Result<()> {
        self.disk_hangs(true);
        self.send_reads(lab::link::initiator_mac(0), 0x8100_0000)
    }

    /// Sends reads to the export whose disk hangs and waits for no answer.
    fn send_reads(&self, src: Mac, first_tag: u32) -> Result<()> {
        let initiator = self.lab.open(0)?;
        let mac = lab::link::target_mac(0);
        for n in 0..64 {
            let mut read = Request::ata(mac, HUNG, ata::READ_EXT, 2048 + 8 * n, 1, &[]);
            (read.src, read.tag) = (src, first_tag + n as u32);
            initiator.send(&read.bytes())?;
        }
        Ok(())
    }

    /// None of the sectors that were being written while the disk hung stays taken.
    fn takes_writes_again(&self) -> Result<()> {
        let initiator = self.lab.open(0)?;
        let disk = initiator.find(HUNG)?;
        for n in 0..64 {
            let sector = 4096 + 8 * n;
            disk.write(sector, &[9; SECTOR])
                .with_context(|| format!("sector {sector}"))?;
        }
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("xblade.toml")
    }

    fn healthy_reads(&self) -> Result<()> {
        ensure!(self.lab.open(0)?.find(HEALTHY)?.read(5, 1)? == stamp(5));
        Ok(())
    }
}

#[test]
fn a_stop_names_reads_that_a_disk_has_not_answered() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for store in ["mmap", "direct"] {
        // Nothing is to be committed, and the export can be closed.
        let mut served = Served::new(store)?;
        served.hang_with_reads()?;
        // Answered after the reads were taken up: one worker serves both exports, in the order of their requests.
        served.healthy_reads()?;
        served.target.process.signal(Signal::SIGTERM)?;
        served.leaves_the_hung_one_behind().context(store)?;
    }
    Ok(())
}

impl Served {
    /// A target that was told to stop names the export whose disk hangs, and no other, and ends when that disk answers.
    fn leaves_the_hung_one_behind(&mut self) -> Result<()> {
        let line = self.target.process.wait_for("left behind: e1.1", TIMEOUT)?;
        ensure!(line.contains(self.device.to_str().context("odd path")?), "{line}");
        ensure!(!self.target.process.log().contains("left behind: e1.2"));
        self.disk_hangs(false);
        let status = self.target.process.wait(TIMEOUT)?;
        ensure!(status.code() == Some(1), "{status}");
        Ok(())
    }
}

/// Their requests are none of the export that everybody sees.
#[test]
fn a_stop_names_reads_of_a_machine_s_copy_that_the_golden_image_s_disk_has_not_answered() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let mut served = Served::with(
        "direct",
        "overlay = \"volatile\"\noverlay_dir = \"overlays\"",
        IoEngine::Uring,
    )?;
    // The copy is made, and reads the image.
    let initiator = served.lab.open(0)?;
    ensure!(initiator.find(HUNG)?.read(5, 1)? == stamp(5));
    served.hang_with_reads()?;
    served.healthy_reads()?;
    served.target.process.signal(Signal::SIGTERM)?;
    served.leaves_the_hung_one_behind()
}

#[test]
fn a_stop_says_what_it_leaves_behind_and_the_next_process_serves_the_rest() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for (store, engine) in WAYS {
        let mut served = Served::with(store, "", engine)?;
        served.hang()?;
        std::thread::sleep(Duration::from_millis(1500)); // so that the flusher is stuck, too
        let watch = Stopwatch::start()?;
        served.target.process.signal(Signal::SIGTERM)?;
        let line = served.target.process.wait_for("left behind: e1.1", TIMEOUT)?;
        let took = watch.idle_time()?;
        ensure!(took < END, "{store}: {took:?}");
        ensure!(
            line.contains(served.device.to_str().context("odd path")?),
            "{line}"
        );
        ensure!(!served.target.process.log().contains("left behind: e1.2"));
        // Its threads hang on in the kernel; the new one serves what it can at once, the rest when the disk answers.
        let mut next = served.start()?;
        let (_, line) = next
            .process
            .wait_for_after(0, |line| line.contains("e1.2 ready"), TIMEOUT)?;
        served
            .healthy_reads()
            .with_context(|| format!("{store}: {line}"))?;
        let mark = next.process.mark();
        served.disk_hangs(false);
        let log = next.process.log();
        if !log.contains("e1.1 ready") {
            next.wait_ready(mark, 1)
                .with_context(|| format!("{store}: {log}"))?;
        }
        ensure!(served.lab.open(0)?.find(HUNG)?.read(5, 1)? == stamp(5));
        next.process.stop()?;
        let old = served.target.process.wait(TIMEOUT)?;
        ensure!(old.code() == Some(1), "{store}: {old}");
    }
    Ok(())
}

#[test]
fn after_a_kill_the_next_process_starts_and_takes_over_when_it_can() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let served = Served::new("mmap")?;
    served.hang()?;
    std::thread::sleep(Duration::from_millis(1500));
    served.target.process.signal(Signal::SIGKILL)?;
    let mut next = served.start()?;
    // It waits for what the dead process still holds.
    next.process
        .wait_for_after(0, |line| line.contains("FAILED"), TIMEOUT)?;
    ensure!(next.process.is_running(), "{}", next.process.log());
    served.disk_hangs(false);
    next.wait_ready(0, 2)?;
    served.healthy_reads()?;
    ensure!(served.lab.open(0)?.find(HUNG)?.read(5, 1)? == stamp(5));
    Ok(())
}

#[test]
fn reloads_go_on_beside_a_disk_that_hangs() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let mut served = Served::new("direct")?;
    served.hang()?;
    let other = Image::stamped(64)?;
    let with = |more: &str| -> Result<()> {
        let text = format!("[defaults]\ninterfaces = [\"eth0\"]\n{more}");
        Ok(std::fs::write(served.config(), text)?)
    };
    let export = |slot: u8, path: &Path| format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\n");
    // The hung one goes, another comes. Its last commit does not end; the rest is done.
    with(&format!(
        "store = \"direct\"\n{}{}",
        export(2, served.image.path()),
        export(3, other.path())
    ))?;
    let mark = served.target.process.mark();
    served.target.process.signal(Signal::SIGHUP)?;
    served.target.wait_ready(mark, 1)?;
    ensure!(served.lab.open(0)?.find(Address::new(1, 3))?.read(5, 1)? == stamp(5));
    served.healthy_reads()?;
    // Control answers at once.
    let mark = served.target.process.mark();
    served.target.process.signal(Signal::SIGUSR1)?;
    let told = |line: &str| line.contains("e1.1: no longer wanted");
    served.target.process.wait_for_after(mark, told, TIMEOUT)?;
    served.disk_hangs(false);
    ensure!(served.target.process.stop()? == 0);
    Ok(())
}

#[test]
fn a_second_signal_and_sigquit_end_it_at_once() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for signals in [&[Signal::SIGQUIT][..], &[Signal::SIGTERM, Signal::SIGTERM]] {
        let mut served = Served::new("direct")?;
        served.hang()?;
        let watch = Stopwatch::start()?;
        for signal in signals {
            served.target.process.signal(*signal)?;
            std::thread::sleep(Duration::from_millis(300));
        }
        served.target.process.wait_for("left behind", TIMEOUT)?;
        let took = watch.idle_time()?;
        ensure!(took < Duration::from_secs(5), "{signals:?}: {took:?}");
        served.disk_hangs(false);
        served.target.process.wait(TIMEOUT)?;
    }
    Ok(())
}

/// Promised for signals and for events of interfaces.
const PROMPT: Duration = Duration::from_millis(100);
const TIMES: usize = 12;

/// A busy machine delays some answers; whatever holds control up delays them all.
fn are_prompt(what: &str, mut times: Vec<Duration>) -> Result<()> {
    times.sort_unstable();
    ensure!(times[times.len() / 4] < PROMPT, "{what}: {times:?}");
    Ok(())
}

#[test]
fn signals_and_links_are_followed_at_once_beside_a_disk_that_hangs() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for store in ["mmap", "direct"] {
        let mut served = Served::new(store)?;
        served.hang()?;
        let process = &mut served.target.process;
        let mut answers = Vec::new();
        for _ in 0..TIMES {
            let (mark, watch) = (process.mark(), Stopwatch::start()?);
            process.signal(Signal::SIGUSR1)?;
            let told = |line: &str| line.contains("2 of 2 exports are open");
            process.wait_for_after(mark, told, TIMEOUT)?;
            answers.push(watch.idle_time()?);
        }
        are_prompt("SIGUSR1", answers)?;
        let (mut downs, mut ups) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            for (state, times) in [("down", &mut downs), ("up", &mut ups)] {
                let (mark, mut watch) = (process.mark(), Stopwatch::start()?);
                served.lab.target.ip(&format!("link set eth0 {state}"))?;
                watch.restart();
                let words = format!("eth0: link {state}");
                let told = |line: &str| line.contains(&words);
                process.wait_for_after(mark, told, TIMEOUT)?;
                times.push(watch.idle_time()?);
            }
        }
        are_prompt("a link that goes down", downs)?;
        are_prompt("a link that comes up", ups)?;
        served.healthy_reads()?;
        served.disk_hangs(false);
        ensure!(served.target.process.stop()? == 0);
    }
    Ok(())
}

/// As a worker is told to stop, what hangs already is not waited for: others on the interface are answered again at once.
#[test]
fn a_port_is_opened_again_at_once_beside_a_disk_that_hangs() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for engine in [IoEngine::Uring, IoEngine::Threads] {
        for store in ["direct", "mmap"] {
            opens_again_at_once(store, engine).with_context(|| format!("{store}, {engine:?}"))?;
        }
    }
    Ok(())
}

fn opens_again_at_once(store: &str, engine: IoEngine) -> Result<()> {
    let mut served = Served::with(store, "", engine)?;
    served.hang()?;
    served.healthy_reads()?;
    engine.is_used_by(&served.target)?;
    std::thread::sleep(Duration::from_millis(500)); // at least: what is older than 100 ms hangs
    let process = &mut served.target.process;
    let mark = process.mark();
    served.lab.target.ip("link set eth0 mtu 1400")?;
    process.wait_for_after(mark, |line| line.contains("with their disks"), TIMEOUT)?;
    process.wait_for_after(mark, |line| line.contains("e1.2 ready"), TIMEOUT)?;
    // The worker has not waited for them to the end of its patience, which it says.
    let log = process.lines(mark..process.mark()).join("\n");
    ensure!(!log.contains("no longer waited for"), "{log}");
    served.healthy_reads()?;
    served.disk_hangs(false);
    served.takes_writes_again()?;
    ensure!(served.target.process.stop()? == 0);
    Ok(())
}

/// To open an image is to read from it.
#[test]
fn an_export_whose_disk_hangs_as_it_is_opened_keeps_nobody_waiting() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for store in ["mmap", "direct"] {
        let mut served = Served::new(store)?;
        ensure!(served.target.process.stop()? == 0);
        served.disk_hangs(true);
        served.target = served.start()?;
        served.target.wait_ready(0, 1)?;
        ensure!(
            served.disk.waiting() > 0,
            "{store}: the disk was asked for nothing"
        );
        served.healthy_reads()?;
        ensure!(!served.target.process.log().contains("e1.1 ready"), "{store}");
        // Control goes on.
        let mark = served.target.process.mark();
        served.target.process.signal(Signal::SIGUSR1)?;
        let told = |line: &str| line.contains("1 of 2 exports are open");
        served.target.process.wait_for_after(mark, told, TIMEOUT)?;
        let mark = served.target.process.mark();
        served.disk_hangs(false);
        served.target.wait_ready(mark, 1)?;
        ensure!(served.lab.open(0)?.find(HUNG)?.read(5, 1)? == stamp(5));
        ensure!(served.target.process.stop()? == 0);
    }
    Ok(())
}
