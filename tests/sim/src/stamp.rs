//! What sectors hold: every write has a number of its own, and each sector says by which write it was filled.

use aoe_common::wire::SECTOR_BYTES;
use xxhash_rust::xxh3::xxh3_64;

/// The contents of one sector in one word: the number of the write that filled it, [`ZEROS`], [`INITIAL`], or, for bytes that
/// are no stamp (corrupted on the way, or an adversary's), their hash with the highest bit set.
pub type Value = u64;

/// A sector of zeros: trimmed. Before the first write a sector is [`INITIAL`]; which trim it was, the trim's payload tells.
pub const ZEROS: Value = 0;

/// What a disk holds before the first write.
pub const INITIAL: Value = 1;

/// Fills a sector with the stamp of write `value`.
pub fn fill(value: Value, lba: u64, sector: &mut [u8]) {
    if value == ZEROS {
        return sector.fill(0);
    }
    for unit in sector.as_chunks_mut::<16>().0 {
        unit[..8].copy_from_slice(&value.to_le_bytes());
        unit[8..].copy_from_slice(&lba.to_le_bytes());
    }
}

/// The stamped sectors from `lba` on.
pub fn sectors(value: Value, lba: u64, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; count as usize * SECTOR_BYTES];
    fill_sectors(value, lba, &mut bytes);
    bytes
}

/// Stamps whole sectors, the first of which is `lba`.
pub fn fill_sectors(value: Value, lba: u64, bytes: &mut [u8]) {
    for (lba, sector) in (lba..).zip(bytes.chunks_mut(SECTOR_BYTES)) {
        fill(value, lba, sector);
    }
}

/// What a sector holds. A sector that is part one write and part another is neither.
pub fn value(lba: u64, sector: &[u8]) -> Value {
    let units = sector.as_chunks::<16>().0;
    let Some(first) = units.first() else { return ZEROS };
    if units.iter().all(|unit| unit == first) {
        let [low, high] = [0, 8].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&first[at..at + 8]);
            u64::from_le_bytes(word)
        });
        if high == lba && low != 0 && low >> 63 == 0 {
            return low;
        }
        if first == &[0; 16] {
            return ZEROS;
        }
    }
    xxh3_64(sector) | 1 << 63
}

/// Says a value in words.
pub fn name(value: Value) -> String {
    match value {
        ZEROS => "zeros".into(),
        INITIAL => "the initial contents".into(),
        _ if value >> 63 == 1 => format!("unstamped bytes {value:016x}"),
        _ => format!("write {}.{}", (value >> 32) - 1, value & 0xffff_ffff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_a_torn_one_is_none() {
        let mut bytes = sectors(7 << 32 | 9, 40, 2);
        assert_eq!(value(40, &bytes[..512]), 7 << 32 | 9);
        assert_eq!(value(41, &bytes[512..]), 7 << 32 | 9);
        assert_ne!(value(41, &bytes[..512]), 7 << 32 | 9, "another sector's");
        let other = sectors(7 << 32 | 10, 40, 1);
        bytes[..256].copy_from_slice(&other[..256]);
        assert_eq!(value(40, &bytes[..512]) >> 63, 1);
        assert_eq!(value(3, &[0; 512]), ZEROS);
    }
}
