//! Frames to ask the program about.

use super::*;

/// A request, Query Config unless said otherwise.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(crate) destination: Mac,
    pub(crate) source: Mac,
    /// EtherType and TCI of each tag, the outer one first.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) ether_type: u16,
    pub(crate) ver_flags: u8,
    pub(crate) shelf: u16,
    pub(crate) slot: u8,
    /// Length, where it is not that of a padded request.
    pub(crate) cut: Option<usize>,
}

impl Frame {
    /// A request to the port itself.
    pub(super) fn to(shelf: u16, slot: u8, source: Mac) -> Frame {
        Frame {
            destination: PORT,
            source,
            tags: Vec::new(),
            ether_type: 0x88a2,
            ver_flags: 0x10,
            shelf,
            slot,
            cut: None,
        }
    }

    /// A request to everyone.
    pub(super) fn broadcast(shelf: u16, slot: u8, source: Mac) -> Frame {
        Frame {
            destination: Mac::BROADCAST,
            ..Frame::to(shelf, slot, source)
        }
    }

    /// The same with an 802.1Q tag.
    pub(super) fn tagged(mut self, tci: u16) -> Frame {
        self.tags.push((0x8100, tci));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.destination.0, self.source.0].concat();
        for (ether_type, tci) in &self.tags {
            bytes.extend(ether_type.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend(self.ether_type.to_be_bytes());
        bytes.extend([self.ver_flags, 0]);
        bytes.extend(self.shelf.to_be_bytes());
        bytes.extend([self.slot, 1, 0x12, 0x34, 0x56, 0x78]);
        bytes.resize(self.cut.unwrap_or(64), 0);
        bytes
    }
}
