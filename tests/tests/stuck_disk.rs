//! A disk that stops answering costs its own export: another one on the same port, in memory, is answered throughout, whatever
//! the disk was doing, as a block device and under ext4, by either store, with io_uring and without.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use disks::io_engine::IoEngine;
use disks::{Disk, Switches};
use lab::faulty_export::{GOOD, STORES, cold, registers};
use lab::file_system::{BTRFS, EXT4, FileSystem, Mounted, XFS};
use lab::frame::ata;
use lab::image::{SECTOR, stamp};
use lab::needs::{Need, skip};
use lab::target::daemon;
use lab::{Address, Image, Initiator, Lab, Options, Process, Reply, Request, Target, eventually, needs};
use tempfile::TempDir;

const NEEDS: [Need; 3] = [
    Need::Root,
    Need::File("/dev/fuse"),
    Need::File("/dev/loop-control"),
];
const TIMEOUT: Duration = Duration::from_secs(60);
/// When to ask again.
const AGAIN: Duration = Duration::from_millis(500);

const STUCK: Address = Address::new(1, 1);
const HEALTHY: Address = Address::new(1, 2);

/// Bytes of the image on the disk.
const IMAGE_BYTES: u64 = (BLOCK_DEVICE_MIB as u64) << 20;
/// MiB of the disk where it has no file system.
const BLOCK_DEVICE_MIB: usize = 16;
/// Rounds of requests after the disk has begun to hang, and the pause between: longer than the file system takes to run into the
/// disk by itself (it is mounted so that it commits its journal every second).
const ROUNDS: u64 = 50;
const PAUSE: Duration = Duration::from_millis(50);

/// What the image lies on: a file system, or the block device itself.
type System = Option<FileSystem>;

const SYSTEMS: [System; 4] = [
    None,
    Some(EXT4.mounted_with("commit=1")),
    Some(XFS),
    Some(BTRFS.mounted_with("commit=1")),
];

type Hang = fn(&Switches) -> &AtomicBool;
const HANGS: [(&str, Hang); 4] = [
    ("reads", |switches| &switches.reads_hang),
    ("writes", |switches| &switches.writes_hang),
    ("flushes", |switches| &switches.flushes_hang),
    ("discards", |switches| &switches.discards_hang),
];

/// A daemon with an export on such a disk, and one in memory, over one interface.
struct Served {
    // Dropped in this order.
    target: Target,
    disk: Disk,
    /// Requests that the block device takes at a time; who has another one waits.
    requests: u64,
    /// What is served from it.
    path: PathBuf,
    _mounted: Option<Mounted>,
    _healthy: Image,
    initiator: Initiator,
    lab: Lab,
    _directory: TempDir,
}

impl Drop for Served {
    /// The target cannot end before the disk answers.
    fn drop(&mut self) {
        for (_, hang) in HANGS {
            hang(self.disk.switches()).store(false, Ordering::Relaxed);
        }
    }
}

impl Served {
    /// `None`: the file system cannot be made here.
    ///
    /// The image is on the disk and not in memory: pages are read in while the disk works, written to, and met again when they are
    /// locked for write-back to a disk that has stopped. And all of it is allocated: a direct write then changes nothing but the file's times, for
    /// which the file system may still wait for its journal.
    fn new(system: System, store: &str, engine: IoEngine) -> Result<Option<Served>> {
        if let Some(kind) = system
            && let Some(missing) = kind.missing()?
        {
            skip("stuck_disk", &missing);
            return Ok(None);
        }
        let lab = Lab::new(Options::default())?;
        let mut disk = Disk::new(&lab.target, system.map_or(BLOCK_DEVICE_MIB, |system| system.mib))?;
        let device = disk.block_device(&lab.target)?;
        let requests = requests_of(&device)?;
        let (mounted, path) = match system {
            None => (None, PathBuf::from(&device)),
            Some(system) => {
                let mounted = system.make(&lab.target, &device)?;
                let path = mounted.path("image");
                cold(&lab.target, &path, IMAGE_BYTES as usize)?;
                (Some(mounted), path)
            }
        };
        let healthy = Image::stamped(64)?;
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        let mut text = format!("[defaults]\ninterfaces = [\"eth0\"]\nstore = \"{store}\"\n");
        write!(text, "[[export]]\nshelf = 1\nslot = 1\npath = {path:?}\n")?;
        write!(
            text,
            "[[export]]\nshelf = 1\nslot = 2\npath = {:?}\nstore = \"mmap\"\n",
            healthy.path()
        )?;
        std::fs::write(directory.path().join("xblade.toml"), text)?;
        engine.choose(&lab.target)?;
        let target = Target::ready(&lab.target, &daemon(directory.path())?, 2)?;
        let initiator = lab.open(0)?;
        Ok(Some(Served {
            target,
            disk,
            requests,
            path,
            _mounted: mounted,
            _healthy: healthy,
            initiator,
            lab,
            _directory: directory,
        }))
    }

