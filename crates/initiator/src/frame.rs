//! Requests as bytes and replies as structures.

use aoe_common::Mac;
use aoe_common::wire::ata::{self, command, status};
use aoe_common::wire::{MIN_FRAME_BYTES, SECTOR_BYTES, aoe, error, eth, query};

/// First byte of the command's argument in an untagged frame.
const ARGUMENT: usize = eth::HEADER_LEN + aoe::HEADER_LEN;

/// First data byte of an ATA frame; AF_PACKET shows frames without their VLAN tag.
pub const ATA_DATA: usize = ARGUMENT + ata::HEADER_LEN;

/// Who asks whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The initiator.
    pub source: Mac,
    /// The target, or [`Mac::BROADCAST`].
    pub destination: Mac,
    /// Major address, or [`aoe::SHELF_ANY`].
    pub shelf: u16,
    /// Minor address, or [`aoe::SLOT_ANY`].
    pub slot: u8,
}

/// The registers of an ATA request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtaRequest {
    /// Command register.
    pub opcode: u8,
    /// Sector count register.
    pub sectors: u8,
    /// 48-bit LBA.
    pub lba: u64,
}

impl AtaRequest {
    /// True when the request carries `sectors` of data.
    pub(crate) const fn is_write(self) -> bool {
        self.opcode == command::WRITE_EXT
    }

    /// Bytes of the frame, padding included.
    pub const fn frame_bytes(self) -> usize {
        let data = if self.is_write() {
            self.sectors as usize * SECTOR_BYTES
        } else {
            0
        };
        if ATA_DATA + data < MIN_FRAME_BYTES {
            MIN_FRAME_BYTES
        } else {
            ATA_DATA + data
        }
    }
}

fn put_header(frame: &mut [u8], route: &Route, command: u8, tag: u32) {
    frame[eth::DST..eth::DST + 6].copy_from_slice(&route.destination.0);
    frame[eth::SRC..eth::SRC + 6].copy_from_slice(&route.source.0);
    frame[eth::TYPE..eth::HEADER_LEN].copy_from_slice(&eth::TYPE_AOE.to_be_bytes());
    let header = &mut frame[eth::HEADER_LEN..ARGUMENT];
    header[aoe::VER_FLAGS] = aoe::VERSION << 4;
    header[aoe::ERROR] = 0;
    header[aoe::SHELF..aoe::SHELF + 2].copy_from_slice(&route.shelf.to_be_bytes());
    header[aoe::SLOT] = route.slot;
    header[aoe::COMMAND] = command;
    header[aoe::TAG..aoe::TAG + 4].copy_from_slice(&tag.to_be_bytes());
}

/// Writes the headers of an ATA request; data of a write, from [`ATA_DATA`] on, stay as they are.
///
/// `frame` holds at least `request.frame_bytes()` bytes; what is padding of a request without data is zeroed.
pub fn put_ata(frame: &mut [u8], route: &Route, tag: u32, request: AtaRequest) {
    put_header(frame, route, aoe::CMD_ATA, tag);
    let registers = &mut frame[ARGUMENT..ATA_DATA];
    registers.fill(0);
    registers[ata::AFLAGS] = match request.opcode {
        command::WRITE_EXT => ata::AFLAG_EXTENDED | ata::AFLAG_WRITE,
        command::READ_EXT | command::FLUSH_EXT => ata::AFLAG_EXTENDED,
        _ => 0,
    };
    registers[ata::COUNT] = request.sectors;
    registers[ata::COMMAND] = request.opcode;
    registers[ata::LBA..ata::LBA + 6].copy_from_slice(&request.lba.to_le_bytes()[..6]);
    if !request.is_write() {
        frame[ATA_DATA..MIN_FRAME_BYTES].fill(0);
    }
}

/// A Query Config read.
pub fn query_read(route: &Route, tag: u32) -> [u8; MIN_FRAME_BYTES] {
    let mut frame = [0; MIN_FRAME_BYTES];
    put_header(&mut frame, route, aoe::CMD_QUERY, tag);
    frame
}

