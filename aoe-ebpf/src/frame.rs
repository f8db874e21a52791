//! The headers of a frame: Ethernet, up to two VLAN tags, AoE.

use core::mem::size_of;

use aoe_common::rules::{Counter, VlanClass};
use aoe_common::wire::eth;
use aya_ebpf::programs::XdpContext;

/// What the verdict depends on. Addresses as `Mac::to_u64` has them.
pub struct Frame {
    pub destination: u64,
    pub source: u64,
    pub vlan: VlanClass,
    pub ver_flags: u8,
    pub shelf: u16,
    pub slot: u8,
    pub tag: u32,
}

/// An Ethernet header up to its (first) EtherType, in 16-bit words: frames start at even addresses.
#[repr(C)]
struct Ethernet {
    destination: [u16; 3],
    source: [u16; 3],
    ether_type: u16,
}

/// What follows the EtherType of a tag.
#[repr(C)]
struct Tag {
    tci: u16,
    ether_type: u16,
}

/// The AoE header (AoEr11 §2).
#[repr(C)]
struct Aoe {
    ver_flags: u8,
    error: u8,
    shelf: u16,
    slot: u8,
    command: u8,
    tag: [u16; 2],
}

impl Frame {
    /// Reads the headers of an AoE frame; the row of the verdict table where it is none or too short.
    ///
    /// Only the linear part is looked at: headers are always in it, the rest of a jumbo frame never.
    #[inline(always)]
    pub fn parse(ctx: &XdpContext) -> Result<Frame, Counter> {
        // What cannot even say its EtherType is not ours to judge.
        let ethernet: &Ethernet = at(ctx, 0).ok_or(Counter::Foreign)?;
        let mut ether_type = u16::from_be(ethernet.ether_type);
        let mut vlan = VlanClass::UNTAGGED;
        let mut offset = eth::HEADER_LEN;
        for depth in 0..2 {
            if ether_type != eth::TYPE_VLAN && ether_type != eth::TYPE_QINQ {
                break;
            }
            let tag: &Tag = at(ctx, offset).ok_or(Counter::Foreign)?;
            vlan = if depth == 0 && ether_type == eth::TYPE_VLAN {
                VlanClass::id(u16::from_be(tag.tci) & eth::TCI_VID)
            } else {
                VlanClass::OTHER
            };
            ether_type = u16::from_be(tag.ether_type);
            offset += eth::TAG_LEN;
        }
        if ether_type != eth::TYPE_AOE {
            return Err(Counter::Foreign);
        }
        let aoe: &Aoe = at(ctx, offset).ok_or(Counter::Runt)?;
        Ok(Frame {
            destination: address(&ethernet.destination),
            source: address(&ethernet.source),
            vlan,
            ver_flags: aoe.ver_flags,
            shelf: u16::from_be(aoe.shelf),
            slot: aoe.slot,
            tag: (u16::from_be(aoe.tag[0]) as u32) << 16 | u16::from_be(aoe.tag[1]) as u32,
        })
    }
}

#[inline(always)]
fn address(words: &[u16; 3]) -> u64 {
    (u16::from_be(words[0]) as u64) << 32
        | (u16::from_be(words[1]) as u64) << 16
        | u16::from_be(words[2]) as u64
}

/// The header at `offset`, where the frame's linear part holds all of it.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<&T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie between data and data_end (the verifier checks it again), live as long as the context,
    // are valid for any T of plain integers, and are aligned: drivers start frames at even addresses, header
    // lengths are even, and no T here asks for more than 2.
    Some(unsafe { &*(start as *const T) })
}
