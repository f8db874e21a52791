//! One end of a ring shared with the kernel: a power of two of entries, a producer and a consumer index that count up
//! and wrap at 2^32, and a flag by which the kernel asks to be woken.
//!
//! Each end keeps copies of both indices and looks at the shared ones only when the copies do not suffice, because the
//! other end's index lies in a cache line that the other CPU writes.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::net::xdp::{XdpDesc, XdpRingFlags};

use super::umem::Mapping;

/// What a ring holds.
///
/// # Safety
/// Every bit pattern must be a valid value: the other end writes it.
pub(super) unsafe trait Entry: Copy {}

// SAFETY: an integer.
unsafe impl Entry for u64 {}
// SAFETY: `repr(C)`: a u64 and two u32; its flags type is `repr(transparent)` over u32 and keeps unknown bits.
unsafe impl Entry for XdpDesc {}

/// Where the parts of a ring lie in its mapping, in bytes, as XDP_MMAP_OFFSETS tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offsets {
    pub producer: usize,
    pub consumer: usize,
    pub flags: usize,
    pub entries: usize,
}

impl Offsets {
    /// The mapping's length for this many entries of type T.
    pub(crate) fn mapping_bytes<T: Entry>(&self, capacity: u32) -> usize {
        (capacity as usize)
            .saturating_mul(size_of::<T>())
            .saturating_add(self.entries)
    }
}

/// What both ends have.
#[derive(Debug)]
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    capacity: u32,
    /// Copy of the shared index; for the end that owns it, ahead of the shared one until published.
    cached_producer: u32,
    cached_consumer: u32,
    _memory: Arc<Mapping>,
}

// SAFETY: the pointers lead into the mapping that the ring keeps alive; entries are plain data. Moving the end to another
// thread moves the sole right to its side of the ring.
unsafe impl<T: Entry> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    /// # Safety
    /// `memory` holds a ring of `capacity` entries of T at `offsets`, and no other value is the same end of it.
    unsafe fn new(memory: Arc<Mapping>, offsets: Offsets, capacity: u32) -> Ring<T> {
        assert!(capacity.is_power_of_two() && offsets.mapping_bytes::<T>(capacity) <= memory.bytes());
        let index = |offset: usize| {
            assert!(offset.is_multiple_of(4) && offset < offsets.entries);
            // SAFETY: below `entries`, hence inside the mapping.
            unsafe { memory.base().add(offset) }.cast::<AtomicU32>()
        };
        let (producer, consumer, flags) = (
            index(offsets.producer),
            index(offsets.consumer),
            index(offsets.flags),
        );
        assert!(offsets.entries.is_multiple_of(align_of::<T>()));
        // SAFETY: inside the mapping, as checked above.
        let entries = unsafe { memory.base().add(offsets.entries) }.cast::<T>();
        let mut ring = Ring {
            producer,
            consumer,
            flags,
            entries,
            capacity,
            cached_producer: 0,
            cached_consumer: 0,
            _memory: memory,
        };
        ring.cached_producer = ring.shared_producer().load(Ordering::Acquire);
        ring.cached_consumer = ring.shared_consumer().load(Ordering::Acquire);
        ring
    }

    fn shared_producer(&self) -> &AtomicU32 {
        // SAFETY: an aligned u32 in the mapping that `self` keeps alive; both sides access it atomically.
        unsafe { self.producer.as_ref() }
    }

    fn shared_consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn shared_flags(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }
    }

    /// The entry that an index names.
    fn slot(&self, index: u32) -> NonNull<T> {
        let at = index & self.capacity.wrapping_sub(1);
        // SAFETY: masked to below `capacity`, and that many entries lie in the mapping.
        unsafe { self.entries.add(at as usize) }
    }

    /// Entries between the cached indices.
    fn cached_len(&self) -> u32 {
        self.cached_producer.wrapping_sub(self.cached_consumer)
    }
}

/// The end that fills a ring: of the fill and TX rings.
#[derive(Debug)]
pub(super) struct Producer<T>(Ring<T>);

impl<T: Entry> Producer<T> {
    /// # Safety
    /// `memory` holds a ring of `capacity` entries of T at `offsets`, and no other value is its producer.
    pub(crate) unsafe fn new(memory: Arc<Mapping>, offsets: Offsets, capacity: u32) -> Producer<T> {
        // SAFETY: the caller's promise.
        Producer(unsafe { Ring::new(memory, offsets, capacity) })
    }

