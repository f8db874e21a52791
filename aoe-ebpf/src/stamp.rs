//! When a frame arrived, in front of it: user space may get to it much later.

use aoe_common::rules::{STAMP_BYTES, STAMP_MARK};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_xdp_adjust_meta};
use aya_ebpf::programs::XdpContext;

/// Writes the stamp into the frame's metadata. Not every driver has room for that: then there is none, and user space bounds the
/// age of the frame by other means.
#[inline(always)]
pub fn put(ctx: &XdpContext) {
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(STAMP_BYTES as i32)) } != 0 {
        return;
    }
    let (start, end) = (ctx.metadata(), ctx.metadata_end());
    if start + STAMP_BYTES > end {
        return;
    }
    let words = start as *mut u64;
    // SAFETY: the metadata has room for both words, as was checked just now; the kernel aligns it to four bytes at least, which
    // is all that this machine's stores need.
    unsafe {
        words.write_unaligned(STAMP_MARK);
        words.add(1).write_unaligned(bpf_ktime_get_ns());
    }
}
