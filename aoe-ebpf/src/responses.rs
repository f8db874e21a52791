//! The other end of the wire: answers for the load generator, `xblade bench --af-xdp`.

use aoe_common::rules::{FilterState, VlanClass};
use aoe_common::wire::aoe;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use crate::frame::Frame;
use crate::maps::{self, SOCKETS, STATE};

/// The program: hands answers to the generator and passes everything else.
#[xdp(frags)]
pub fn aoe_responses(ctx: XdpContext) -> u32 {
    if !is_for_generator(&ctx) {
        return xdp_action::XDP_PASS;
    }
    let by_stack = xdp_action::XDP_PASS as u64;
    match SOCKETS.redirect(ctx.rx_queue_index(), by_stack) {
        Ok(action) | Err(action) => action,
    }
}

/// A response to this port, untagged as the generator's requests are, and with a tag that Linux's own initiator leaves to
/// others: a disk that this host uses over the same interface goes on working.
#[inline(always)]
fn is_for_generator(ctx: &XdpContext) -> bool {
    let Ok(frame) = Frame::parse(ctx) else {
        return false;
    };
    let Some(state) = STATE.get_ptr(0) else {
        return false;
    };
    frame.ver_flags & aoe::FLAG_RESPONSE != 0
        && frame.tag & aoe::TAG_OF_USER_SPACE != 0
        && frame.vlan == VlanClass::UNTAGGED
        && frame.destination == FilterState(maps::load(state)).own()
}
