//! The 512 bytes that IDENTIFY DEVICE gives, word for word (ATA8-ACS-2 §7.16, `docs/conformance.md`).

use aoe_common::wire::SECTOR_BYTES;

use super::registers::MAX_LBA28;
use super::trim;
use crate::store::Traits;

/// Largest multiple mode.
pub(crate) const MAX_MULTIPLE: u8 = 16;

/// Who an export says it is. Text is printable ASCII; anything else is shown as a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Serial number, at most 20 characters: unique, stable, the same on all paths, never blank (9front needs one).
    pub serial: String,
    /// Model, at most 40 characters.
    pub model: String,
    /// Firmware revision, at most 8 characters.
    pub firmware: String,
    /// World wide name, where the operator has one to give.
    pub wwn: Option<u64>,
}

/// What the block depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// Sectors exported.
    pub sectors: u64,
    /// Sectors in a frame of this port.
    pub per_frame: u8,
    /// No volatile write cache.
    pub sync: bool,
    /// What the store can do.
    pub traits: Traits,
    /// Current multiple mode; 0: off.
    pub multiple: u8,
    /// SMART is offered; `Some(true)`: and enabled.
    pub smart: Option<bool>,
}

/// Builds the block.
pub(crate) fn block(facts: &Facts<'_>) -> [u8; SECTOR_BYTES] {
    let mut words = Words([0; SECTOR_BYTES]);
    general(&mut words);
    words.text(10, 20, &facts.identity.serial);
    words.text(23, 8, &facts.identity.firmware);
    words.text(27, 40, &facts.identity.model);
    sizes(&mut words, facts);
    features(&mut words, facts);
    if facts.traits.trim {
        if facts.traits.zeroes_after_trim {
            // Deterministic reads after TRIM, and zeros at that.
            words.set(69, 0x4020);
        }
        words.set(105, trim::max_blocks(facts.per_frame).into());
        words.set(169, 1);
    }
    if let Some(wwn) = facts.identity.wwn {
        let [a, b, c, d, e, f, g, h] = wwn.to_be_bytes();
        for (word, pair) in [(108, [a, b]), (109, [c, d]), (110, [e, f]), (111, [g, h])] {
            words.set(word, u16::from_be_bytes(pair));
        }
    }
    let mut block = words.0;
    block[510] = 0xa5;
    checksum(&mut block);
    block
}

/// What never changes.
fn general(words: &mut Words) {
    for (word, value) in [
        (0, 0x0040), // ATA device, fixed
        (1, 16383),  // the geometry of any large disk
        (2, 0xc837), // complete, no spin-up needed
        (3, 16),
        (6, 63),
        (47, 0x8000 | u16::from(MAX_MULTIPLE)),
        (48, 0x4000), // no trusted computing
        (49, 0x2f00), // DMA, LBA (9front needs it), IORDY, standby timers
        (50, 0x4000),
        (53, 0x0006), // words 64 to 70 and 88 are valid
        (63, 0x0007), // multiword DMA 0 to 2
        (64, 0x0003), // PIO 3 and 4
        (65, 120),    // cycle times, ns
        (66, 120),
        (67, 120),
        (68, 120),
        (80, 0x03f0),  // ATA-4 to ACS-2
        (88, 0x407f),  // UDMA 0 to 6, 6 selected
        (209, 0x4000), // LBA 0 begins a physical sector
        (217, 1),      // not rotating
    ] {
        words.set(word, value);
    }
}

fn sizes(words: &mut Words, facts: &Facts<'_>) {
    let [a, b, c, d, ..] = facts.sectors.min(MAX_LBA28).to_le_bytes();
    words.set(60, u16::from_le_bytes([a, b]));
    words.set(61, u16::from_le_bytes([c, d]));
    let [a, b, c, d, e, f, g, h] = facts.sectors.to_le_bytes();
    for (word, pair) in [(100, [a, b]), (101, [c, d]), (102, [e, f]), (103, [g, h])] {
        words.set(word, u16::from_le_bytes(pair));
    }
    let physical = match facts.traits.physical_exponent & 0x0f {
        0 => 0x4000,
        exponent => 0x6000 | u16::from(exponent),
    };
    words.set(106, physical);
}

fn features(words: &mut Words, facts: &Facts<'_>) {
    if facts.multiple != 0 {
        words.set(59, 0x0100 | u16::from(facts.multiple));
    }
    let cache = if facts.sync { 0 } else { 0x0020 };
    let base = 0x0048 | cache; // power management, look-ahead, write cache
    words.set(82, base | u16::from(facts.smart.is_some()));
    words.set(85, base | u16::from(facts.smart == Some(true)));
    words.set(83, 0x7400); // FLUSH EXT, FLUSH, LBA48
    words.set(86, 0x3400);
    let wwn = if facts.identity.wwn.is_some() { 0x0100 } else { 0 };
    words.set(84, 0x4040 | wwn); // FUA
    words.set(87, 0x4040 | wwn);
}

/// Sets the last byte so that all 512 add up to zero.
pub(crate) fn checksum(block: &mut [u8; SECTOR_BYTES]) {
    block[511] = 0;
    let sum = block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    block[511] = sum.wrapping_neg();
}

struct Words([u8; SECTOR_BYTES]);

impl Words {
    fn set(&mut self, word: usize, value: u16) {
        let (words, _) = self.0.as_chunks_mut::<2>();
        words[word] = value.to_le_bytes();
    }

    /// Text of `len` characters, padded with spaces, the two characters of each word swapped.
    fn text(&mut self, word: usize, len: usize, text: &str) {
        let shown = |c: char| if matches!(c, ' '..='~') { c as u8 } else { b' ' };
        let mut chars = text.chars().map(shown).chain(std::iter::repeat(b' '));
        let (words, _) = self.0.as_chunks_mut::<2>();
        for pair in words[word..].iter_mut().take(len.div_ceil(2)) {
            let first = chars.next().unwrap_or(b' ');
            *pair = [chars.next().unwrap_or(b' '), first];
        }
    }
}
