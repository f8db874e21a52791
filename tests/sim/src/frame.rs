//! Frames on the simulated wire, and the simulation's own reading of them: it shares nothing with the engine's parser.

use aoe_common::Mac;
use aoe_common::wire::{SECTOR_BYTES, aoe, ata, eth};

/// A frame under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// As on the wire, without FCS.
    pub bytes: Vec<u8>,
    /// The network, or its sender, made it something else than a well-behaved initiator sends.
    pub odd: bool,
    /// When its sender sent it.
    pub sent_us: u64,
}

/// An AoE request's header as a target must understand it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who sent it.
    pub source: Mac,
    /// Sent to everybody.
    pub broadcast: bool,
    /// AoE version.
    pub version: u8,
    /// Shelf.
    pub shelf: u16,
    /// Slot.
    pub slot: u8,
    /// AoE command.
    pub command: u8,
    /// Tag.
    pub tag: u32,
    /// Where the argument begins.
    pub argument_at: usize,
}

/// To whom a frame is sent; nobody, where it is too short.
pub fn destination(bytes: &[u8]) -> Mac {
    mac(bytes, eth::DST).unwrap_or_default()
}

/// Who sends a frame; nobody, where it is too short.
pub fn source(bytes: &[u8]) -> Mac {
    mac(bytes, eth::SRC).unwrap_or_default()
}

/// Length of an untagged frame's headers before ATA data.
pub const DATA_AT: usize = eth::HEADER_LEN + aoe::HEADER_LEN + ata::HEADER_LEN;

fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    Some(Mac(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Header {
    /// Reads a request that a port with this address must look at; `None`: silence is the only right answer. A priority tag
    /// (VLAN 0) counts as none.
    pub fn request(bytes: &[u8], port: Mac) -> Option<Header> {
        let (destination, source) = (mac(bytes, eth::DST)?, mac(bytes, eth::SRC)?);
        let mut at = eth::TYPE;
        if word(bytes, at)? == eth::TYPE_VLAN && word(bytes, at + 2)? & eth::TCI_VID == 0 {
            at += eth::TAG_LEN;
        }
        let header = bytes.get(at + 2..)?;
        let response = header.first()? & aoe::FLAG_RESPONSE != 0;
        let ours = destination == port || destination == Mac::BROADCAST;
        if word(bytes, at)? != eth::TYPE_AOE || response || !ours || !source.is_station() || source == port {
            return None;
        }
        Some(Header {
            source,
            broadcast: destination == Mac::BROADCAST,
            version: header[0] >> 4,
            shelf: word(header, aoe::SHELF)?,
            slot: *header.get(aoe::SLOT)?,
            command: *header.get(aoe::COMMAND)?,
            tag: u32::from_be_bytes(*header.get(aoe::TAG..)?.first_chunk()?),
            argument_at: at + 2 + aoe::HEADER_LEN,
        })
    }

    /// Meant for more than one export, or sent without knowing to whom.
    pub fn is_discovery(&self) -> bool {
        self.broadcast || self.shelf == aoe::SHELF_ANY || self.slot == aoe::SLOT_ANY
    }
}

/// An untagged request.
pub fn request(
    to: Mac,
    from: Mac,
    shelf: u16,
    slot: u8,
    command: u8,
    tag: u32,
    argument: &[&[u8]],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DATA_AT + argument.iter().map(|part| part.len()).sum::<usize>());
    bytes.extend(to.0);
    bytes.extend(from.0);
    bytes.extend(eth::TYPE_AOE.to_be_bytes());
    bytes.extend([aoe::VERSION << 4, 0]);
    bytes.extend(shelf.to_be_bytes());
    bytes.extend([slot, command]);
    bytes.extend(tag.to_be_bytes());
    argument.iter().for_each(|part| bytes.extend(*part));
    bytes
}

/// An ATA argument: AFlags, feature, count, command, LBA.
pub fn registers(aflags: u8, feature: u8, count: u8, command: u8, lba: u64) -> [u8; ata::HEADER_LEN] {
    let [a, b, c, d, e, f, ..] = lba.to_le_bytes();
    [aflags, feature, count, command, a, b, c, d, e, f, 0, 0]
}

/// What the simulation reads in a reply.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// To whom.
    pub to: Mac,
    /// From which address.
    pub from: Mac,
    /// AoE error; 0: none.
    pub error: u8,
    /// Shelf.
    pub shelf: u16,
    /// Slot.
    pub slot: u8,
    /// AoE command.
    pub command: u8,
    /// Tag.
    pub tag: u32,
    /// After the AoE header.
    pub argument: &'a [u8],
}

impl Reply<'_> {
    /// Reads a response with at most a priority tag.
    pub fn parse(bytes: &[u8]) -> Option<Reply<'_>> {
        let mut at = eth::TYPE;
        if word(bytes, at)? == eth::TYPE_VLAN {
            at += eth::TAG_LEN;
        }
        let header = bytes.get(at + 2..)?;
        let flags = *header.first()?;
        if word(bytes, at)? != eth::TYPE_AOE || flags >> 4 != aoe::VERSION || flags & aoe::FLAG_RESPONSE == 0
        {
            return None;
        }
        let error = *header.get(aoe::ERROR)?;
        // The flag says that the field means something.
        let is_error = flags & aoe::FLAG_ERROR != 0;
        if is_error != (error != 0) || flags & 0x03 != 0 {
            return None;
        }
        Some(Reply {
            to: mac(bytes, eth::DST)?,
            from: mac(bytes, eth::SRC)?,
            error,
            shelf: word(header, aoe::SHELF)?,
            slot: *header.get(aoe::SLOT)?,
            command: *header.get(aoe::COMMAND)?,
            tag: u32::from_be_bytes(*header.get(aoe::TAG..)?.first_chunk()?),
            argument: header.get(aoe::HEADER_LEN..)?,
        })
    }

    /// ATA status and error registers.
    pub fn status(&self) -> Option<(u8, u8)> {
        Some((
            *self.argument.get(ata::COMMAND)?,
            *self.argument.get(ata::FEATURE)?,
        ))
    }

    /// The data after the ATA registers.
    pub fn data(&self) -> &[u8] {
        self.argument.get(ata::HEADER_LEN..).unwrap_or_default()
    }
}

/// Sectors of a link with this MTU, as both ends compute it.
pub fn sectors_of_mtu(mtu: u32) -> u8 {
    (mtu.saturating_sub(36) / SECTOR_BYTES as u32).min(255) as u8
}
