//! Frames as an initiator writes and reads them: made here from nothing but the protocol, so that a mistake in the
//! target's own code cannot hide itself.

use anyhow::{Result, ensure};
use aoe_common::Mac;

/// ATA commands that the tests send.
pub mod ata {
    /// READ SECTORS.
    pub const READ: u8 = 0x20;
    /// READ SECTORS EXT.
    pub const READ_EXT: u8 = 0x24;
    /// WRITE SECTORS EXT.
    pub const WRITE_EXT: u8 = 0x34;
    /// WRITE DMA FUA EXT.
    pub const WRITE_FUA_EXT: u8 = 0x3d;
    /// FLUSH CACHE EXT.
    pub const FLUSH_EXT: u8 = 0xea;
    /// DATA SET MANAGEMENT: TRIM.
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    /// CHECK POWER MODE.
    pub const CHECK_POWER: u8 = 0xe5;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY: u8 = 0xec;
}

/// An address of an export; `Address::ALL` is the wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Major address.
    pub shelf: u16,
    /// Minor address.
    pub slot: u8,
}

impl Address {
    /// Every export.
    pub const ALL: Address = Address {
        shelf: 0xffff,
        slot: 0xff,
    };

    /// Shelf and slot.
    pub const fn new(shelf: u16, slot: u8) -> Address {
        Address { shelf, slot }
    }
}

/// A request of which the test sets what it cares about.
#[derive(Debug, Clone)]
pub struct Request {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// 802.1Q tag (TCI), if any.
    pub tci: Option<u16>,
    /// Version and flags.
    pub ver_flags: u8,
    /// Shelf and slot.
    pub address: Address,
    /// AoE command.
    pub command: u8,
    /// Tag.
    pub tag: u32,
    /// Everything after the AoE header.
    pub argument: Vec<u8>,
}

impl Request {
    /// A request with an argument of any bytes.
    pub fn new(dst: Mac, address: Address, command: u8, argument: Vec<u8>) -> Request {
        Request {
            dst,
            src: Mac::ZERO,
            tci: None,
            ver_flags: 0x10,
            address,
            command,
            tag: 0,
            argument,
        }
    }

    /// An ATA command; 48-bit when its code is, with the write flag when it carries data to the device.
    pub fn ata(dst: Mac, address: Address, command: u8, lba: u64, count: u8, data: &[u8]) -> Request {
        let extended = matches!(
            command,
            0x24 | 0x25 | 0x29 | 0x34 | 0x35 | 0x39 | 0x3d | 0xce | 0x06 | 0x42 | 0xea
        );
        let write = matches!(
            command,
            0x30 | 0x34 | 0x35 | 0x39 | 0xca | 0xc5 | 0x3d | 0xce | 0x06
        );
        let feature = u8::from(command == 0x06);
        let mut argument = vec![u8::from(extended) << 6 | u8::from(write), feature, count, command];
        argument.extend(&lba.to_le_bytes()[..6]);
        if command == ata::IDENTIFY {
            argument[7] = 0xa0;
        }
        argument.extend([0, 0]);
        argument.extend(data);
        Request::new(dst, address, 0, argument)
    }

    /// Query Config with a subcommand and a string.
    pub fn query(dst: Mac, address: Address, subcommand: u8, string: &[u8]) -> Request {
        let mut argument = vec![0, 0, 0, 0, 0, subcommand];
        argument.extend(u16::try_from(string.len()).expect("short strings").to_be_bytes());
        argument.extend(string);
        Request::new(dst, address, 1, argument)
    }

    /// MAC Mask List with directives (1 add, 2 delete).
    pub fn mask(dst: Mac, address: Address, subcommand: u8, directives: &[(u8, Mac)]) -> Request {
        let mut argument = vec![
            0,
            subcommand,
            0,
            u8::try_from(directives.len()).expect("few directives"),
        ];
        for (directive, mac) in directives {
            argument.extend([0, *directive]);
            argument.extend(mac.0);
        }
        Request::new(dst, address, 2, argument)
    }

    /// Reserve/Release (0 read, 1 set, 2 force set).
    pub fn reserve(dst: Mac, address: Address, subcommand: u8, macs: &[Mac]) -> Request {
        let mut argument = vec![subcommand, u8::try_from(macs.len()).expect("few addresses")];
        argument.extend(macs.iter().flat_map(|mac| mac.0));
        Request::new(dst, address, 3, argument)
    }

