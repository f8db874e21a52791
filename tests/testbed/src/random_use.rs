//! A disk used at random, beside a model of it.

use anyhow::{Result, ensure};

use crate::frame::ata;
use crate::image::{Random, SECTOR};
use crate::initiator::Disk;
use crate::seed;

/// Sectors of a request at most.
const MOST: u64 = 16;

/// Writes, reads, flushes and trims a disk of so many sectors that held zeros, half of it around multiples of `border` sectors, and
/// gives what it must hold then. Trimmed sectors must read as zeros.
///
/// # Errors
/// When it holds something else, or an operation fails.
pub fn used_at_random(disk: &Disk<'_>, sectors: u64, border: u64, rounds: u64) -> Result<Vec<u8>> {
    let mut model = vec![0; sectors as usize * SECTOR];
    let mut random = Random::new(seed());
    for round in 0..rounds {
        let count = 1 + random.below(MOST);
        let near = (1 + random.below(sectors / border - 1)) * border - 24 + random.below(32);
        let lba = if round % 2 == 0 {
            near
        } else {
            random.below(sectors - MOST)
        };
        let span = lba as usize * SECTOR..(lba + count) as usize * SECTOR;
        match random.below(8) {
            0..4 => {
                let mut data = vec![0; count as usize * SECTOR];
                random.fill(&mut data);
                disk.write(lba, &data)?;
                model[span].copy_from_slice(&data);
            }
            4 => {
                let mut range = [0; SECTOR];
                range[..8].copy_from_slice(&(lba | count << 48).to_le_bytes());
                let reply = disk.ata(ata::DATA_SET_MANAGEMENT, 0, 1, &range)?;
                ensure!(
                    reply.aoe_error().is_none() && reply.status() & 1 == 0,
                    "{reply:?}"
                );
                model[span].fill(0);
            }
            5 => disk.flush()?,
            _ => ensure!(
                disk.read(lba, count as u8)? == model[span],
                "read of {count} at {lba}"
            ),
        }
    }
    Ok(model)
}
