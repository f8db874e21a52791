//! Who asks: access lists, rate limits, and the report of those denied.

use aoe_common::rules::{ExportEntry, FilterState, STATIONS, Target, admit, source_key};
use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::frame::Frame;
use crate::maps::{self, BUCKETS, DENIED, PAUSE, SOURCES};

/// The time that a frame of this source takes, 0 without a limit; `None` where the source may not use the export.
#[inline(always)]
pub fn permitted(state: FilterState, access: u64, source: u64) -> Option<u32> {
    let access = ExportEntry::from_u64(access);
    if access.list == 0 {
        return Some(access.interval_ns);
    }
    // SAFETY: as for the exports.
    let own = *unsafe { SOURCES.get(source_key(state.generation(), access.list, source)) }?;
    Some(if own == 0 { access.interval_ns } else { own })
}

/// Whether frames may be sent to this address, besides the port's own.
#[inline(always)]
pub fn is_station(state: FilterState, destination: u64) -> bool {
    // SAFETY: as for the exports.
    unsafe { SOURCES.get(source_key(state.generation(), STATIONS, destination)) }.is_some()
}

/// Takes a frame out of the source's token bucket; false when that is spent.
///
/// Two CPUs that see frames of one source at the same moment may both take the same token. One source's frames come
/// by one queue on most NICs, and the limit need not be exact.
#[inline(always)]
pub fn within_rate(source: u64, interval_ns: u32) -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(bucket) = BUCKETS.get_ptr_mut(source) {
        let Some(spent_until) = admit(maps::load(bucket), now, interval_ns) else {
            return false;
        };
        // SAFETY: the pointer comes from a lookup; the worst that an entry recycled for another source costs is a
        // token.
        unsafe { bucket.write_volatile(spent_until) };
    } else if let Some(spent_until) = admit(0, now, interval_ns) {
        // Without room for a bucket the frame is let through: the limit is a courtesy to others, not a right.
        let _ = BUCKETS.insert(source, spent_until, 0);
    }
    true
}

/// Leaves word of a denied source for user space.
#[inline(always)]
pub fn report_denied(frame: &Frame) {
    let target = Target::new(frame.vlan, frame.shelf, frame.slot).0;
    if let Some(denied) = DENIED.get_ptr_mut(frame.source) {
        // SAFETY: the pointer comes from a lookup. CPUs may race for the count: it is for a log line.
        unsafe {
            (*denied)[0] += 1;
            (*denied)[1] = target;
        }
        return;
    }
    let Some(pause) = PAUSE.get_ptr_mut(0) else { return };
    // SAFETY: the pointer comes from a lookup, and the entry belongs to this CPU.
    let pause = unsafe { &mut *pause };
    if *pause > 0 {
        *pause -= 1;
    } else if DENIED.insert(frame.source, [1, target], 0).is_err() {
        // Full: the counter of denied frames still tells.
        *pause = REPORTS_LEFT_OUT;
    }
}

/// Enough to make a flood from forged sources cheap, too few to miss who comes again.
const REPORTS_LEFT_OUT: u32 = 63;