    /// Sends a request to the stuck export and waits for nothing.
    fn send(&self, command: u8, lba: u64, count: u8, data: &[u8], tag: u32) -> Result<()> {
        let mac = lab::link::target_mac(0);
        let mut request = Request::ata(mac, STUCK, command, lba, count, data);
        (request.src, request.tag) = (self.initiator.mac(), tag);
        self.initiator.send(&request.bytes())
    }

    /// Writes the first sectors. Asks again, as initiators do: a target that a busy machine lets get to a write late leaves it to the next copy.
    fn write(&self) -> Result<()> {
        const TAG: u32 = 0x5000_0000;
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            self.send(ata::WRITE_EXT, 0, 2, &[9; 2 * SECTOR], TAG)?;
            let again = Instant::now() + AGAIN;
            while let Some(frame) = self
                .initiator
                .receive(again.saturating_duration_since(Instant::now()))?
            {
                // The target's own requests are no replies.
                if let Ok(reply) = Reply::parse(&frame)
                    && reply.tag == TAG
                {
                    ensure!(registers(&reply) == GOOD, "{reply:?}");
                    return Ok(());
                }
            }
        }
        bail!("a write is not answered")
    }

    /// A round of requests: sequential and scattered writes, reads of what was written lately, cold reads, now and then a flush and a
    /// TRIM.
    fn load(&self, round: u64) -> Result<()> {
        let tag = 0x4000_0000 + (round as u32) * 8;
        let last = IMAGE_BYTES / SECTOR as u64 - 64;
        let scattered_at = |round: u64| (round * 7919 * 8) % last;
        let scattered = scattered_at(round);
        if let Some(before) = round.checked_sub(2) {
            self.send(ata::READ_EXT, scattered_at(before), 2, &[], tag + 5)?;
        }
        // More than the disk takes, and not so many that the export has no room for another request.
        if round < self.requests {
            self.send(ata::WRITE_EXT, scattered, 2, &[7; 2 * SECTOR], tag)?;
            self.send(ata::WRITE_EXT, round * 2, 2, &[8; 2 * SECTOR], tag + 1)?;
        }
        if round % 8 == 3 {
            self.send(ata::READ_EXT, (scattered + last / 2) % last, 2, &[], tag + 2)?;
        }
        if round % 16 == 5 {
            self.send(ata::FLUSH_EXT, 0, 0, &[], tag + 3)?;
        }
        if round % 16 == 9 {
            let mut range = [0; SECTOR];
            range[..8].copy_from_slice(&(scattered | 512 << 48).to_le_bytes());
            self.send(ata::DATA_SET_MANAGEMENT, 1, 1, &range, tag + 4)?;
        }
        Ok(())
    }

    /// The export in memory answers.
    fn healthy_answers(&self, round: u64) -> Result<()> {
        let lba = round % 64;
        let read = || self.initiator.find(HEALTHY)?.read(lba, 1);
        let data = read().with_context(|| self.target.process.threads())?;
        ensure!(data == stamp(lba));
        Ok(())
    }

    /// How long the oldest acknowledged write of an export has waited for its commit, as the metrics tell it.
    fn dirty_seconds(&self, export: Address) -> Result<f64> {
        let (shelf, slot) = (export.shelf, export.slot);
        self.target.metric(&format!(
            "xblade_export_dirty_seconds{{export=\"e{shelf}.{slot}\"}}"
        ))
    }

    /// Until the disk holds requests back.
    fn wait_until_held(&self, first: u64) -> Result<u64> {
        let (deadline, mut round) = (Instant::now() + TIMEOUT, first);
        while self.disk.switches().held.load(Ordering::Relaxed) == 0 {
            ensure!(Instant::now() < deadline, "the disk was asked for nothing");
            self.load(round)?;
            let answers = self.healthy_answers(round);
            answers.with_context(|| format!("round {round}, before the disk was seen to hang"))?;
            std::thread::sleep(PAUSE);
            round += 1;
        }
        Ok(round)
    }
}

