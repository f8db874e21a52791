//! Disks that fail under a running target, for each store: what fails is an ATA error for the requests concerned and a
//! line in the log; the process lives on, and when the cause is gone so are the errors.

mod file_systems;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use disks::Disk;
use disks::io_engine::IoEngine;
use lab::faulty_export::{
    ADDRESS, FaultyExport, GOOD, READ_FAULT, STORES, WRITE_FAULT, cold, lba, logged, recovers, registers,
};
use lab::file_system::{EXT4_WITHOUT_JOURNAL, Mounted};
use lab::frame::ata;
use lab::image::{SECTOR, pattern, stamp};
use lab::initiator::TIMEOUT;
use lab::needs::Need;
use lab::vm::host::{Host, PULLED_OUT, Parts};
use lab::vm::kernel::Kernel;
use lab::{Namespace, Reply, Request, Target, needs};
use nix::sys::signal::Signal;

const NEEDS: [Need; 3] = [
    Need::Root,
    Need::File("/dev/fuse"),
    Need::File("/dev/loop-control"),
];

type Pick = fn(&Disk) -> &AtomicBool;
const BAD_WRITES: [(&str, Pick); 2] = [
    ("writes", |disk| &disk.switches().writes_fail),
    ("flushes", |disk| &disk.switches().flushes_fail),
];

/// A block device on a disk that fails on command, or a file, served.
struct Served {
    // Dropped in this order.
    target: Target,
    disk: Disk,
    /// Where the disk has a file system.
    _mounted: Option<Mounted>,
    export: FaultyExport,
    device: PathBuf,
}

impl Served {
    fn new(contents: &[u8], options: &[&str], engine: IoEngine) -> Result<Served> {
        let export = FaultyExport::new()?;
        engine.choose(&export.lab.target)?;
        let mut disk = Disk::new(&export.lab.target, 8)?;
        disk.preset(contents);
        let device = PathBuf::from(disk.block_device(&export.lab.target)?);
        let target = export.serve(&device, options)?;
        Ok(Served {
            target,
            disk,
            _mounted: None,
            export,
            device,
        })
    }

    fn writes(&self, lba: u64, word: [u8; 8]) -> Result<()> {
        let answer = registers(&self.export.write(lba, word)?);
        ensure!(answer == GOOD, "a write: {answer:02x?}");
        Ok(())
    }

    fn holds(&self, lba: u64, word: [u8; 8]) -> Result<()> {
        ensure!(
            self.export.read(lba)?.data()[..SECTOR] == pattern(lba, word),
            "sector {lba} is another"
        );
        Ok(())
    }

    /// Whether a sector of [`WORD`] is in the page cache, as another program sees the device.
    fn is_in_cache(&self, lba: u64) -> bool {
        let mut reader = Command::new("dd");
        reader.args(["bs=512", "count=1", "status=none", &format!("skip={lba}")]);
        reader.arg(format!("if={}", self.device.display()));
        let output = self.export.lab.target.run(move || reader.output());
        output.is_ok_and(|output| output.stdout == pattern(lba, WORD))
    }

    /// Writes and flushes fail, also the same ones again; reads go on.
    fn takes_no_writes(&self) -> Result<()> {
        for _ in 0..2 {
            let (write, flush) = (self.export.write(200, *b"too late")?, self.export.flush()?);
            assert_eq!(registers(&write), WRITE_FAULT, "a write is taken");
            assert_eq!(registers(&flush), WRITE_FAULT, "the loss is passed over");
        }
        ensure!(registers(&self.export.read(300)?) == GOOD, "reads fail");
        Ok(())
    }

    /// The log says once what becomes of the export.
    fn told_once(&self) -> Result<()> {
        let log = self.target.process.log();
        let is_told = |line: &&str| line.contains("no writes are taken any more");
        ensure!(log.lines().filter(is_told).count() == 1, "{log}");
        Ok(())
    }

    /// What operators look at shows lost writes, or none.
    fn shows_the_loss(&self, control: &str, lost: bool) -> Result<()> {
        let ask = |action: &str| -> Result<(Option<i32>, String)> {
            let output = self.target.ask(&[action, "--control", control])?;
            Ok((output.status.code(), String::from_utf8(output.stdout)?))
        };
        let (code, status) = ask("status")?;
        let told = status.contains("7.3: lost writes among bytes 0 to");
        ensure!(
            told == lost && code == Some(if lost { 3 } else { 0 }),
            "{code:?} {status}"
        );
        let (_, ls) = ask("ls")?;
        ensure!(ls.contains("FAILED-DEGRADED") == lost, "{ls}");
        let (_, metrics) = ask("metrics")?;
        let line = format!("xblade_export_lost_writes{{export=\"e7.3\"}} {}", u8::from(lost));
        ensure!(metrics.contains(&line), "{metrics}");
        Ok(())
    }

