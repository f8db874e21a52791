//! One frame, parsed: the only place that reads a request's headers.

use aoe_common::wire::{SECTOR_BYTES, aoe, ata, eth, mask, query, reserve};
use aoe_common::{Address, Mac, Vlan};

use crate::ata::{Registers, opcode};
use crate::counters::Silence;
use crate::frames::port::PortInfo;
use crate::frames::scatter;

/// Two VLAN tags, the Ethernet and AoE headers and the longest argument.
const MAX_HEADERS: usize = 8 + eth::HEADER_LEN + aoe::HEADER_LEN + ata::HEADER_LEN;

/// The VLAN tags of a frame, outermost first, as a reply carries them: drop-eligible bits cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags {
    bytes: [u8; 8],
    len: usize,
}

impl Tags {
    /// The one tag that unasked frames of an export on VLAN `vlan` carry.
    pub(crate) fn of(vlan: Vlan) -> Tags {
        let mut tags = Tags::default();
        if let Vlan::Id(id) = vlan {
            tags.push(eth::TYPE_VLAN, id);
        }
        tags
    }

    #[inline]
    fn push(&mut self, kind: u16, tci: u16) {
        let [a, b] = kind.to_be_bytes();
        let [c, d] = (tci & eth::TCI_WITHOUT_DEI).to_be_bytes();
        let at = self.len;
        self.len = at.saturating_add(eth::TAG_LEN);
        self.bytes[at..self.len].copy_from_slice(&[a, b, c, d]);
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The VLAN of a frame that is in one at most, 0 where it is in none; `None` for other tags.
    #[inline]
    pub(crate) fn vid(&self) -> Option<u16> {
        match *self.as_slice() {
            [] => Some(0),
            [0x81, 0x00, c, d] => Some(u16::from_be_bytes([c, d]) & eth::TCI_VID),
            _ => None,
        }
    }

    /// True when an export with this rule answers frames tagged so. Priority tags (VID 0) count as untagged.
    #[inline]
    pub(crate) fn served_by(&self, vlan: Vlan) -> bool {
        let single = self.vid();
        match vlan {
            Vlan::Any => true,
            Vlan::Untagged => single == Some(0),
            Vlan::Id(id) => single == Some(id),
        }
    }
}

/// What a request asks for, with the fixed part of its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Issue ATA command.
    Ata(Registers),
    /// Query Config; the string follows.
    Query { subcommand: u8, string_bytes: u16 },
    /// MAC Mask List; directives follow.
    Mask { subcommand: u8, directives: u8 },
    /// Reserve/Release; addresses follow.
    Reserve { subcommand: u8, addresses: u8 },
    /// Any other; its number.
    Unknown(u8),
}

impl Command {
    /// From the command field and the first bytes of the argument, of which `present` are in the frame. Also the length of
    /// the fixed part.
    #[inline]
    fn parse(
        number: u8,
        argument: &[u8; ata::HEADER_LEN],
        present: usize,
    ) -> Result<(Command, usize), Silence> {
        let (command, fixed) = match number {
            aoe::CMD_ATA => (Command::Ata(Registers::read(argument)), ata::HEADER_LEN),
            aoe::CMD_QUERY => {
                let string_bytes =
                    u16::from_be_bytes([argument[query::STRING_LEN], argument[query::STRING_LEN + 1]]);
                let subcommand = argument[query::SUBCOMMAND] & 0x0f;
                (
                    Command::Query {
                        subcommand,
                        string_bytes,
                    },
                    query::HEADER_LEN,
                )
            }
            aoe::CMD_MASK => {
                let (subcommand, directives) = (argument[mask::SUBCOMMAND], argument[mask::COUNT]);
                (
                    Command::Mask {
                        subcommand,
                        directives,
                    },
                    mask::HEADER_LEN,
                )
            }
            aoe::CMD_RESERVE => {
                let (subcommand, addresses) = (argument[reserve::SUBCOMMAND], argument[reserve::COUNT]);
                (
                    Command::Reserve {
                        subcommand,
                        addresses,
                    },
                    reserve::HEADER_LEN,
                )
            }
            other => (Command::Unknown(other), 0),
        };
        if present < fixed {
            return Err(Silence::Runt);
        }
        Ok((command, fixed))
    }

    /// Bytes that must follow the argument's fixed part for the frame to be all there.
    #[inline]
    pub(crate) fn payload_bytes(self) -> usize {
        match self {
            Command::Ata(registers) if opcode(registers.command).has_payload() => {
                usize::from(registers.count).saturating_mul(SECTOR_BYTES)
            }
            Command::Query { string_bytes, .. } => usize::from(string_bytes),
            Command::Mask { directives, .. } => usize::from(directives).saturating_mul(mask::DIRECTIVE_LEN),
            Command::Reserve { addresses, .. } => usize::from(addresses).saturating_mul(size_of::<Mac>()),
            Command::Ata(_) | Command::Unknown(_) => 0,
        }
    }

