//! What waits for one export's disk costs that export only: another one on the same queue keeps its rate, and the sources of the slow
//! one share it. So do floods of requests whose answers cost much.

mod copies;
mod floods;
mod load;
mod memory;
mod pace;
mod promise;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use disks::Disk;
use disks::io_engine::IoEngine;
use lab::needs::Need;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Target, eventually};
use tempfile::TempDir;

const NEEDS: [Need; 3] = [
    Need::Root,
    Need::File("/dev/fuse"),
    Need::File("/dev/loop-control"),
];
const TIMEOUT: Duration = Duration::from_secs(60);
/// In memory, beside the others.
const HEALTHY: Address = Address::new(1, 0);

/// The exports whose disk is bad: 1.1 and so on.
fn bad(n: usize) -> Address {
    Address::new(1, 1 + n as u8)
}

/// What is served from the disk, and how.
#[derive(Clone, Copy, Debug)]
struct Site {
    mtu: u32,
    /// Exports on the disk.
    exports: usize,
    /// MiB of each.
    mib: usize,
    /// Further lines about each.
    lines: &'static str,
    engine: IoEngine,
}

/// Of an export that has to ask its disk for everything.
const DIRECT: &str = "store = \"direct\"\nflush_interval = \"100ms\"\n";

impl Default for Site {
    fn default() -> Site {
        Site {
            mtu: 1500,
            exports: 1,
            mib: 8,
            lines: DIRECT,
            engine: IoEngine::Uring,
        }
    }
}

/// A daemon with exports on a disk that hangs or is slow on command, and one on an image in memory, over one interface.
struct Served {
    // Dropped in this order.
    target: Target,
    disk: Disk,
    /// The disk's block device.
    device: PathBuf,
    site: Site,
    _image: Image,
    lab: Lab,
    _directory: TempDir,
}

impl Served {
    /// Parts of the disk are exported, as a block device.
    fn new(site: Site) -> Result<Served> {
        Served::over(site, site.exports * site.mib, |_, device| {
            let sectors = site.mib << 11;
            let part = |n: usize| {
                (
                    device.to_owned(),
                    format!("offset = {}\nlength = {sectors}\n", n * sectors),
                )
            };
            Ok((0..site.exports).map(part).collect())
        })
    }

    /// A disk of so many MiB, and what is to be exported of it: paths, and lines about each.
    fn over(
        site: Site,
        mib: usize,
        exports: impl FnOnce(&Lab, &Path) -> Result<Vec<(PathBuf, String)>>,
    ) -> Result<Served> {
        let lab = Lab::new(Options {
            mtu: site.mtu,
            ..Options::default()
        })?;
        let mut disk = Disk::new(&lab.target, mib)?;
        let device = PathBuf::from(disk.block_device(&lab.target)?);
        let image = Image::stamped(64)?;
        let mut all = exports(&lab, &device)?;
        all.iter_mut().for_each(|(_, lines)| lines.push_str(site.lines));
        all.insert(0, (image.path().to_owned(), "store = \"mmap\"\n".to_owned()));
        let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
        let mut text = String::from("[defaults]\ninterfaces = [\"eth0\"]\n");
        for (slot, (path, lines)) in all.iter().enumerate() {
            write!(
                text,
                "[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\n{lines}"
            )?;
        }
        std::fs::write(directory.path().join("xblade.toml"), text)?;
        site.engine.choose(&lab.target)?;
        let target = Target::ready(&lab.target, &daemon(directory.path())?, all.len())?;
        Ok(Served {
            target,
            disk,
            device,
            site,
            _image: image,
            lab,
            _directory: directory,
        })
    }

    /// Sectors that a frame carries.
    fn sectors(&self) -> u8 {
        if self.site.mtu >= 9000 { 16 } else { 2 }
    }

    /// The disk is well, and has nothing more to do.
    fn calm(&self) -> Result<()> {
        let switches = self.disk.switches();
        for hangs in [&switches.hangs, &switches.reads_hang, &switches.writes_hang] {
            hangs.store(false, Ordering::Relaxed);
        }
        switches.request_us.store(0, Ordering::Relaxed);
        let initiator = self.lab.open(0)?;
        for n in 0..self.site.exports {
            // Of sectors that every load writes first: behind all that waits for them.
            initiator.find(bad(n))?.read(0, 1)?;
        }
        eventually("the disk has nothing more to do", TIMEOUT, || {
            let metrics = String::from_utf8(self.target.ask(&["metrics"])?.stdout)?;
            let is_clean = |line: &str| line.ends_with(" 0");
            let mut dirt = metrics
                .lines()
                .filter(|line| line.starts_with("xblade_export_dirty_seconds{"));
            Ok(dirt.all(is_clean) && self.disk.waiting() == 0)
        })
    }
}
