//! The wire format: offsets and values of Ethernet, 802.1Q, AoE and ATA-in-AoE.
//!
//! Offsets count from the first byte of the AoE header ([`aoe`], and the argument that follows it) or from the
//! first byte of the frame ([`eth`]); an untagged frame has its AoE header at [`eth::HEADER_LEN`]. Sources: the AoE
//! protocol definition revision 11 and IEEE 802.1Q; `docs/conformance.md` has the rules one by one.

pub mod ata;
pub mod identify;
pub mod mask;
pub mod query;
pub mod reserve;

/// Bytes of a logical sector. AoE knows no other size.
pub const SECTOR_BYTES: usize = 512;

/// The shortest Ethernet frame without FCS; every untagged reply is padded to it.
pub const MIN_FRAME_BYTES: usize = 60;

/// The longest config string (AoEr11 §3.2).
pub const MAX_CONFIG_STRING_BYTES: usize = 1024;

/// Sectors that fit a frame on a link of this MTU, 1 to 255 where any fits.
///
/// The fixed 36 bytes count the Ethernet header although the MTU leaves it out: every initiator and target
/// computes it this way, and both ends must agree.
///
/// ```
/// use aoe_common::wire::sectors_per_frame;
///
/// assert_eq!([1500, 9000].map(sectors_per_frame), [2, 17]);
/// ```
pub const fn sectors_per_frame(mtu_bytes: u32) -> u8 {
    let sectors = mtu_bytes.saturating_sub(36) / SECTOR_BYTES as u32;
    if sectors > 255 { 255 } else { sectors as u8 }
}

/// Ethernet and 802.1Q.
pub mod eth {
    /// Destination address, 6 bytes.
    pub const DST: usize = 0;
    /// Source address, 6 bytes.
    pub const SRC: usize = 6;
    /// EtherType, 2 bytes, big-endian.
    pub const TYPE: usize = 12;
    /// Length of an untagged header.
    pub const HEADER_LEN: usize = 14;
    /// Length of one VLAN tag.
    pub const TAG_LEN: usize = 4;
    /// ATA over Ethernet.
    pub const TYPE_AOE: u16 = 0x88a2;
    /// 802.1Q customer tag.
    pub const TYPE_VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const TYPE_QINQ: u16 = 0x88a8;
    /// The VLAN id in a tag's TCI.
    pub const TCI_VID: u16 = 0x0fff;
    /// Priority and VLAN id: the TCI without the drop-eligible bit.
    pub const TCI_WITHOUT_DEI: u16 = 0xefff;
}

/// The AoE header, 10 bytes.
pub mod aoe {
    /// Version in the high nibble, flags in the low one.
    pub const VER_FLAGS: usize = 0;
    /// Error code of a response with [`FLAG_ERROR`].
    pub const ERROR: usize = 1;
    /// Major address (shelf), 2 bytes, big-endian.
    pub const SHELF: usize = 2;
    /// Minor address (slot).
    pub const SLOT: usize = 4;
    /// Command.
    pub const COMMAND: usize = 5;
    /// Tag, 4 bytes, opaque.
    pub const TAG: usize = 6;
    /// Length of the header; the command's argument follows.
    pub const HEADER_LEN: usize = 10;

    /// The only version there is.
    pub const VERSION: u8 = 1;
    /// The frame is a response.
    pub const FLAG_RESPONSE: u8 = 0x08;
    /// The response reports an error.
    pub const FLAG_ERROR: u8 = 0x04;

    /// Linux's own initiator uses tags without this bit and ignores responses with it (`aoenet_rcv`): who speaks AoE from user
    /// space sets it.
    pub const TAG_OF_USER_SPACE: u32 = 1 << 31;

    /// Every shelf.
    pub const SHELF_ANY: u16 = 0xffff;
    /// Every slot.
    pub const SLOT_ANY: u8 = 0xff;
    /// The shelf that Linux's initiator refuses.
    pub const SHELF_REFUSED_BY_LINUX: u16 = 0x0fff;

    /// Issue ATA command.
    pub const CMD_ATA: u8 = 0;
    /// Query config information.
    pub const CMD_QUERY: u8 = 1;
    /// MAC mask list.
    pub const CMD_MASK: u8 = 2;
    /// Reserve / release.
    pub const CMD_RESERVE: u8 = 3;
}

/// AoE error codes (AoEr11 §2.4 and the Reserve command).
pub mod error {
    /// Command not recognised.
    pub const COMMAND: u8 = 1;
    /// Bad argument.
    pub const ARGUMENT: u8 = 2;
    /// Device unavailable.
    pub const UNAVAILABLE: u8 = 3;
    /// Config string present.
    pub const STRING_PRESENT: u8 = 4;
    /// Unsupported version.
    pub const VERSION: u8 = 5;
    /// Target is reserved.
    pub const RESERVED: u8 = 6;
}