    /// The line in the log.
    fn logged(&mut self) -> Result<()> {
        logged(&mut self.target, &self.device, "error")
    }
}

#[test]
fn a_disk_that_does_not_read_fails_these_reads_only() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    STORES
        .iter()
        .try_for_each(|store| fails_to_read(store, IoEngine::Uring).with_context(|| (*store).to_owned()))
}

fn fails_to_read(store: &str, engine: IoEngine) -> Result<()> {
    let contents: Vec<u8> = (0..16384).flat_map(stamp).collect();
    let mut served = Served::new(&contents, &["--store", store], engine)?;
    served.disk.switches().reads_fail.store(true, Ordering::Relaxed);
    let bad = served.export.read(9000)?;
    assert_eq!((registers(&bad), lba(&bad)), (READ_FAULT, 9000));
    served.logged()?;
    served.disk.switches().reads_fail.store(false, Ordering::Relaxed);
    recovers("a read", || served.export.read(9000))?;
    assert_eq!(served.export.read(9000)?.data()[..SECTOR], stamp(9000));
    engine.is_used_by(&served.target)
}

/// Where the stores' transfers are done by threads, all of it is the same.
#[test]
fn without_io_uring_a_disk_that_fails_is_told_as_well() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for store in STORES {
        fails_to_read(store, IoEngine::Threads).with_context(|| store.to_owned())?;
    }
    for (what, pick) in BAD_WRITES {
        fails_at_once("direct", pick, IoEngine::Threads).with_context(|| what.to_owned())?;
    }
    let (_, flushes) = BAD_WRITES[1];
    lost_write("direct", flushes, IoEngine::Threads)
}

/// With `--sync` the error belongs to the write itself.
#[test]
fn a_disk_that_does_not_write_fails_synchronous_writes() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for store in STORES {
        for (what, pick) in BAD_WRITES {
            fails_at_once(store, pick, IoEngine::Uring).with_context(|| format!("{store}, {what}"))?;
        }
    }
    Ok(())
}

fn fails_at_once(store: &str, pick: Pick, engine: IoEngine) -> Result<()> {
    let mut served = Served::new(&[], &["--store", store, "--sync"], engine)?;
    served.writes(100, *b"it works")?;
    pick(&served.disk).store(true, Ordering::Relaxed);
    let bad = served.export.write(200, *b"it fails")?;
    assert_eq!(registers(&bad), WRITE_FAULT);
    served.logged()?;
    pick(&served.disk).store(false, Ordering::Relaxed);
    recovers("a write", || served.export.write(200, *b"it works"))?;
    recovers("a flush", || served.export.flush())?;
    served.holds(100, *b"it works")?;
    served.holds(200, *b"it works")?;
    // What was acknowledged is where it was promised to be.
    served.disk.cut(&mut lab::image::Random::new(1));
    let mut reader = Command::new("dd");
    reader.args(["bs=512", "skip=200", "count=1", "status=none", "iflag=direct"]);
    reader.arg(format!("if={}", served.disk.path().display()));
    let raw = served.export.lab.target.run(move || reader.output())?.stdout;
    assert_eq!(raw, pattern(200, *b"it works"), "after a power cut");
    Ok(())
}

/// The kernel tells of a failed write-back once. What came into the cache while it ran waits for the next commit, which finds nothing wrong.
#[test]
fn a_commit_that_fails_takes_down_what_came_while_it_ran() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    commit_takes_down_what_came_while_it_ran(&Served::new(
        &[],
        &["--store", "mmap", "--sync"],
        IoEngine::Uring,
    )?)
}

fn commit_takes_down_what_came_while_it_ran(served: &Served) -> Result<()> {
    // A loop device does one thing after the other: nothing is to be read in while a write hangs.
    for lba in [100, 9000] {
        ensure!(registers(&served.export.read(lba)?) == GOOD);
    }
    let switches = served.disk.switches();
    switches.writes_hang.store(true, Ordering::Relaxed);
    let mut writes = Writes::default();
    writes.send_until(served, &[100], || switches.held.load(Ordering::Relaxed) > 0)?;
    // In the same page, and in another one; both are in the cache while the first is being committed.
    let others = [101, 9000];
    writes.send_until(served, &others, || {
        others.iter().all(|lba| served.is_in_cache(*lba))
    })?;
    assert!(writes.answers.is_empty(), "none of them is on the disk");
    // One write fails: that of the commit which runs. The next ones do not.
    switches.next_writes_fail.store(1, Ordering::Relaxed);
    switches.writes_hang.store(false, Ordering::Relaxed);
    writes.collect(served, |writes| writes.answers.len() == 3)?;
    for lba in [100, 101, 9000] {
        assert_eq!(writes.answers[&lba], WRITE_FAULT, "sector {lba}");
    }
    ensure!(
        switches.refused.load(Ordering::Relaxed) == 1,
        "others failed, too"
    );
    recovers("a write", || served.export.write(100, *b"it works"))
}

