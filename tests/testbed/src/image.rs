//! Images to export, with sectors that say which they are.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// A raw image in a directory of its own; both vanish when dropped.
#[derive(Debug)]
pub struct Image {
    directory: TempDir,
    path: PathBuf,
    file: File,
}

impl Image {
    /// A sparse image of this many sectors, all zeros.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn sparse(sectors: u64) -> Result<Image> {
        Image::sparse_in(&std::env::temp_dir(), sectors)
    }

    /// The same in a directory of another file system.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn sparse_in(place: &Path, sectors: u64) -> Result<Image> {
        let directory = tempfile::Builder::new()
            .prefix("xblade-")
            .tempdir_in(place)
            .context("making a temporary directory")?;
        let path = directory.path().join("image.raw");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.set_len(sectors * SECTOR as u64)?;
        Ok(Image {
            directory,
            path,
            file,
        })
    }

    /// An image whose sectors all carry [`stamp`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn stamped(sectors: u64) -> Result<Image> {
        let image = Image::sparse(sectors)?;
        for first in (0..sectors).step_by(2048) {
            let part: Vec<u8> = (first..sectors.min(first + 2048)).flat_map(stamp).collect();
            image.file.write_all_at(&part, first * SECTOR as u64)?;
        }
        Ok(image)
    }

    /// Path of the image.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same as text, for a command line.
    pub fn as_str(&self) -> &str {
        self.path.to_str().expect("temporary paths are UTF-8")
    }

    /// The directory, for further files of the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The image's file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads sectors behind the target's back.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(&self, lba: u64, count: usize) -> Result<Vec<u8>> {
        let mut data = vec![0; count * SECTOR];
        self.file
            .read_exact_at(&mut data, lba * SECTOR as u64)
            .with_context(|| format!("reading sector {lba}"))?;
        Ok(data)
    }
}

/// What sector `lba` of a stamped image holds: its number and `AoEsectr`, 32 times (as in the protocol's vectors).
pub fn stamp(lba: u64) -> [u8; SECTOR] {
    pattern(lba, *b"AoEsectr")
}

/// A sector made of its number and eight bytes of the test's choice, 32 times.
pub fn pattern(lba: u64, word: [u8; 8]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    for chunk in sector.chunks_exact_mut(16) {
        chunk[..8].copy_from_slice(&lba.to_le_bytes());
        chunk[8..].copy_from_slice(&word);
    }
    sector
}

/// A small generator of numbers that repeats for a seed (xorshift64*), so that a failure can be run again.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// Fills a slice.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.number().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}