    /// The number in the AoE header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Command::Ata(_) => aoe::CMD_ATA,
            Command::Query { .. } => aoe::CMD_QUERY,
            Command::Mask { .. } => aoe::CMD_MASK,
            Command::Reserve { .. } => aoe::CMD_RESERVE,
            Command::Unknown(number) => number,
        }
    }
}

/// One request, by value: replies are built from this and never from the frame's old bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// The port it came through.
    pub port: PortInfo,
    pub source: Mac,
    /// Whom it was sent to: a station or everyone. Which station is an export's own depends on the export.
    pub destination: Mac,
    /// Sent to ff:ff:ff:ff:ff:ff.
    pub broadcast: bool,
    pub tags: Tags,
    pub version: u8,
    /// As asked: shelf 0xffff and slot 0xff are wildcards.
    pub address: Address,
    pub tag: [u8; 4],
    pub command: Command,
    /// Where what follows the argument's fixed part (data, string, list) begins in the frame.
    pub payload_at: usize,
    /// The frame has less than its own headers say: it was cut on its way, or sent so.
    pub is_cut: bool,
}

impl Request {
    /// Parses a frame that `port` received.
    #[inline]
    pub(crate) fn parse(pieces: &[&[u8]], port: &PortInfo) -> Result<Request, Silence> {
        let mut head = [0u8; MAX_HEADERS];
        let len = scatter::total(pieces);
        scatter::gather(pieces, 0, &mut head);
        let u16_at = |at: usize| match head[at..] {
            [a, b, ..] => u16::from_be_bytes([a, b]),
            _ => 0,
        };
        let mac_at = |at: usize| {
            let mut mac = Mac::ZERO;
            mac.0.copy_from_slice(&head[at..][..6]);
            mac
        };

        let mut tags = Tags::default();
        let mut at = eth::TYPE;
        for _ in 0..2 {
            let kind = u16_at(at);
            if kind != eth::TYPE_VLAN && kind != eth::TYPE_QINQ {
                break;
            }
            tags.push(kind, u16_at(at.saturating_add(2)));
            at = at.saturating_add(eth::TAG_LEN);
        }
        if u16_at(at) != eth::TYPE_AOE {
            return Err(Silence::NotAoe);
        }
        at = at.saturating_add(2);
        let argument_at = at.saturating_add(aoe::HEADER_LEN);
        let Some(argument_len) = len.checked_sub(argument_at) else {
            return Err(Silence::Runt);
        };
        let header = &head[at..argument_at];
        let ver_flags = header[aoe::VER_FLAGS];
        if ver_flags & aoe::FLAG_RESPONSE != 0 {
            return Err(Silence::Response);
        }
        let destination = mac_at(eth::DST);
        let broadcast = match destination {
            Mac::BROADCAST => true,
            mac if mac.is_station() => false,
            _ => return Err(Silence::Destination),
        };
        let source = mac_at(eth::SRC);
        if !source.is_station() || source == port.mac {
            return Err(Silence::Source);
        }
        let mut tag = [0; 4];
        tag.copy_from_slice(&header[aoe::TAG..]);
        let mut argument = [0; ata::HEADER_LEN];
        argument.copy_from_slice(&head[argument_at..][..ata::HEADER_LEN]);
        let (command, fixed) = Command::parse(header[aoe::COMMAND], &argument, argument_len)?;
        Ok(Request {
            port: *port,
            source,
            destination,
            broadcast,
            tags,
            version: ver_flags >> 4,
            address: Address {
                shelf: u16::from_be_bytes([header[aoe::SHELF], header[aoe::SHELF + 1]]),
                slot: header[aoe::SLOT],
            },
            tag,
            command,
            payload_at: argument_at.saturating_add(fixed),
            is_cut: argument_len.saturating_sub(fixed) < command.payload_bytes(),
        })
    }

    /// True for what changes sectors or what is kept of an export.
    #[inline]
    pub(crate) fn changes(&self) -> bool {
        match &self.command {
            Command::Ata(registers) => opcode(registers.command).has_payload(),
            Command::Query { subcommand, .. } => {
                matches!(*subcommand, query::subcommand::SET | query::subcommand::FORCE_SET)
            }
            Command::Mask { subcommand, .. } => *subcommand == mask::subcommand::EDIT,
            Command::Reserve { subcommand, .. } => {
                matches!(
                    *subcommand,
                    reserve::subcommand::SET | reserve::subcommand::FORCE_SET
                )
            }
            Command::Unknown(_) => false,
        }
    }

    /// True when more than one export may be meant, or the sender does not know whom it asks.
    #[inline]
    pub(crate) fn is_discovery(&self) -> bool {
        self.broadcast || self.is_wildcard()
    }

    /// True for a wildcard in shelf or slot.
    #[inline]
    pub(crate) fn is_wildcard(&self) -> bool {
        self.address.shelf == aoe::SHELF_ANY || self.address.slot == aoe::SLOT_ANY
    }
}