/// A reply, its headers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    /// Who answers.
    pub(crate) source: Mac,
    /// Who is answered.
    pub(crate) destination: Mac,
    /// The answering device's major address.
    pub(crate) shelf: u16,
    /// The answering device's minor address.
    pub(crate) slot: u8,
    /// The command that is answered.
    pub(crate) command: u8,
    /// The request's tag.
    pub(crate) tag: u32,
    /// AoE error code, where the frame reports one.
    pub(crate) error: Option<u8>,
    /// The command's argument and data.
    pub(crate) argument: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Reads a frame; `None` unless it is an AoE version 1 response.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Reply<'a>> {
        let (headers, argument) = frame.split_at_checked(ARGUMENT)?;
        let (ethernet, header) = headers.split_at(eth::HEADER_LEN);
        let flags = header[aoe::VER_FLAGS];
        if ethernet[eth::TYPE..] != eth::TYPE_AOE.to_be_bytes()
            || flags >> 4 != aoe::VERSION
            || flags & aoe::FLAG_RESPONSE == 0
        {
            return None;
        }
        let mac = |at: usize| Mac(std::array::from_fn(|i| ethernet[at + i]));
        Some(Reply {
            source: mac(eth::SRC),
            destination: mac(eth::DST),
            shelf: u16::from_be_bytes([header[aoe::SHELF], header[aoe::SHELF + 1]]),
            slot: header[aoe::SLOT],
            command: header[aoe::COMMAND],
            tag: u32::from_be_bytes(std::array::from_fn(|i| header[aoe::TAG + i])),
            error: (flags & aoe::FLAG_ERROR != 0).then_some(header[aoe::ERROR]),
            argument,
        })
    }

    /// The registers and data of an ATA reply; `None` for another command or a frame too short for one.
    pub(crate) fn ata(&self) -> Option<AtaReply<'a>> {
        if self.command != aoe::CMD_ATA {
            return None;
        }
        let (registers, data) = self.argument.split_at_checked(ata::HEADER_LEN)?;
        Some(AtaReply {
            status: registers[ata::COMMAND],
            error: registers[ata::FEATURE],
            data,
        })
    }

    /// What a Query Config reply tells; `None` for another command or a frame too short for one.
    pub(crate) fn config(&self) -> Option<ConfigReply<'a>> {
        if self.command != aoe::CMD_QUERY {
            return None;
        }
        let (fixed, rest) = self.argument.split_at_checked(query::HEADER_LEN)?;
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        Some(ConfigReply {
            buffers: word(query::BUFFERS),
            firmware: word(query::FIRMWARE),
            // AoEr11 §3.2: a target that names none takes two
            sectors: if fixed[query::SECTORS] == 0 {
                2
            } else {
                fixed[query::SECTORS]
            },
            string: rest.get(..usize::from(word(query::STRING_LEN)))?,
        })
    }
}

/// What an ATA reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AtaReply<'a> {
    /// Status register.
    pub(crate) status: u8,
    /// Error register.
    pub(crate) error: u8,
    /// Data, with the frame's padding.
    pub(crate) data: &'a [u8],
}

impl AtaReply<'_> {
    /// True when the command succeeded.
    pub(crate) const fn is_ok(&self) -> bool {
        self.status & status::FAILED == 0
    }
}

/// What a Query Config reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConfigReply<'a> {
    /// Requests that the target queues.
    pub(crate) buffers: u16,
    /// Firmware version.
    pub(crate) firmware: u16,
    /// Most sectors in a request.
    pub(crate) sectors: u8,
    /// The config string.
    pub(crate) string: &'a [u8],
}

