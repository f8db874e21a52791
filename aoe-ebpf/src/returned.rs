//! Requests for every shelf or slot, which other targets on this host want to hear, too. A frame has one way out of XDP, so user
//! space, which has got it, puts a copy back on the interface's receive path (`aoe_pass`). Where XDP runs behind the driver
//! the filter meets the copy again, and knows it by the mark at its end.

use aoe_common::rules::{RETURNED, RETURNED_BYTES};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use crate::maps::{self, STATE};

/// The program that user space runs with a frame of its own, as if the interface had received it.
#[xdp(frags)]
pub fn aoe_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// True for a frame that user space has put back.
#[inline(always)]
pub fn is_marked(ctx: &XdpContext) -> bool {
    let Some(mark) = STATE.get_ptr(RETURNED) else {
        return false;
    };
    let mark = maps::load(mark);
    let mut end = [0u8; RETURNED_BYTES];
    // SAFETY: the context is the program's own; the helper writes as many bytes as the buffer has, or fails.
    let result = unsafe {
        let start = bpf_xdp_get_buff_len(ctx.ctx).wrapping_sub(RETURNED_BYTES as u64);
        bpf_xdp_load_bytes(
            ctx.ctx,
            start as u32,
            end.as_mut_ptr().cast(),
            RETURNED_BYTES as u32,
        )
    };
    mark != 0 && result == 0 && u64::from_be_bytes(end) == mark
}
