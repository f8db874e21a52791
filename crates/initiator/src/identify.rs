//! What IDENTIFY DEVICE tells of a disk.

use aoe_common::wire::SECTOR_BYTES;
use aoe_common::wire::identify::{self, Words, features, features2};

/// The words of IDENTIFY that an initiator cares about (ACS-2 §7.16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskIdentity {
    /// Words 27–46.
    pub model: String,
    /// Words 10–19.
    pub serial: String,
    /// Words 23–26.
    pub firmware: String,
    /// Sectors: words 100–103 where the device has 48-bit addresses, else 60–61.
    pub sectors: u64,
    /// Word 85 bit 5: writes are acknowledged from a volatile cache.
    pub write_cache: bool,
    /// Word 169 bit 0: DATA SET MANAGEMENT TRIM works.
    pub trim: bool,
}

impl DiskIdentity {
    /// Reads the 512 bytes of an IDENTIFY reply.
    pub fn parse(data: &[u8; SECTOR_BYTES]) -> DiskIdentity {
        let words = Words::from(*data);
        let text = |field| words.text(field).collect::<String>().trim().to_owned();
        let lba48 = words.get(identify::FEATURES2) & features2::LBA48 != 0;
        DiskIdentity {
            model: text(identify::MODEL),
            serial: text(identify::SERIAL),
            firmware: text(identify::FIRMWARE),
            sectors: if lba48 {
                words.number(identify::SECTORS_48, 4)
            } else {
                words.number(identify::SECTORS_28, 2)
            },
            write_cache: words.get(identify::ENABLED) & features::WRITE_CACHE != 0,
            trim: words.get(identify::TRIM) & 1 != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> [u8; SECTOR_BYTES] {
        let mut data = [0; SECTOR_BYTES];
        data[20..40].copy_from_slice(b"7e3.0-10            ".as_ref());
        data[46..54].copy_from_slice(b".0 1    ");
        data[54..94].fill(b' ');
        data[54..58].copy_from_slice(b"oA E");
        data[120..124].copy_from_slice(&[0xff, 0xff, 0xff, 0x0f]);
        data[200..208].copy_from_slice(&0x0000_0001_8000_0000u64.to_le_bytes());
        data
    }

    #[test]
    fn strings_are_swapped_back_and_trimmed() {
        let identity = DiskIdentity::parse(&block());
        assert_eq!(identity.serial, "e7.3-001");
        assert_eq!(identity.firmware, "0.1");
        assert_eq!(identity.model, "AoE");
    }

    #[test]
    fn the_size_comes_from_the_words_that_count() {
        let mut data = block();
        assert_eq!(DiskIdentity::parse(&data).sectors, 0x0fff_ffff);
        data[167] = 0x04;
        assert_eq!(DiskIdentity::parse(&data).sectors, 0x1_8000_0000);
    }

    #[test]
    fn features_are_read() {
        let mut data = block();
        assert!(!DiskIdentity::parse(&data).write_cache && !DiskIdentity::parse(&data).trim);
        data[170] = 0x20;
        data[338] = 1;
        assert!(DiskIdentity::parse(&data).write_cache && DiskIdentity::parse(&data).trim);
    }
}