    /// Free entries: exact if fewer than `wanted`, else at least `wanted`.
    pub(crate) fn room(&mut self, wanted: u32) -> u32 {
        let room = self.0.capacity.wrapping_sub(self.0.cached_len());
        if room >= wanted {
            return room;
        }
        self.0.cached_consumer = self.0.shared_consumer().load(Ordering::Acquire);
        self.0.capacity.wrapping_sub(self.0.cached_len())
    }

    /// Writes an entry, which the other end sees after [`Producer::publish`]. False when the ring is full.
    #[must_use]
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: the slot is free: the consumer has passed it and looks at it again only after `publish`.
        unsafe { self.0.slot(self.0.cached_producer).write(entry) };
        self.0.cached_producer = self.0.cached_producer.wrapping_add(1);
        true
    }

    /// Lets the other end see what was pushed.
    pub(crate) fn publish(&mut self) {
        self.0
            .shared_producer()
            .store(self.0.cached_producer, Ordering::Release);
    }

    /// Entries that the other end has not taken yet, as of now.
    pub(crate) fn pending(&mut self) -> u32 {
        self.0.cached_consumer = self.0.shared_consumer().load(Ordering::Acquire);
        self.0.cached_len()
    }

    /// Whether the kernel sleeps and must be told of what was published.
    pub(crate) fn needs_wakeup(&self) -> bool {
        // The kernel sets the flag, then looks at the ring once more; this end publishes, then looks at the flag.
        // Without the fence both could look too early.
        fence(Ordering::SeqCst);
        self.0.shared_flags().load(Ordering::Relaxed) & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0
    }
}

/// The end that empties a ring: of the RX and completion rings.
#[derive(Debug)]
pub(super) struct Consumer<T>(Ring<T>);

impl<T: Entry> Consumer<T> {
    /// # Safety
    /// `memory` holds a ring of `capacity` entries of T at `offsets`, and no other value is its consumer.
    pub(crate) unsafe fn new(memory: Arc<Mapping>, offsets: Offsets, capacity: u32) -> Consumer<T> {
        // SAFETY: the caller's promise.
        Consumer(unsafe { Ring::new(memory, offsets, capacity) })
    }

    /// Entries that are there, as of now.
    pub(crate) fn known(&mut self) -> u32 {
        self.0.cached_producer = self.0.shared_producer().load(Ordering::Acquire);
        self.0.cached_len()
    }

    /// The next entry. When the known ones are used up, gives their slots back and looks for more.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.0.cached_len() == 0 {
            self.release();
            self.0.cached_producer = self.0.shared_producer().load(Ordering::Acquire);
            if self.0.cached_len() == 0 {
                return None;
            }
        }
        // SAFETY: the producer has published this slot and does not write to it before `release` has passed it.
        let entry = unsafe { self.0.slot(self.0.cached_consumer).read() };
        self.0.cached_consumer = self.0.cached_consumer.wrapping_add(1);
        Some(entry)
    }

    /// Gives the slots of popped entries back to the other end.
    pub(crate) fn release(&mut self) {
        let consumer = self.0.shared_consumer();
        // Only this end writes the index, so that a plain look at it saves dirtying its cache line.
        if consumer.load(Ordering::Relaxed) != self.0.cached_consumer {
            consumer.store(self.0.cached_consumer, Ordering::Release);
        }
    }

    /// Whether something is there, at the cost of a look at the shared index.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.shared_producer().load(Ordering::Acquire) == self.0.cached_consumer
    }
}

/// Rings over plain memory, for tests that play the kernel.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(crate) const OFFSETS: Offsets = Offsets {
        producer: 0,
        consumer: 64,
        flags: 128,
        entries: 192,
    };

    /// Both ends of a ring whose indices start at `start`, and its memory.
    pub(crate) fn ring(capacity: u32, start: u32) -> (Producer<u64>, Consumer<u64>, Arc<Mapping>) {
        let memory = Arc::new(Mapping::anonymous(OFFSETS.mapping_bytes::<u64>(capacity)).unwrap());
        for offset in [OFFSETS.producer, OFFSETS.consumer] {
            word(&memory, offset).store(start, Ordering::Relaxed);
        }
        // SAFETY: fresh memory of the right length; the only producer.
        let producer = unsafe { Producer::new(memory.clone(), OFFSETS, capacity) };
        // SAFETY: as above; the only consumer.
        let consumer = unsafe { Consumer::new(memory.clone(), OFFSETS, capacity) };
        (producer, consumer, memory)
    }

    /// One of the ring's shared words.
    pub(crate) fn word(memory: &Mapping, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < memory.bytes());
        // SAFETY: an aligned word inside the mapping, accessed atomically by all.
        unsafe { memory.base().add(offset).cast::<AtomicU32>().as_ref() }
    }
}

#[cfg(test)]
mod tests;