/// How many requests a block device takes at a time.
fn requests_of(device: &str) -> Result<u64> {
    let name = device.trim_start_matches("/dev/");
    let path = format!("/sys/block/{name}/queue/nr_requests");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.trim().parse().with_context(|| format!("{path}: {text:?}"))
}

/// Hangs the disk in one way while it is busy, and asks the other export throughout.
fn costs_its_own_export_only(
    system: System,
    store: &str,
    hang: (&str, Hang),
    engine: IoEngine,
) -> Result<()> {
    let (what, pick) = hang;
    let Some(mut served) = Served::new(system, store, engine)? else {
        return Ok(());
    };
    served.healthy_answers(0)?;
    pick(served.disk.switches()).store(true, Ordering::Relaxed);
    if what == "flushes" {
        // Acknowledged before anybody has asked for a flush, so that the file system does not wait for one either: it cannot be committed any more.
        served.write()?;
    }
    let first = served.wait_until_held(0)?;
    for round in first..first + ROUNDS {
        served.load(round)?;
        served
            .healthy_answers(round)
            .with_context(|| format!("{what} hang, round {round}"))?;
        std::thread::sleep(PAUSE);
    }
    if what == "flushes" {
        let dirty = served.dirty_seconds(STUCK)?;
        ensure!(dirty >= (PAUSE * ROUNDS as u32).as_secs_f64() / 2.0, "{dirty} s");
        ensure!(served.dirty_seconds(HEALTHY)? == 0.0, "nobody has written there");
    }
    // The disk answers again: so does its export, and the target stops as ever.
    pick(served.disk.switches()).store(false, Ordering::Relaxed);
    ensure!(served.lab.open(0)?.find(STUCK)?.read(0, 1)?.len() == SECTOR);
    let deadline = Instant::now() + TIMEOUT;
    while served.dirty_seconds(STUCK)? > 0.0 {
        ensure!(Instant::now() < deadline, "what was written stays uncommitted");
        std::thread::sleep(PAUSE);
    }
    served.target.process.stop()?;
    Ok(())
}

/// A direct write notes its time in the file system's journal. That waits as soon as the disk has stopped, when nobody can have noticed it yet.
#[test]
fn a_direct_write_to_a_disk_that_has_just_stopped_keeps_no_worker() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    // Dropped last: it cannot end before the disk answers.
    let mut sync;
    let Some(mut served) = Served::new(SYSTEMS[1], "direct", IoEngine::Uring)? else {
        return Ok(());
    };
    let path = served.path.to_str().context("odd path")?.to_owned();
    served.healthy_answers(0)?;
    // The disk is known to answer, and the journal has the file's times to write.
    served.write()?;
    let switches = served.disk.switches();
    switches.writes_hang.store(true, Ordering::Relaxed);
    sync = Process::spawn(&served.lab.target, "sync", &[&path])?;
    let deadline = Instant::now() + TIMEOUT;
    while switches.held.load(Ordering::Relaxed) == 0 {
        ensure!(Instant::now() < deadline, "the journal was not written");
        std::thread::sleep(Duration::from_millis(1));
    }
    for round in 1..=8 {
        served.send(
            ata::WRITE_EXT,
            round * 64,
            2,
            &[8; 2 * SECTOR],
            0x4000_0000 + round as u32,
        )?;
        served
            .healthy_answers(round)
            .with_context(|| format!("write {round}"))?;
    }
    switches.writes_hang.store(false, Ordering::Relaxed);
    ensure!(sync.wait(TIMEOUT)?.success());
    served.target.process.stop()?;
    Ok(())
}

