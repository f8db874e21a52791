//! The maps: what user space writes and reads. Sizes are maxima; user space may load the program with others.

use aoe_common::rules::{Counter, DeniedValue};
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, XskMap};

/// One `rules::FilterState`, and at `rules::RETURNED` the mark of frames that user space has put back.
#[map]
pub static STATE: Array<u64> = Array::with_max_entries(2, 0);

/// `rules::export_key` → `rules::ExportEntry`. Memory only for what is there: nothing is inserted on the data path.
#[map]
pub static EXPORTS: HashMap<u64, u64> = HashMap::with_max_entries(1 << 15, BPF_F_NO_PREALLOC);

/// `rules::source_key` → interval in ns.
#[map]
pub static SOURCES: HashMap<u64, u32> = HashMap::with_max_entries(1 << 17, BPF_F_NO_PREALLOC);

/// Source → until when its token bucket is spent (ns, monotonic). The least recently seen makes room for a new one.
#[map]
pub static BUCKETS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1 << 14, 0);

/// Source → what it was denied. User space empties it; while it is full, further sources are only counted.
#[map]
pub static DENIED: HashMap<u64, DeniedValue> = HashMap::with_max_entries(1 << 10, 0);

/// Reports to leave out on this CPU before the next attempt to make one: attempts at a full map are dear.
#[map]
pub static PAUSE: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Frames by `rules::Counter`.
#[map]
pub static COUNTERS: PerCpuArray<[u64; Counter::COUNT]> = PerCpuArray::with_max_entries(1, 0);

/// Receive queue → AF_XDP socket.
#[map]
pub static SOCKETS: XskMap = XskMap::with_max_entries(1 << 10, 0);

/// Counts a frame.
#[inline(always)]
pub fn count(row: Counter) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the entry belongs to this CPU, and frames on one CPU are handled one after the other; the index is
        // in range by the type of `Counter`.
        unsafe { (*counters)[row as usize] += 1 };
    }
}

/// Reads a value that user space may be replacing.
#[inline(always)]
pub fn load<T: Copy>(value: *const T) -> T {
    // SAFETY: the pointer comes from a lookup. Values are at most 64 bits, so a load never sees half of a new one;
    // a value
    // of another source that took the entry's place is harmless where this is used.
    unsafe { core::ptr::read_volatile(value) }
}
