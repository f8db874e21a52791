//! What waits for one export's disk costs that export only: another one on the same queue goes on.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aoe_common::Mac;
use disks::Disk;
use lab::frame::ata;
use lab::image::SECTOR;
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Request, Target, needs};
use tempfile::TempDir;

const NEEDS: [Need; 3] = [
    Need::Root,
    Need::File("/dev/fuse"),
    Need::File("/dev/loop-control"),
];
const STUCK: Address = Address::new(1, 1);
const HEALTHY: Address = Address::new(1, 2);
/// How long reads are counted at a time.
const WINDOW: Duration = Duration::from_millis(500);
/// Windows that one of must show the promised rate: the machine may be busy with other things in some of them.
const WINDOWS: usize = 40;

/// A daemon with an export on a disk that hangs on command and one on an image, over one interface.
struct Served {
    // Dropped in this order.
    target: Target,
    disk: Disk,
    _image: Image,
    lab: Lab,
    _directory: TempDir,
}

impl Served {
    fn new(mtu: u32) -> Result<Served> {
        let lab = Lab::new(Options {
            mtu,
            ..Options::default()
        })?;
        let mut disk = Disk::new(&lab.target, 8)?;
        let device = PathBuf::from(disk.block_device(&lab.target)?);
        let image = Image::stamped(64)?;
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        let mut text = String::from("[defaults]\ninterfaces = [\"eth0\"]\n");
        for (slot, path, store) in [(1, device.as_path(), "direct"), (2, image.path(), "mmap")] {
            writeln!(
                text,
                "[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\nstore = \"{store}\""
            )?;
        }
        let config = directory.path().join("xblade.toml");
        std::fs::write(&config, text)?;
        let (config, state) = (config, directory.path().join("state"));
        let (config, state) = (
            config.to_str().context("odd path")?,
            state.to_str().context("odd path")?,
        );
        let mut target = Target::start(&lab.target, &["daemon", "--config", config, "--state-dir", state])?;
        target.wait_ready(0, 2)?;
        Ok(Served {
            target,
            disk,
            _image: image,
            lab,
            _directory: directory,
        })
    }

    /// As many writes to the same sectors as memory to receive frames into would be gone if each kept its own: the first hangs in the
    /// disk, the others wait for it. From many sources, each with its share.
    fn press(&self, sectors: u8) -> Result<()> {
        let initiator = self.lab.open(0)?;
        for n in 0..2000u32 {
            let data = vec![n as u8; usize::from(sectors) * SECTOR];
            let mut write = Request::ata(
                lab::link::target_mac(0),
                STUCK,
                ata::WRITE_EXT,
                2048,
                sectors,
                &data,
            );
            write.src = Mac::from_u64(0x0200_0000_1000 | u64::from(n % 24));
            write.tag = 0x8200_0000 + n;
            write.argument[12..16].copy_from_slice(&n.to_be_bytes());
            initiator.send(&write.bytes())?;
        }
        Ok(())
    }

    /// Reads of the healthy export in one window, one after the other.
    fn reads(&self) -> Result<u32> {
        let initiator = self.lab.open(0)?;
        let disk = initiator.find(HEALTHY)?;
        let (begin, mut count) = (Instant::now(), 0);
        while begin.elapsed() < WINDOW {
            disk.read(u64::from(count % 64), 1)?;
            count += 1;
        }
        Ok(count)
    }
}

#[test]
fn an_export_on_a_stuck_disk_takes_nothing_from_another() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    for (mtu, sectors) in [(1500, 2), (9000, 16)] {
        let mut served = Served::new(mtu)?;
        let mut before: Vec<u32> = (0..3).map(|_| served.reads()).collect::<Result<_>>()?;
        before.sort_unstable();
        served.disk.switches().hangs.store(true, Ordering::Relaxed);
        let mut during = Vec::new();
        // Where nothing is left for others the rate is 0 or a few; how near it comes to the one before is a matter for a benchmark on
        // a machine that does nothing else.
        while during.last().is_none_or(|reads| reads * 2 < before[1]) {
            ensure!(
                during.len() < WINDOWS,
                "MTU {mtu}: {before:?} reads before, {during:?} during"
            );
            served.press(sectors)?;
            during.push(served.reads()?);
        }
        served.disk.switches().hangs.store(false, Ordering::Relaxed);
        ensure!(served.lab.open(0)?.find(STUCK)?.read(2048, 1)?.len() == SECTOR);
        served.target.process.stop()?;
    }
    Ok(())
}
