//! A request that has reached a ring of the target, and what it asks for.

use aoe_common::Mac;
use aoe_common::wire::{SECTOR_BYTES, aoe, ata};

use super::admin::Asked;
use super::cluster::Tick;
use super::{At, Oracle, SHELF};
use crate::bus::WorkerId;
use crate::frame::{Frame, Header};
use crate::stamp::{self, Value};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// These sectors' bytes.
    Read {
        /// The first.
        lba: u64,
        /// How many.
        count: u64,
    },
    /// Sectors to hold this.
    Write {
        /// The first.
        lba: u64,
        /// Their values.
        values: Vec<Value>,
        /// FUA.
        forced: bool,
    },
    /// Sectors to be zeroed, first and count, and what tells it from other trims.
    Trim(Vec<(u64, u64)>, u64),
    /// What was answered, on the medium.
    Flush,
    /// Any other ATA command: its number.
    Ata(u8),
    /// String, mask, reservation.
    Admin(Asked),
    /// Nothing that the oracles know.
    Other,
}

/// A request in the target's hands.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When, in microseconds.
    pub at_us: u64,
    /// The worker whose ring it came to.
    pub worker: WorkerId,
    /// That worker's port.
    pub port: u8,
    /// The port's address when it came.
    pub asked: Mac,
    /// Whom it is from and for.
    pub header: Header,
    /// Not what a well-behaved initiator sends.
    pub odd: bool,
    /// There are, or were, other copies with its tag that ask for something else.
    pub unclear: bool,
    /// The export that it is for, when it names one.
    pub export: Option<usize>,
    /// What it asks for.
    pub what: What,
    /// Sectors that fit a frame of its port.
    pub per_frame: u8,
}

impl What {
    /// Whether it is a write or trim.
    pub fn is_write(&self) -> bool {
        matches!(self, What::Write { .. } | What::Trim(..))
    }
}

impl Arrival {
    /// Whether it is a write or trim.
    pub fn is_write(&self) -> bool {
        self.what.is_write()
    }

    /// Whether it is the write, or trim, of this key.
    pub fn writes(&self, key: u64) -> bool {
        match &self.what {
            What::Write { values, .. } => values.contains(&key),
            What::Trim(_, other) => *other == key,
            _ => false,
        }
    }

    /// The key of the write or trim that it is, if that gives the sector this value.
    pub fn key_of(&self, lba: u64, value: Value) -> Option<u64> {
        match &self.what {
            What::Write {
                lba: first, values, ..
            } => {
                let at = usize::try_from(lba.checked_sub(*first)?).ok()?;
                values.get(at).copied().filter(|written| *written == value)
            }
            What::Trim(spans, key) => {
                let covers =
                    |(first, count): &(u64, u64)| (*first..first.saturating_add(*count)).contains(&lba);
                (value == stamp::ZEROS && spans.iter().any(covers)).then_some(*key)
            }
            _ => None,
        }
    }
}

/// Opcodes as the oracles know them: is it a read or a write, and with 48 bits?
fn transfer(opcode: u8) -> Option<(bool, bool)> {
    match opcode {
        0x20 | 0xc8 | 0xc4 => Some((false, false)),
        0x24 | 0x25 | 0x29 => Some((false, true)),
        0x30 | 0xca | 0xc5 => Some((true, false)),
        0x34 | 0x35 | 0x39 | 0x3d | 0xce => Some((true, true)),
        _ => None,
    }
}

fn ata_command(argument: &[u8]) -> Option<What> {
    let registers = argument.get(..ata::HEADER_LEN)?;
    let data = &argument[ata::HEADER_LEN..];
    let (opcode, count) = (registers[ata::COMMAND], u64::from(registers[ata::COUNT]));
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&registers[ata::LBA..][..6]);
    let lba48 = u64::from_le_bytes(bytes);
    if let Some((writes, extended)) = transfer(opcode) {
        let lba = if extended { lba48 } else { lba48 & 0x0fff_ffff };
        if !writes {
            return Some(What::Read { lba, count });
        }
        let sectors = data.get(..count as usize * SECTOR_BYTES)?.chunks(SECTOR_BYTES);
        let values = (lba..)
            .zip(sectors)
            .map(|(lba, sector)| stamp::value(lba, sector))
            .collect();
        return Some(What::Write {
            lba,
            values,
            forced: matches!(opcode, 0x3d | 0xce),
        });
    }
    Some(match opcode {
        0xe7 | 0xea | 0xe0 | 0xe2 | 0xe6 => What::Flush,
        0x06 => {
            let ranges = data.get(..count as usize * SECTOR_BYTES)?.as_chunks::<8>().0;
            let range = |range: &[u8; 8]| {
                let word = u64::from_le_bytes(*range);
                (word & 0xffff_ffff_ffff, word >> 48)
            };
            let key = xxhash_rust::xxh3::xxh3_64(data);
            What::Trim(
                ranges.iter().map(range).filter(|(_, count)| *count > 0).collect(),
                key,
            )
        }
        opcode => What::Ata(opcode),
    })
}

impl Oracle {
    /// A frame has come to a worker's ring. Its moment, if it is one to be answered.
    pub fn arrived(&mut self, at: At, frame: &Frame) -> Option<Tick> {
        let header = Header::request(&frame.bytes, at.mac)?;
        let argument = frame.bytes.get(header.argument_at..).unwrap_or_default();
        let exact = !header.is_discovery() && header.shelf == SHELF;
        let export = Some(usize::from(header.slot)).filter(|slot| exact && *slot < self.exports.len());
        let what = match header.command {
            aoe::CMD_ATA => ata_command(argument).unwrap_or(What::Other),
            aoe::CMD_QUERY | aoe::CMD_MASK | aoe::CMD_RESERVE => {
                Asked::parse(header.command, argument).map_or(What::Other, What::Admin)
            }
            _ => What::Other,
        };
        let tick = self.next_tick();
        if let Some(export) = export.filter(|_| header.version == aoe::VERSION) {
            self.enter(export, &what, tick, &header);
        }
        self.by_tag.insert((at.worker, header.source, header.tag, tick));
        let arrival = Arrival {
            at_us: self.now_us,
            worker: at.worker,
            port: at.port,
            asked: at.mac,
            header,
            odd: frame.odd,
            unclear: false,
            export,
            what,
            per_frame: crate::frame::sectors_of_mtu(at.mtu),
        };
        self.arrivals.insert(tick, Box::new(arrival));
        Some(tick)
    }

    /// A write may happen from here on.
    pub(super) fn enter(&mut self, export: usize, what: &What, tick: Tick, header: &Header) {
        let sectors = &mut self.exports[export].sectors;
        let mut enter = |lba: u64, value, key| {
            if let Some(sector) = sectors.get_mut(lba as usize) {
                sector.write_arrives(value, key, tick, header.source);
            }
        };
        match what {
            What::Write { lba, values, .. } => (*lba..)
                .zip(values)
                .for_each(|(lba, value)| enter(lba, *value, *value)),
            What::Trim(spans, key) => {
                for &(first, count) in spans {
                    (first..first.saturating_add(count).min(4096))
                        .for_each(|lba| enter(lba, stamp::ZEROS, *key));
                }
            }
            _ => {}
        }
    }
}
