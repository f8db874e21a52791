//! Replies, built from nothing: no byte of the request's frame stays.

use aoe_common::Mac;
use aoe_common::wire::{MIN_FRAME_BYTES, aoe, ata, eth};
use arrayvec::ArrayVec;

use crate::Address;
use crate::frames::link::Link;
use crate::frames::request::{Request, Tags};
use crate::frames::rx_frame::RxFrame;
use crate::frames::scatter;
use crate::mutants::{self, Mutant};

/// Room for two tags, Ethernet, AoE and the longest argument.
pub(crate) type Head = ArrayVec<u8, { 8 + eth::HEADER_LEN + aoe::HEADER_LEN + ata::HEADER_LEN }>;

/// Whom a frame goes to and what its AoE header repeats.
pub(crate) struct Envelope<'a> {
    pub from: Mac,
    pub to: Mac,
    pub tags: &'a Tags,
    pub address: Address,
    pub command: u8,
    pub tag: [u8; 4],
}

impl<'a> Envelope<'a> {
    /// The answer's to `request`, sent from the address `from`.
    #[inline]
    pub(crate) fn answer(request: &'a Request, from: Mac, address: Address) -> Envelope<'a> {
        Envelope {
            from,
            to: request.source,
            tags: &request.tags,
            address,
            command: request.command.number(),
            tag: request.tag,
        }
    }

    /// Ethernet and AoE header, and the command's argument as far as it is an ATA one or empty; `error` 0 is success.
    #[inline]
    pub(crate) fn head(&self, error: u8, argument: &[u8]) -> Head {
        let flags = if error == 0 {
            aoe::FLAG_RESPONSE
        } else {
            aoe::FLAG_RESPONSE | aoe::FLAG_ERROR
        };
        let [t0, t1] = eth::TYPE_AOE.to_be_bytes();
        let [s0, s1] = self.address.shelf.to_be_bytes();
        let [g0, g1, g2, g3] = self.tag;
        let mut head = Head::new();
        let parts: [&[u8]; 6] = [
            &self.to.0,
            &self.from.0,
            self.tags.as_slice(),
            &[t0, t1, aoe::VERSION << 4 | flags, error],
            &[s0, s1, self.address.slot, self.command, g0, g1, g2, g3],
            argument,
        ];
        for part in parts {
            let fits = head.try_extend_from_slice(part);
            debug_assert!(fits.is_ok(), "a head has room for the longest headers");
        }
        head
    }
}

/// The shortest frame with these tags.
fn min_len(tags: &Tags) -> usize {
    MIN_FRAME_BYTES.saturating_add(tags.as_slice().len())
}

/// Makes `frame` hold the parts, one after the other, zero-padded to the minimum; false (and `frame` untouched)
/// when memory is short.
pub(crate) fn build<L: Link>(
    link: &mut L,
    frame: &mut RxFrame<L::Frame>,
    tags: &Tags,
    parts: &[&[u8]],
) -> bool {
    let len = scatter::total(parts).max(min_len(tags));
    if !frame.resize(link, len) {
        return false;
    }
    scatter::scatter(&mut frame.pieces_mut(link), parts, |rest| {
        if !mutants::is(Mutant::PaddingNotZeroed) {
            rest.fill(0);
        }
    });
    true
}

/// Puts `head` before data that is in `frame` already.
pub(crate) fn put_head<L: Link>(link: &mut L, frame: &mut RxFrame<L::Frame>, head: &[u8]) {
    scatter::scatter(&mut frame.pieces_mut(link), &[head], |_| {});
}
