//! Stamps: sectors whose content says what they are, so that a wrong one is known when it is read back.
//!
//! A stamped sector holds a magic word, its LBA, its generation and seed, and then words that only these three
//! can have produced. A sector at the wrong place, of an older write, torn in the middle or with one bit flipped
//! is found.

use aoe_common::wire::SECTOR_BYTES;

const MAGIC: u64 = u64::from_le_bytes(*b"AoEstamp");
const WORDS: usize = SECTOR_BYTES / 8;

/// What a sector read back turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StampCheck {
    /// A whole stamp of this LBA and seed; its generation.
    Stamped(u32),
    /// A sector that no run with this seed has stamped.
    Foreign,
    /// It starts like a stamp of this seed, but belongs elsewhere or is damaged.
    Wrong,
}

/// The step of splitmix64: two different inputs never give the same word.
pub(super) const fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

const fn word(lba: u64, generation: u32, seed: u32, index: usize) -> u64 {
    match index {
        0 => MAGIC,
        1 => lba,
        2 => (generation as u64) << 32 | seed as u64,
        _ => mix(mix(lba) ^ ((generation as u64) << 32 | seed as u64)).wrapping_mul(2 * index as u64 + 1),
    }
}

/// Stamps a sector.
pub(crate) fn put(sector: &mut [u8], lba: u64, generation: u32, seed: u32) {
    for (index, bytes) in sector[..SECTOR_BYTES].chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&word(lba, generation, seed, index).to_le_bytes());
    }
}

/// Says what a sector is.
pub(crate) fn check(sector: &[u8], lba: u64, seed: u32) -> StampCheck {
    let mut words = [0u64; WORDS];
    for (value, bytes) in words.iter_mut().zip(sector.chunks_exact(8)) {
        *value = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    if words[0] != MAGIC || words[2] as u32 != seed {
        return StampCheck::Foreign;
    }
    let generation = (words[2] >> 32) as u32;
    let right = words
        .iter()
        .enumerate()
        .all(|(index, &value)| value == word(lba, generation, seed, index));
    if right {
        StampCheck::Stamped(generation)
    } else {
        StampCheck::Wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(lba: u64, generation: u32, seed: u32) -> [u8; SECTOR_BYTES] {
        let mut sector = [0; SECTOR_BYTES];
        put(&mut sector, lba, generation, seed);
        sector
    }

    #[test]
    fn a_stamp_says_what_it_is() {
        let sector = stamped(1 << 40, 7, 9);
        assert_eq!(check(&sector, 1 << 40, 9), StampCheck::Stamped(7));
        assert_eq!(check(&sector, 1 << 40, 8), StampCheck::Foreign);
        assert_eq!(check(&[0; SECTOR_BYTES], 0, 9), StampCheck::Foreign);
    }

    #[test]
    fn a_misplaced_sector_is_wrong() {
        assert_eq!(check(&stamped(4, 1, 9), 5, 9), StampCheck::Wrong);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = stamped(12345, 3, 1);
        for bit in 0..SECTOR_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(check(&bad, 12345, 1), StampCheck::Stamped(3), "bit {bit}");
        }
    }

    #[test]
    fn a_sector_torn_between_two_generations_is_wrong() {
        for cut in (32..SECTOR_BYTES).step_by(8) {
            let mut torn = stamped(77, 2, 1);
            torn[cut..].copy_from_slice(&stamped(77, 1, 1)[cut..]);
            assert_eq!(check(&torn, 77, 1), StampCheck::Wrong, "torn at {cut}");
        }
    }
}
