//! The images that are served.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Bytes of an image.
pub(super) const BYTES: u64 = 1 << 30;

/// Directories in RAM and on a disk; all that is in them vanishes with this.
#[derive(Debug)]
pub(super) struct Images {
    ram: TempDir,
    disk: TempDir,
}

impl Images {
    /// Makes the directories.
    pub(super) fn new(disk: &Path) -> Result<Images> {
        let directory = |parent: &Path| {
            let made = tempfile::Builder::new()
                .prefix("xblade-bench-")
                .tempdir_in(parent);
            made.with_context(|| format!("a directory for images in {}", parent.display()))
        };
        Ok(Images {
            ram: directory(Path::new("/dev/shm"))?,
            disk: directory(disk)?,
        })
    }

    /// An image in RAM, made when it is not there; every page of it is in memory.
    pub(super) fn in_ram(&self, name: &str) -> Result<PathBuf> {
        image(&self.ram.path().join(name))
    }

    /// An image in RAM that is one hole, made anew.
    pub(super) fn hole_in_ram(&self, name: &str) -> Result<PathBuf> {
        let path = self.ram.path().join(name);
        let made = File::create(&path).and_then(|file| file.set_len(BYTES));
        made.with_context(|| format!("{}", path.display()))?;
        Ok(path)
    }

    /// An image on the disk's file system, all its space written.
    pub(super) fn on_disk(&self, name: &str) -> Result<PathBuf> {
        image(&self.disk.path().join(name))
    }

    /// The directory on the disk's file system.
    pub(super) fn disk_directory(&self) -> &Path {
        self.disk.path()
    }

    /// The directory in RAM.
    pub(super) fn ram_directory(&self) -> &Path {
        self.ram.path()
    }
}

fn image(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        let mut file = File::create(path).with_context(|| format!("{}", path.display()))?;
        // not zeros, which some file systems do not store
        let block: Vec<u8> = (0..1 << 20)
            .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for _ in 0..BYTES / block.len() as u64 {
            file.write_all(&block)
                .with_context(|| format!("filling {}", path.display()))?;
        }
        file.sync_all()?;
    }
    Ok(path.into())
}

/// Empties the page cache of everything that is not mapped.
pub(super) fn drop_caches() -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("emptying the page cache")?;
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}