/// Writes under way, and the first answer to each.
#[derive(Default)]
struct Writes {
    answers: BTreeMap<u64, (u8, u8)>,
}

impl Writes {
    /// Writes sectors, again and again as initiators do, until something is so.
    fn send_until(&mut self, served: &Served, sectors: &[u64], is_so: impl Fn() -> bool) -> Result<()> {
        let initiator = &served.export.initiator;
        let start = Instant::now();
        while !is_so() {
            ensure!(start.elapsed() < TIMEOUT, "{sectors:?}: {:?}", self.answers);
            for lba in sectors {
                let data = pattern(*lba, WORD);
                let mac = lab::link::target_mac(0);
                let mut write = Request::ata(mac, ADDRESS, ata::WRITE_EXT, *lba, 1, &data);
                (write.src, write.tag) = (initiator.mac(), TAGS + *lba as u32);
                initiator.send(&write.bytes())?;
            }
            let sent = Instant::now();
            self.collect(served, |_| is_so() || sent.elapsed() > AGAIN)?;
        }
        Ok(())
    }

    /// Takes answers until it is enough.
    fn collect(&mut self, served: &Served, enough: impl Fn(&Writes) -> bool) -> Result<()> {
        let start = Instant::now();
        while !enough(self) {
            ensure!(start.elapsed() < TIMEOUT, "only {:?}", self.answers);
            if let Some(frame) = served.export.initiator.receive(Duration::from_millis(10))?
                && let Ok(reply) = Reply::parse(&frame)
                && let Some(lba) = reply.tag.checked_sub(TAGS)
            {
                self.answers.entry(u64::from(lba)).or_insert(registers(&reply));
            }
        }
        Ok(())
    }
}

const TAGS: u32 = 0x5000_0000;
const WORD: [u8; 8] = *b"not yet!";
/// When a write that was not answered is sent again.
const AGAIN: Duration = Duration::from_millis(500);

/// In write-back the write was acknowledged before the disk was asked, and an initiator that never flushes hears of nothing. So the export
/// takes no writes any more, whoever asks, until the operator knows.
#[test]
fn a_lost_write_stops_the_export_until_the_operator_accepts_it() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for store in STORES {
        for (what, pick) in BAD_WRITES {
            if store == "direct" && what == "writes" {
                continue; // the direct store asks the disk before it acknowledges: the test above
            }
            lost_write(store, pick, IoEngine::Uring).with_context(|| format!("{store}, {what}"))?;
        }
    }
    Ok(())
}

fn lost_write(store: &str, pick: Pick, engine: IoEngine) -> Result<()> {
    let directory = tempfile::tempdir()?;
    lost_write_of(directory.path(), store, pick, |options| {
        Served::new(&[], options, engine).map(Some)
    })
}

/// `serve` serves something of which one kind of request fails at the disk; `None`: it cannot be made here.
fn lost_write_of(
    directory: &Path,
    store: &str,
    pick: Pick,
    serve: impl FnOnce(&[&str]) -> Result<Option<Served>>,
) -> Result<()> {
    let state = directory.to_str().context("odd path")?;
    let socket = directory.join("control.sock");
    let control = socket.to_str().context("odd path")?;
    let options = [
        "--store",
        store,
        "--flush-interval",
        "300ms",
        "--state-dir",
        state,
        "--control",
        control,
    ];
    let Some(mut served) = serve(&options)? else {
        return Ok(());
    };
    pick(&served.disk).store(true, Ordering::Relaxed);
    served.writes(100, *b"not yet!")?;
    let is_told = |line: &str| line.contains("acknowledged writes are lost") && line.contains("os error 5");
    served.target.process.wait_for_after(0, is_told, TIMEOUT)?;
    served.logged()?;
    // The disk is well again before anybody asks.
    pick(&served.disk).store(false, Ordering::Relaxed);
    served.takes_no_writes()?;
    let mark = served.target.process.mark();
    served.target.process.signal(Signal::SIGUSR1)?;
    let degraded = |line: &str| line.contains("FAILED-DEGRADED") && line.contains("sectors 0 to");
    served.target.process.wait_for_after(mark, degraded, TIMEOUT)?;
    served.told_once()?;
    served.shows_the_loss(control, true)?;

    // A new process does not know less.
    served.target.process.kill()?;
    let device = served.device.to_str().context("odd path")?.to_owned();
    let args = [&["serve", "7", "3", "eth0", &device][..], &options[..]].concat();
    served.target = Target::ready_again(&served.export.lab.target, &args, 1)?;
    served.export.initiator.drain()?;
    served.target.process.wait_for_after(0, is_told, TIMEOUT)?;
    served.takes_no_writes()?;
    ensure!(
        state_of(state, &["list"])?.contains("LOST WRITES"),
        "it is not listed"
    );
    served.shows_the_loss(control, true)?;

    state_of(state, &["clear", "7", "3", "--lost-writes"])?;
    served
        .target
        .process
        .wait_for("the loss of acknowledged writes is accepted", TIMEOUT)?;
    served.shows_the_loss(control, false)?;
    served.writes(100, *b"by now!!")?;
    assert_eq!(registers(&served.export.flush()?), GOOD);
    served.holds(100, *b"by now!!")?;
    let kept = std::fs::read_to_string(directory.join("7.3.lost-writes"))?;
    ensure!(
        kept.contains("\"standing\":null") && kept.contains("\"accepted\":1"),
        "not recorded: {kept}"
    );
    Ok(())
}

