//! Sectors that hold a number: what was written where can be told from what is there.

use crate::image::{SECTOR, pattern};

/// Contents of a sector: every write has a value of its own; 0 is a sector never written.
pub type Value = u64;

/// The bytes of a sector that holds this value.
pub fn sector(lba: u64, value: Value) -> [u8; SECTOR] {
    if value == 0 {
        [0; SECTOR]
    } else {
        pattern(lba, value.to_le_bytes())
    }
}

/// The value that a sector holds; `None` when it is no sector of ours: torn, misplaced, or somebody else's bytes.
pub fn value(lba: u64, bytes: &[u8]) -> Option<Value> {
    let value = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    (bytes == sector(lba, value)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_misplaced_sector_has_no_value() {
        let (old, new) = (sector(5, 1), sector(5, 2));
        assert_eq!(value(5, &new), Some(2));
        assert_eq!(value(5, &[0; SECTOR]), Some(0));
        assert_eq!(value(6, &new), None);
        let torn = [&new[..256], &old[256..]].concat();
        assert_eq!(value(5, &torn), None);
    }
}
