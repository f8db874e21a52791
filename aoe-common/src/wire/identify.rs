//! What IDENTIFY DEVICE gives: 256 little-endian words (ATA8-ACS-2 §7.16).
//!
//! ```
//! use aoe_common::wire::identify::{MODEL, SECTORS_48, Words};
//!
//! let mut words = Words::default();
//! words.set_number(SECTORS_48, 4, 2048);
//! words.set_text(MODEL, "a disk");
//! let block = words.finish();
//!
//! let read = Words::from(block);
//! assert_eq!(read.number(SECTORS_48, 4), 2048);
//! assert!(read.text(MODEL).collect::<String>().starts_with("a disk"));
//! ```

use super::SECTOR_BYTES;

/// Text that a device tells: its first word and its length in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// First word.
    pub word: usize,
    /// Characters, two a word.
    pub characters: usize,
}

/// Serial number.
pub const SERIAL: Field = Field {
    word: 10,
    characters: 20,
};
/// Firmware revision.
pub const FIRMWARE: Field = Field {
    word: 23,
    characters: 8,
};
/// Model.
pub const MODEL: Field = Field {
    word: 27,
    characters: 40,
};

/// Sectors that 28 bits can say, two words.
pub const SECTORS_28: usize = 60;
/// What reads give after a TRIM.
pub const TRIM_READS: usize = 69;
/// Features that the device has: [`features`].
pub const FEATURES: usize = 82;
/// Features that the device has, second word: [`features2`].
pub const FEATURES2: usize = 83;
/// Features that are on: [`features`].
pub const ENABLED: usize = 85;
/// Features that are on, second word: [`features2`].
pub const ENABLED2: usize = 86;
/// Sectors, four words; with 48-bit addresses only.
pub const SECTORS_48: usize = 100;
/// Blocks of ranges that a DATA SET MANAGEMENT may bring.
pub const TRIM_BLOCKS: usize = 105;
/// Logical sectors of a physical one.
pub const SECTOR_SIZES: usize = 106;
/// World wide name, four words, the first the highest.
pub const WWN: usize = 108;
/// Bit 0: DATA SET MANAGEMENT knows TRIM.
pub const TRIM: usize = 169;

/// Bits of words 82 and 85.
pub mod features {
    /// SMART.
    pub const SMART: u16 = 1 << 0;
    /// Power management.
    pub const POWER_MANAGEMENT: u16 = 1 << 3;
    /// A volatile write cache.
    pub const WRITE_CACHE: u16 = 1 << 5;
    /// Look-ahead.
    pub const LOOK_AHEAD: u16 = 1 << 6;
}

/// Bits of words 83 and 86.
pub mod features2 {
    /// 48-bit addresses.
    pub const LBA48: u16 = 1 << 10;
    /// FLUSH CACHE.
    pub const FLUSH: u16 = 1 << 12;
    /// FLUSH CACHE EXT.
    pub const FLUSH_EXT: u16 = 1 << 13;
}

/// The block, as words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words([u8; SECTOR_BYTES]);

impl Default for Words {
    /// All zero.
    fn default() -> Words {
        Words([0; SECTOR_BYTES])
    }
}

impl From<[u8; SECTOR_BYTES]> for Words {
    fn from(block: [u8; SECTOR_BYTES]) -> Words {
        Words(block)
    }
}

impl Words {
    /// Word `n`, 0 to 255; beyond them 0.
    pub fn get(&self, n: usize) -> u16 {
        let (words, _) = self.0.as_chunks::<2>();
        words.get(n).map_or(0, |word| u16::from_le_bytes(*word))
    }

    /// Sets word `n`, 0 to 255; beyond them nothing is set.
    pub fn set(&mut self, n: usize, value: u16) {
        let (words, _) = self.0.as_chunks_mut::<2>();
        if let Some(word) = words.get_mut(n) {
            *word = value.to_le_bytes();
        }
    }

    /// The number in `words` words from `first` on, the lowest first; at most four.
    pub fn number(&self, first: usize, words: usize) -> u64 {
        let word = |n| u64::from(self.get(first.saturating_add(n)));
        (0..words.min(4)).rev().fold(0, |value, n| value << 16 | word(n))
    }

    /// Sets `words` words from `first` on to a number, the lowest first; at most four.
    pub fn set_number(&mut self, first: usize, words: usize, value: u64) {
        for (n, pair) in value
            .to_le_bytes()
            .as_chunks::<2>()
            .0
            .iter()
            .take(words)
            .enumerate()
        {
            self.set(first.saturating_add(n), u16::from_le_bytes(*pair));
        }
    }

    /// Text as it stands in the block: padded with spaces, what is no printable ASCII shown as a space.
    pub fn text(&self, field: Field) -> impl Iterator<Item = char> {
        (0..field.characters).map(move |n| {
            let word = self.get(field.word.saturating_add(n / 2)).to_be_bytes();
            char::from(printable(word[n % 2]))
        })
    }

    /// Sets text: cut or padded with spaces to its field, the two characters of each word swapped.
    pub fn set_text(&mut self, field: Field, text: &str) {
        let byte = |c: char| printable(u8::try_from(c).unwrap_or(b' '));
        let mut bytes = text.chars().map(byte).chain(core::iter::repeat(b' '));
        for n in 0..field.characters / 2 {
            let pair = [bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' ')];
            self.set(field.word.saturating_add(n), u16::from_be_bytes(pair));
        }
    }

    /// The block, its last word set: the signature, and the checksum of [`set_checksum`].
    pub fn finish(mut self) -> [u8; SECTOR_BYTES] {
        const SIGNATURE: u8 = 0xa5;
        let [.., signature, _] = &mut self.0;
        *signature = SIGNATURE;
        set_checksum(&mut self.0);
        self.0
    }
}

/// Sets the last byte so that all 512 add up to zero, as IDENTIFY and SMART data do.
pub fn set_checksum(block: &mut [u8; SECTOR_BYTES]) {
    let [rest @ .., checksum] = block;
    *checksum = rest
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg();
}

const fn printable(byte: u8) -> u8 {
    if matches!(byte, b' '..=b'~') { byte } else { b' ' }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::String;

    #[test]
    fn text_is_swapped_cut_and_padded() {
        let mut words = Words::default();
        words.set_text(FIRMWARE, "0.1");
        words.set_text(MODEL, "A\u{e9}B");
        words.set_text(SERIAL, "123456789012345678901234");
        assert_eq!(words.get(23), u16::from_be_bytes(*b"0."));
        assert_eq!(words.text(FIRMWARE).collect::<String>(), "0.1     ");
        assert!(words.text(MODEL).collect::<String>().starts_with("A B  "));
        assert_eq!(words.text(SERIAL).collect::<String>(), "12345678901234567890");
    }

    #[test]
    fn numbers_begin_with_their_lowest_word() {
        let mut words = Words::default();
        words.set_number(SECTORS_48, 4, 0x0123_4567_89ab_cdef);
        assert_eq!((words.get(100), words.get(103)), (0xcdef, 0x0123));
        assert_eq!(words.number(SECTORS_48, 4), 0x0123_4567_89ab_cdef);
        assert_eq!(words.number(SECTORS_48, 2), 0x89ab_cdef);
    }

    #[test]
    fn all_bytes_of_a_finished_block_add_up_to_zero() {
        let mut words = Words::default();
        words.set(0, 0x40);
        let block = words.finish();
        assert_eq!(block[510], 0xa5);
        assert_eq!(block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }
}