    /// The bytes on the wire, without padding: virtual links do not pad, so neither do we.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(28 + self.argument.len());
        frame.extend(self.dst.0);
        frame.extend(self.src.0);
        if let Some(tci) = self.tci {
            frame.extend([0x81, 0x00]);
            frame.extend(tci.to_be_bytes());
        }
        frame.extend([0x88, 0xa2, self.ver_flags, 0]);
        frame.extend(self.address.shelf.to_be_bytes());
        frame.extend([self.address.slot, self.command]);
        frame.extend(self.tag.to_be_bytes());
        frame.extend(&self.argument);
        frame
    }
}

/// A reply, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Destination address.
    pub dst: Mac,
    /// Source address: the port that answered.
    pub src: Mac,
    /// Version and flags.
    pub ver_flags: u8,
    /// AoE error code.
    pub error: u8,
    /// Shelf and slot.
    pub address: Address,
    /// AoE command.
    pub command: u8,
    /// Tag.
    pub tag: u32,
    /// Everything after the AoE header, padding included.
    pub argument: Vec<u8>,
}

impl Reply {
    /// Takes an untagged reply apart.
    ///
    /// # Errors
    /// When it is no well-formed AoE reply: shorter than 60 bytes, no response flag, wrong version or EtherType.
    pub fn parse(frame: &[u8]) -> Result<Reply> {
        ensure!(
            frame.len() >= 60,
            "a reply of {} bytes: {frame:02x?}",
            frame.len()
        );
        ensure!(frame[12..14] == [0x88, 0xa2], "EtherType {:02x?}", &frame[12..14]);
        ensure!(frame[14] & 0xf8 == 0x18, "version and flags {:#04x}", frame[14]);
        ensure!(frame[14] & 0x03 == 0, "reserved flags {:#04x}", frame[14]);
        ensure!(
            frame[14] & 4 != 0 || frame[15] == 0,
            "error {} without the error flag",
            frame[15]
        );
        Ok(Reply {
            dst: mac(&frame[0..6]),
            src: mac(&frame[6..12]),
            ver_flags: frame[14],
            error: frame[15],
            address: Address::new(u16::from_be_bytes([frame[16], frame[17]]), frame[18]),
            command: frame[19],
            tag: u32::from_be_bytes([frame[20], frame[21], frame[22], frame[23]]),
            argument: frame[24..].to_vec(),
        })
    }

    /// AoE error code, when the reply reports one.
    pub fn aoe_error(&self) -> Option<u8> {
        (self.ver_flags & 4 != 0).then_some(self.error)
    }

    /// ATA status register.
    pub fn status(&self) -> u8 {
        self.argument[3]
    }

    /// ATA error register.
    pub fn ata_error(&self) -> u8 {
        self.argument[1]
    }

    /// ATA data.
    pub fn data(&self) -> &[u8] {
        &self.argument[12..]
    }

    /// Buffer count, sectors per frame and string of a config reply.
    pub fn config(&self) -> (u16, u8, Vec<u8>) {
        let arg = &self.argument;
        let length = usize::from(u16::from_be_bytes([arg[6], arg[7]]));
        (
            u16::from_be_bytes([arg[0], arg[1]]),
            arg[4],
            arg[8..8 + length].to_vec(),
        )
    }
}

/// What IDENTIFY says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The 256 words.
    pub words: Vec<u16>,
}

impl Identity {
    /// From the 512 bytes.
    pub fn new(data: &[u8]) -> Identity {
        Identity {
            words: data[..512]
                .chunks_exact(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .collect(),
        }
    }

    /// Sectors by the 48-bit words.
    pub fn sectors(&self) -> u64 {
        self.words[100..104]
            .iter()
            .rev()
            .fold(0, |size, word| size << 16 | u64::from(*word))
    }

    /// A string of these words, swapped and trimmed as the standard says.
    pub fn text(&self, words: std::ops::Range<usize>) -> String {
        let bytes: Vec<u8> = self.words[words]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

/// Six bytes as an address.
pub fn mac(bytes: &[u8]) -> Mac {
    Mac(bytes.try_into().expect("six bytes"))
}
