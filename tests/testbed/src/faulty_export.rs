//! A target whose backing object is about to go bad, and how its answers tell.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::frame::ata;
use crate::image::pattern;
use crate::initiator::TIMEOUT;
use crate::{Address, Initiator, Lab, Namespace, Options, Reply, Target};

/// What is served.
pub const ADDRESS: Address = Address::new(7, 3);
/// The stores that serve a file.
pub const STORES: [&str; 2] = ["mmap", "direct"];

/// A read that the medium did not answer: DRDY ERR, UNC.
pub const READ_FAULT: (u8, u8) = (0x41, 0x40);
/// A write that the medium did not take: DRDY DF ERR, ABRT.
pub const WRITE_FAULT: (u8, u8) = (0x61, 0x04);
/// Done: DRDY.
pub const GOOD: (u8, u8) = (0x40, 0);

/// A lab and an initiator in it.
#[derive(Debug)]
pub struct FaultyExport {
    /// Namespaces and link.
    pub lab: Lab,
    /// Asks.
    pub initiator: Initiator,
}

impl FaultyExport {
    /// Builds it.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<FaultyExport> {
        let lab = Lab::new(Options::default())?;
        let initiator = lab.open(0)?;
        Ok(FaultyExport { lab, initiator })
    }

    /// Serves a file as [`ADDRESS`], with further options.
    ///
    /// # Errors
    /// When the target does not get ready.
    pub fn serve(&self, file: &Path, options: &[&str]) -> Result<Target> {
        let file = file.to_str().context("odd path")?;
        let args = [&["serve", "7", "3", "eth0", file], options].concat();
        let target = Target::ready(&self.lab.target, &args, 1)?;
        // Its question whether somebody else has its address, and its advertisement.
        self.initiator.drain()?;
        Ok(target)
    }

    /// Asks and returns the reply, good or bad.
    ///
    /// # Errors
    /// When there is none.
    pub fn ask(&self, command: u8, lba: u64, count: u8, data: &[u8]) -> Result<Reply> {
        self.initiator.find(ADDRESS)?.ata(command, lba, count, data)
    }

    /// Reads a sector.
    ///
    /// # Errors
    /// As [`FaultyExport::ask`].
    pub fn read(&self, lba: u64) -> Result<Reply> {
        self.ask(ata::READ_EXT, lba, 1, &[])
    }

    /// Writes a sector of [`pattern`].
    ///
    /// # Errors
    /// As [`FaultyExport::ask`].
    pub fn write(&self, lba: u64, word: [u8; 8]) -> Result<Reply> {
        self.ask(ata::WRITE_EXT, lba, 1, &pattern(lba, word))
    }

    /// FLUSH CACHE EXT.
    ///
    /// # Errors
    /// As [`FaultyExport::ask`].
    pub fn flush(&self) -> Result<Reply> {
        self.ask(ata::FLUSH_EXT, 0, 0, &[])
    }
}

/// Status and error register.
pub fn registers(reply: &Reply) -> (u8, u8) {
    (reply.status(), reply.ata_error())
}

/// LBA registers.
pub fn lba(reply: &Reply) -> u64 {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&reply.argument[4..10]);
    u64::from_le_bytes(bytes)
}

/// Asks until the answer is good: a fault may outlast its cause by one report, not for ever.
///
/// # Errors
/// When it stays bad for [`TIMEOUT`].
pub fn recovers(what: &str, ask: impl Fn() -> Result<Reply>) -> Result<()> {
    let mut seen = Vec::new();
    let start = Instant::now();
    while start.elapsed() < TIMEOUT {
        let reply = ask()?;
        if registers(&reply) == GOOD {
            return Ok(());
        }
        if seen.last() != Some(&registers(&reply)) {
            seen.push(registers(&reply));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{what} does not recover: {seen:02x?}")
}

/// The log names the export (by its file), the place and the cause, and does not drown the reader.
///
/// # Errors
/// When there is no such line, too many lines, or the target is gone.
pub fn logged(target: &mut Target, file: &Path, cause: &str) -> Result<()> {
    let name = file.to_str().context("odd path")?.to_owned();
    let is_it = |line: &str| line.contains(&name) && line.contains(cause) && line.contains("sector");
    let found = target.process.wait_for_after(0, is_it, TIMEOUT);
    found.with_context(|| format!("no line has {name}, {cause:?} and the sector"))?;
    ensure!(
        target.process.log().lines().count() < 100,
        "a log that drowns its reader:\n{}",
        target.process.log()
    );
    ensure!(target.process.is_running(), "the target is gone");
    Ok(())
}

/// Runs a job on a path as the namespace sees it.
///
/// # Errors
/// When the job fails.
pub fn at<T: Send + 'static>(
    namespace: &Namespace,
    path: &Path,
    job: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let path = path.to_owned();
    namespace.run(move || job(&path)).context("preparing a file")
}

/// Makes a file of zeros that take no space.
///
/// # Errors
/// When it cannot be made.
pub fn sparse(namespace: &Namespace, path: &Path, bytes: u64) -> Result<()> {
    at(namespace, path, move |path| {
        std::fs::File::create(path)?.set_len(bytes)
    })
}

/// Makes a file whose bytes are all on the disk and none of them in memory: who reads it asks the disk.
///
/// # Errors
/// When it cannot be made.
pub fn cold(namespace: &Namespace, path: &Path, bytes: usize) -> Result<()> {
    at(namespace, path, move |path| {
        std::fs::write(path, vec![7; bytes])?;
        let file = std::fs::File::open(path)?;
        file.sync_all()?;
        Ok(posix_fadvise(
            &file,
            0,
            0,
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        )?)
    })
}

/// Fills the file system with a file, to the last byte.
///
/// # Errors
/// When there is not even the file.
pub fn fill(namespace: &Namespace, path: &Path) -> Result<()> {
    at(namespace, path, |path| {
        let mut file = std::fs::File::create(path)?;
        for size in [1 << 20, 4096, 512, 1] {
            while std::io::Write::write(&mut file, &vec![7; size]).is_ok_and(|written| written > 0) {}
        }
        let _ = file.sync_all();
        Ok(())
    })
}