/// fsync has the file for itself on btrfs while it waits for the disk, and a direct read waits for that although it is asked not to. Of two sectors
/// that are written, the rest of the block is read.
#[test]
fn a_direct_read_beside_an_fsync_that_hangs_keeps_no_worker() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for system in &SYSTEMS[1..] {
        // Dropped last: it cannot end before the disk answers.
        let mut other;
        let Some(mut served) = Served::new(*system, "direct", IoEngine::Uring)? else {
            continue;
        };
        served.healthy_answers(0)?;
        let switches = served.disk.switches();
        switches.writes_hang.store(true, Ordering::Relaxed);
        // Somebody else's, so that xblade knows of nothing that hangs.
        let file = format!("of={}", served.path.display());
        let words = [
            "if=/dev/zero",
            &file,
            "bs=4096",
            "seek=2048",
            "count=1",
            "conv=notrunc,fsync",
        ];
        other = Process::spawn(&served.lab.target, "dd", &words)?;
        // Reads are answered all the time: the disk is taken to be well.
        let deadline = Instant::now() + TIMEOUT;
        for tag in 0x3000_0000.. {
            ensure!(Instant::now() < deadline, "the disk was asked for nothing");
            if switches.held.load(Ordering::Relaxed) > 0 {
                break;
            }
            served.send(ata::READ_EXT, 0, 2, &[], tag)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        for round in 1..=20 {
            let tag = 0x4000_0000 + round as u32;
            served.send(ata::WRITE_EXT, round * 512, 2, &[8; 2 * SECTOR], tag)?;
            let answers = served.healthy_answers(round);
            answers.with_context(|| format!("{system:?}, read {round}"))?;
        }
        served.disk.switches().writes_hang.store(false, Ordering::Relaxed);
        ensure!(other.wait(TIMEOUT)?.success());
        served.target.process.stop()?;
    }
    Ok(())
}

/// A commit has more to write back than the device has requests. A read of a cold page then waits until a request is free, also where the disk
/// has answered just now.
#[test]
fn a_cold_read_beside_a_commit_that_has_all_requests_of_the_disk_keeps_no_worker() -> Result<()> {
    const COLD_READS: u64 = 100;
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for system in &SYSTEMS[..2] {
        let Some(mut served) = Served::new(*system, "mmap", IoEngine::Uring)? else {
            continue;
        };
        // Pages that do not touch: a request each, more than the device has whatever it is doing already.
        let pages = 3 * served.requests;
        let first_cold = pages * 16;
        ensure!(
            first_cold + COLD_READS * 128 <= IMAGE_BYTES / SECTOR as u64,
            "the image is too small for a device with {} requests",
            served.requests
        );
        for n in 0..pages {
            served.send(
                ata::WRITE_EXT,
                n * 16,
                2,
                &[8; 2 * SECTOR],
                0x4000_0000 + n as u32,
            )?;
            served.healthy_answers(n)?;
        }
        let switches = served.disk.switches();
        switches.writes_hang.store(true, Ordering::Relaxed);
        // Asked again, since a slow machine may have written all of it back before, or drop a request as too old.
        let mut tag = 0x4100_0000;
        eventually("something is written back", TIMEOUT, || {
            served.send(ata::WRITE_EXT, 0, 2, &[9; 2 * SECTOR], tag)?;
            served.send(ata::FLUSH_EXT, 0, 0, &[], tag + 1)?;
            tag += 2;
            Ok(served.disk.waiting() > 0)
        })
        .with_context(|| format!("{system:?}"))?;
        for n in 0..COLD_READS {
            let cold = first_cold + n * 128;
            served.send(ata::READ_EXT, cold, 2, &[], 0x4200_0000 + n as u32)?;
            let answers = served.healthy_answers(n);
            answers.with_context(|| format!("{system:?}, read {n}"))?;
            std::thread::sleep(Duration::from_millis(2));
        }
        ensure!(served.disk.waiting() > 0, "it is not written back any more");
        served.disk.switches().writes_hang.store(false, Ordering::Relaxed);
        served.target.process.stop()?;
    }
    Ok(())
}

fn all_hangs(system: System, engine: IoEngine) -> Result<()> {
    for store in STORES {
        for hang in HANGS {
            // A file system discards nothing of its device unless it is told to.
            if system.is_some() && hang.0 == "discards" {
                continue;
            }
            costs_its_own_export_only(system, store, hang, engine)
                .with_context(|| format!("{system:?}, {store}, {} hang", hang.0))?;
        }
    }
    Ok(())
}

#[test]
fn a_block_device_that_hangs_costs_its_own_export_only() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    all_hangs(SYSTEMS[0], IoEngine::Uring)
}

#[test]
fn a_disk_under_ext4_that_hangs_costs_its_own_export_only() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    all_hangs(SYSTEMS[1], IoEngine::Uring)
}

#[test]
fn a_disk_under_xfs_that_hangs_costs_its_own_export_only() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    all_hangs(SYSTEMS[2], IoEngine::Uring)
}

#[test]
fn a_disk_under_btrfs_that_hangs_costs_its_own_export_only() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    all_hangs(SYSTEMS[3], IoEngine::Uring)
}

#[test]
fn without_io_uring_it_is_the_same() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    all_hangs(SYSTEMS[0], IoEngine::Threads)?;
    all_hangs(SYSTEMS[1], IoEngine::Threads)
}