/// Before the first write to a part of an image that lies in large folios, as a copy leaves it, the store writes that part back and waits for it. An error that
/// it meets there is the committer's to tell.
#[test]
fn an_error_that_write_back_has_met_is_told_also_when_another_block_is_written_first() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let export = FaultyExport::new()?;
    let mut disk = Disk::new(&export.lab.target, 64)?;
    let device = disk.block_device(&export.lab.target)?;
    let mounted = EXT4_WITHOUT_JOURNAL.make(&export.lab.target, &device)?;
    let image = mounted.path("image");
    let path = image.to_str().context("odd path")?.to_owned();
    let run = |line: String| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]);
        export.lab.target.output(shell)
    };
    cold(&export.lab.target, &image, 32 << 20)?;
    // As a copy or a backup reads: read-ahead grows, and the folios with it.
    run(format!("cat {path} > /dev/null"))?;
    let target = export.serve(&image, &["--flush-interval", "1h"])?;
    let far = (16 << 20) / SECTOR as u64;
    ensure!(registers(&export.write(100, *b"is lost!")?) == GOOD);
    disk.switches().writes_fail.store(true, Ordering::Relaxed);
    ensure!(run(format!("sync {path}")).is_err(), "the disk took it");
    disk.switches().writes_fail.store(false, Ordering::Relaxed);
    export.write(far, *b"by-stand")?;
    for _ in 0..2 {
        assert_eq!(
            registers(&export.flush()?),
            WRITE_FAULT,
            "the loss is passed over"
        );
        assert_eq!(registers(&export.write(far, *b"too late")?), WRITE_FAULT);
    }
    drop(target);
    Ok(())
}

/// What `xblade state` says about a state directory.
fn state_of(directory: &str, action: &[&str]) -> Result<String> {
    let mut command = Command::new(lab::target::binary()?);
    command.arg("state").args(action).args(["--state-dir", directory]);
    let output = command.output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The device goes while it is served: its driver lets go of it in a guest, as when a disk or its path is pulled out.
#[test]
fn a_disk_that_is_pulled_out_is_unavailable() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::File("/dev/fuse")
    );
    for store in STORES {
        pulled_out(store).with_context(|| store.to_owned())?;
    }
    Ok(())
}

fn pulled_out(store: &str) -> Result<()> {
    let namespace = Namespace::new("host")?;
    let disk = Disk::new(&namespace, 8)?;
    disk.preset(&(0..16384).flat_map(stamp).collect::<Vec<u8>>());
    let binary = lab::target::binary()?;
    let parts = Parts {
        kernel: Kernel::get()?,
        disk: disk.path(),
        xblade: Path::new(&binary),
        prepare: PULLED_OUT,
        arguments: &format!("serve 7 3 eth0 /dev/vda --sync --store {store}"),
        mtu: 1500,
    };
    let host = Host::new(namespace, &parts)?;
    let mut vm = host.switch_on()?;
    let initiator = host.initiator()?;
    let served = initiator.find(ADDRESS)?;
    ensure!(served.read(100, 1)? == stamp(100), "sector 100 is another");
    served.write(200, &pattern(200, *b"it works"))?;

    vm.go()?;
    vm.expect("gone")?;
    let read = served.ata(ata::READ_EXT, 9000, 1, &[])?;
    let write = served.ata(ata::WRITE_EXT, 300, 1, &pattern(300, *b"too late"))?;
    for reply in [read, write] {
        assert_eq!(reply.aoe_error(), Some(3), "{reply:x?}");
    }
    // The log comes by another way than the replies.
    let start = std::time::Instant::now();
    while !vm.log().contains("/dev/vda: backing store unavailable") {
        ensure!(start.elapsed() < TIMEOUT, "not logged: {}", vm.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // The process lives.
    ensure!(served.query(0, b"")?.is_some(), "nobody is there any more");
    Ok(())
}
