//! Two exports by two ports, one of them on a file system whose disk does not answer its flush any more: the file system's journal
//! commits, and whoever writes there waits for it. What comes for the other export behind such a write is not delayed.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use disks::Disk;
use disks::io_engine::IoEngine;
use lab::faulty_export::{STORES, cold};
use lab::file_system::{EXT4, FileSystem, Mounted, XFS};
use lab::frame::ata;
use lab::image::{SECTOR, pattern};
use lab::needs::{Need, skip};
use lab::target::daemon;
use lab::{Address, Image, Initiator, Lab, Options, Reply, Request, Target, eventually, needs};
use tempfile::TempDir;

use super::{LBA, TIMEOUT};

const SLOW: Address = Address::new(1, 1);
const FAST: Address = Address::new(1, 2);
const IMAGE_BYTES: u64 = 8 << 20;

/// Two links to a daemon with two exports.
struct Site {
    // Dropped in this order.
    target: Target,
    disk: Disk,
    _mounted: Mounted,
    fast: Image,
    lab: Lab,
    _directory: TempDir,
}

impl Site {
    /// `None`: the file system cannot be made here.
    fn new(system: FileSystem, store: &str, engine: IoEngine) -> Result<Option<Site>> {
        if let Some(missing) = system.missing()? {
            skip("stalled", &missing);
            return Ok(None);
        }
        let lab = Lab::new(Options {
            links: 2,
            ..Options::default()
        })?;
        let mut disk = Disk::new(&lab.target, system.mib)?;
        let device = disk.block_device(&lab.target)?;
        let mounted = system.make(&lab.target, &device)?;
        let slow = mounted.path("image");
        cold(&lab.target, &slow, IMAGE_BYTES as usize)?;
        // In memory, whatever the file system of temporary files is.
        let fast = Image::sparse_in(Path::new("/dev/shm"), 1024)?;
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        let mut text = String::from("[defaults]\ninterfaces = [\"eth0\", \"eth1\"]\n");
        for (slot, path, store) in [(1, slow.as_path(), store), (2, fast.path(), "mmap")] {
            writeln!(
                text,
                "[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\nstore = \"{store}\""
            )?;
        }
        std::fs::write(directory.path().join("xblade.toml"), text)?;
        engine.choose(&lab.target)?;
        let target = Target::ready(&lab.target, &daemon(directory.path())?, 4)?;
        Ok(Some(Site {
            target,
            disk,
            _mounted: mounted,
            fast,
            lab,
            _directory: directory,
        }))
    }

    /// Writes and reads all over the export whose disk hangs, by the first port; nobody waits for answers.
    fn press(&self, one: &Initiator, round: u64) -> Result<()> {
        let last = IMAGE_BYTES / SECTOR as u64 - 64;
        for n in 0..4 {
            let lba = (round * 4 + n) * 7919 % last;
            let data = [round as u8; 2 * SECTOR];
            let to = lab::link::target_mac(0);
            let mut write = Request::ata(to, SLOW, ata::WRITE_EXT, lba, 2, &data);
            (write.src, write.tag) = (one.mac(), 0x4000_0000 + (round * 4 + n) as u32);
            one.send(&write.bytes())?;
        }
        Ok(())
    }

    /// Until the disk has a flush that it does not answer, and the file system has had the time to run into it: ext4 begins another commit
    /// every second, and it depends on the file system and on what is written whether a writer has to wait then. So there is nothing to wait
    /// for but two of those seconds.
    fn hang(&self, one: &Initiator) -> Result<()> {
        let switches = self.disk.switches();
        switches.flushes_hang.store(true, Ordering::Relaxed);
        let mut round = 0;
        eventually("a flush hangs", TIMEOUT, || {
            self.press(one, round)?;
            round += 1;
            Ok(switches.held.load(Ordering::Relaxed) > 0)
        })?;
        for more in round..round + 40 {
            self.press(one, more)?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// When an initiator asks again: later than `stale_after`.
const AGAIN: Duration = Duration::from_millis(500);

/// Sends a write by the first port; whether it is answered before an initiator asks again.
fn is_answered(one: &Initiator, request: &Request) -> Result<bool> {
    one.send(&request.bytes())?;
    let again = Instant::now() + AGAIN;
    while let Some(frame) = one.receive(again.saturating_duration_since(Instant::now()))? {
        if let Ok(reply) = Reply::parse(&frame)
            && reply.tag == request.tag
        {
            ensure!(reply.status() == 0x40, "{reply:?}");
            return Ok(true);
        }
    }
    Ok(false)
}

fn nothing_is_undone(system: FileSystem, store: &str, engine: IoEngine) -> Result<()> {
    let Some(mut site) = Site::new(system, store, engine)? else {
        return Ok(());
    };
    let (one, two) = (site.lab.open(0)?, site.lab.open(1)?);
    let (slow, quick) = (one.find(FAST)?, two.find(FAST)?);
    ensure!(slow.read(LBA, 1)? == [0; SECTOR]);
    site.hang(&one)?;

    // Where it is not answered, its retransmission takes the other path, and the initiator goes on.
    let old = pattern(LBA, *b"is old!!");
    let mut write = Request::ata(lab::link::target_mac(0), FAST, ata::WRITE_EXT, LBA, 1, &old);
    (write.src, write.tag) = (one.mac(), 0x5000_0000);
    if !is_answered(&one, &write)? {
        quick.write(LBA, &old)?;
    }
    quick.write(LBA, &pattern(LBA, *b"is newer"))?;
    quick.flush()?;
    // The first port answers for the export in memory while the disk hangs.
    let mut other = Request::ata(lab::link::target_mac(0), FAST, ata::WRITE_EXT, LBA + 8, 1, &old);
    (other.src, other.tag) = (one.mac(), 0x5000_0001);
    eventually("a write to the export in memory is answered", TIMEOUT, || {
        is_answered(&one, &other)
    })
    .with_context(|| site.target.process.threads())?;
    ensure!(site.disk.waiting() > 0, "the disk has answered meanwhile");

    site.disk.switches().flushes_hang.store(false, Ordering::Relaxed);
    one.find(SLOW)?.read(0, 1)?;
    eventually("the disk has answered all", TIMEOUT, || {
        Ok(site.disk.waiting() == 0)
    })?;
    for disk in [slow, quick] {
        ensure!(disk.read(LBA, 1)? == pattern(LBA, *b"is newer"), "it is undone");
    }
    ensure!(site.fast.read(LBA, 1)? == pattern(LBA, *b"is newer"));
    ensure!(site.target.process.stop()? == 0);
    Ok(())
}

#[test]
fn what_lies_behind_a_write_to_a_hung_disk_undoes_no_newer_write() -> Result<()> {
    needs!(
        Need::Root,
        Need::File("/dev/fuse"),
        Need::File("/dev/loop-control")
    );
    let ext4 = EXT4.mounted_with("commit=1");
    for store in STORES {
        nothing_is_undone(ext4, store, IoEngine::Uring).with_context(|| format!("ext4, {store}"))?;
        nothing_is_undone(XFS, store, IoEngine::Uring).with_context(|| format!("XFS, {store}"))?;
    }
    nothing_is_undone(ext4, "direct", IoEngine::Threads).context("ext4, direct, without io_uring")
}
