//! The 512 bytes that IDENTIFY DEVICE gives, word for word (ATA8-ACS-2 §7.16, `docs/conformance.md`).

use aoe_common::wire::SECTOR_BYTES;
use aoe_common::wire::ata::MAX_LBA28;
use aoe_common::wire::identify::{self, Words};

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
    let mut words = Words::default();
    general(&mut words);
    words.set_text(identify::SERIAL, &facts.identity.serial);
    words.set_text(identify::FIRMWARE, &facts.identity.firmware);
    words.set_text(identify::MODEL, &facts.identity.model);
    sizes(&mut words, facts);
    features(&mut words, facts);
    if facts.traits.trim {
        if facts.traits.zeroes_after_trim {
            // Deterministic reads after TRIM, and zeros at that.
            words.set(identify::TRIM_READS, 0x4020);
        }
        words.set(identify::TRIM_BLOCKS, trim::max_blocks(facts.per_frame).into());
        words.set(identify::TRIM, 1);
    }
    if let Some(wwn) = facts.identity.wwn {
        for (word, pair) in (identify::WWN..).zip(wwn.to_be_bytes().as_chunks::<2>().0) {
            words.set(word, u16::from_be_bytes(*pair));
        }
    }
    words.finish()
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
    words.set_number(identify::SECTORS_28, 2, facts.sectors.min(MAX_LBA28));
    words.set_number(identify::SECTORS_48, 4, facts.sectors);
    let physical = match facts.traits.physical_exponent & 0x0f {
        0 => 0x4000,
        exponent => 0x6000 | u16::from(exponent),
    };
    words.set(identify::SECTOR_SIZES, physical);
}

fn features(words: &mut Words, facts: &Facts<'_>) {
    use identify::{features as bit, features2 as bit2};
    if facts.multiple != 0 {
        words.set(59, 0x0100 | u16::from(facts.multiple));
    }
    let cache = if facts.sync { 0 } else { bit::WRITE_CACHE };
    let base = bit::POWER_MANAGEMENT | bit::LOOK_AHEAD | cache;
    let smart = |on: bool| if on { bit::SMART } else { 0 };
    words.set(identify::FEATURES, base | smart(facts.smart.is_some()));
    words.set(identify::ENABLED, base | smart(facts.smart == Some(true)));
    let flushes = bit2::FLUSH | bit2::FLUSH_EXT | bit2::LBA48;
    words.set(identify::FEATURES2, 0x4000 | flushes);
    words.set(identify::ENABLED2, flushes);
    let wwn = if facts.identity.wwn.is_some() { 0x0100 } else { 0 };
    words.set(84, 0x4040 | wwn); // FUA
    words.set(87, 0x4040 | wwn);
}
