//! The kernel half of xblade: an XDP program that looks at every frame in the driver. (And a small second one, for the
//! load generator: `responses`.)
//!
//! It hands to AF_XDP what user space has to answer, drops what nobody may ask, and passes everything else, so that
//! the NIC stays an ordinary NIC. `aoe_common::rules` says what each verdict is for and how the maps are keyed; user
//! space validates every frame again: the filter is a shield, not a proof.
//!
//! Needs Linux 5.18; frames beyond one page (jumbo) 6.6.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the function that #[xdp] makes has none")]

mod frame;
mod maps;
mod responses;
mod returned;
mod sources;
mod stamp;

use aoe_common::Mac;
use aoe_common::rules::{Counter, FilterState, Target, Verdict, VlanClass, export_key};
use aoe_common::wire::aoe;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;

use frame::Frame;
use maps::{EXPORTS, SOCKETS, STATE};

/// The program: decides about one frame.
#[xdp(frags)]
pub fn aoe_filter(ctx: XdpContext) -> u32 {
    let row = match decide(&ctx) {
        // The queue comes from the driver; a socket can only take frames of its own queue.
        Ok(()) => {
            stamp::put(&ctx);
            match SOCKETS.redirect(ctx.rx_queue_index(), xdp_action::XDP_DROP as u64) {
                Ok(_) => Counter::Redirected,
                Err(_) => Counter::NoSocket,
            }
        }
        Err(row) => row,
    };
    maps::count(row);
    match row.verdict() {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Redirect => xdp_action::XDP_REDIRECT,
    }
}

/// In place of an [`ExportEntry`](aoe_common::rules::ExportEntry) where there is no export. A number, because the compiler
/// makes of two `Option`s what the verifier rejects: arithmetic on pointers, reads of what was never set.
const ABSENT: u64 = u64::MAX;

/// The verdict table: `Ok` for what is ours, else the row that says why not.
#[inline(always)]
fn decide(ctx: &XdpContext) -> Result<(), Counter> {
    let frame = Frame::parse(ctx)?;
    if frame.ver_flags & aoe::FLAG_RESPONSE != 0 {
        return Err(Counter::Response);
    }
    let state = FilterState(maps::load(STATE.get_ptr(0).ok_or(Counter::NotOurs)?));
    let export = lookup(state, &frame, frame.vlan);
    let any_vlan = if state.any_vlan() {
        lookup(state, &frame, VlanClass::ANY)
    } else {
        ABSENT
    };
    if export == ABSENT && any_vlan == ABSENT {
        return Err(Counter::NotOurs);
    }
    if (frame.shelf == aoe::SHELF_ANY || frame.slot == aoe::SLOT_ANY) && returned::is_marked(ctx) {
        return Err(Counter::NotOurs);
    }
    check_addresses(&frame, state)?;
    // Both are there only for a wildcard, which stands for exports of this VLAN and for exports of any.
    let permitted = |access| {
        if access == ABSENT {
            None
        } else {
            sources::permitted(state, access, frame.source)
        }
    };
    let Some(interval_ns) = permitted(export).or_else(|| permitted(any_vlan)) else {
        sources::report_denied(&frame);
        debug!(ctx, "denied {:mac}", Mac::from_u64(frame.source).0);
        return Err(Counter::Denied);
    };
    if interval_ns != 0 && !sources::within_rate(frame.source, interval_ns) {
        debug!(ctx, "over its rate limit: {:mac}", Mac::from_u64(frame.source).0);
        return Err(Counter::RateLimited);
    }
    Ok(())
}

#[inline(always)]
fn lookup(state: FilterState, frame: &Frame, vlan: VlanClass) -> u64 {
    let key = export_key(state.generation(), Target::new(vlan, frame.shelf, frame.slot));
    // SAFETY: an entry of the generation in force is not removed while a frame is under way with it.
    unsafe { EXPORTS.get(key) }.copied().unwrap_or(ABSENT)
}

/// What no target answers, whoever may use it (protocol rules R6 and R14 of `docs/conformance.md`).
#[inline(always)]
fn check_addresses(frame: &Frame, state: FilterState) -> Result<(), Counter> {
    let everyone = frame.destination == Mac::BROADCAST.to_u64();
    if frame.ver_flags >> 4 != aoe::VERSION {
        let wildcard = frame.shelf == aoe::SHELF_ANY || frame.slot == aoe::SLOT_ANY;
        // Asked of one export alone it is answered with error 5, by user space.
        if wildcard || everyone {
            return Err(Counter::BadVersion);
        }
    }
    if frame.source == 0 || frame.source & GROUP_BIT != 0 || frame.source == state.own() {
        return Err(Counter::BadSource);
    }
    if !everyone && frame.destination != state.own() && !sources::is_station(state, frame.destination) {
        return Err(Counter::OtherDestination);
    }
    Ok(())
}

/// The group bit of IEEE 802 in [`Mac::to_u64`]'s form.
const GROUP_BIT: u64 = 1 << 40;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets programs under a GPL-compatible licence use all helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