/// What an AoE error code means (AoEr11 §2.4).
pub(crate) const fn error_text(code: u8) -> &'static str {
    match code {
        error::COMMAND => "unrecognised command",
        error::ARGUMENT => "bad argument",
        error::UNAVAILABLE => "device unavailable",
        error::STRING_PRESENT => "config string present",
        error::VERSION => "unsupported version",
        error::RESERVED => "target is reserved",
        _ => "unknown code",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Route = Route {
        source: Mac([2, 0, 0, 0, 0, 1]),
        destination: Mac([2, 0, 0, 0, 0, 2]),
        shelf: 0x0102,
        slot: 3,
    };

    /// Turns a request into what a target would send back.
    fn answer(mut frame: Vec<u8>) -> Vec<u8> {
        frame[14] |= aoe::FLAG_RESPONSE;
        frame
    }

    #[test]
    fn a_read_request_is_byte_for_byte_right() {
        let mut frame = [0xaa; MIN_FRAME_BYTES];
        let request = AtaRequest {
            opcode: command::READ_EXT,
            sectors: 2,
            lba: 0x0605_0403_0201,
        };
        put_ata(&mut frame, &ROUTE, 0xdead_beef, request);
        let mut expected = vec![
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xa2, 0x10, 0, 1, 2, 3, 0,
        ];
        expected.extend([0xde, 0xad, 0xbe, 0xef]);
        expected.extend([0x40, 0, 2, 0x24, 1, 2, 3, 4, 5, 6, 0, 0]);
        expected.resize(60, 0);
        assert_eq!(frame.as_slice(), expected);
        assert_eq!(request.frame_bytes(), 60);
    }

    #[test]
    fn a_write_request_keeps_its_data() {
        let request = AtaRequest {
            opcode: command::WRITE_EXT,
            sectors: 1,
            lba: 7,
        };
        let mut frame = vec![0x5a; request.frame_bytes()];
        put_ata(&mut frame, &ROUTE, 1, request);
        assert_eq!(frame.len(), 36 + 512);
        assert_eq!(frame[24..36], [0x41, 0, 1, 0x34, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert!(frame[36..].iter().all(|&b| b == 0x5a));
    }

    #[test]
    fn replies_are_read_and_requests_are_not_taken_for_replies() {
        let mut frame = vec![0; 60];
        put_ata(
            &mut frame,
            &ROUTE,
            99,
            AtaRequest {
                opcode: command::FLUSH_EXT,
                sectors: 0,
                lba: 0,
            },
        );
        assert_eq!(Reply::parse(&frame), None);
        let mut frame = answer(frame);
        frame[27] = 0x40;
        let reply = Reply::parse(&frame).unwrap();
        assert_eq!(
            (reply.shelf, reply.slot, reply.tag, reply.error),
            (0x0102, 3, 99, None)
        );
        assert_eq!(
            (reply.source, reply.destination),
            (ROUTE.source, ROUTE.destination)
        );
        assert!(reply.ata().unwrap().is_ok());
        assert_eq!(reply.config(), None);
        for bad in [0x80, 0x20, 0x08, 0x01] {
            frame[27] = 0x40 | bad;
            assert!(
                !Reply::parse(&frame).unwrap().ata().unwrap().is_ok(),
                "status bit {bad:#x}"
            );
        }
    }

    #[test]
    fn an_error_reply_of_a_bare_header_is_understood() {
        let mut frame = answer(vec![0; 24]);
        put_header(&mut frame, &ROUTE, 0xf0, 5);
        frame[14] = 0x1c;
        frame[15] = 1;
        let reply = Reply::parse(&frame).unwrap();
        assert_eq!((reply.error, reply.command), (Some(1), 0xf0));
        assert_eq!(reply.ata(), None);
    }

    #[test]
    fn other_versions_types_and_runts_are_no_replies() {
        let good = answer(query_read(&ROUTE, 1).to_vec());
        assert!(Reply::parse(&good).is_some());
        let mut version = good.clone();
        version[14] = 0x28;
        let mut ethertype = good.clone();
        ethertype[12] = 0x08;
        assert_eq!(Reply::parse(&version), None);
        assert_eq!(Reply::parse(&ethertype), None);
        for length in 0..24 {
            assert_eq!(Reply::parse(&good[..length]), None);
        }
    }

    #[test]
    fn a_config_string_must_be_in_the_frame() {
        let mut frame = answer(query_read(&ROUTE, 1).to_vec());
        frame[24..32].copy_from_slice(&[0, 16, 0x40, 0x19, 17, 0x10, 0, 3]);
        frame[32..35].copy_from_slice(b"abc");
        let config = Reply::parse(&frame).unwrap().config().unwrap();
        assert_eq!(
            (config.buffers, config.firmware, config.sectors, config.string),
            (16, 0x4019, 17, &b"abc"[..])
        );
        frame[28] = 0;
        assert_eq!(Reply::parse(&frame).unwrap().config().unwrap().sectors, 2);
        frame[31] = 200;
        assert_eq!(Reply::parse(&frame).unwrap().config(), None);
    }
}
