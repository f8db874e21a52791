//! Who holds which chunk.

use std::collections::VecDeque;

/// The right to one chunk's memory: whoever has it may read and write the chunk, nobody else does.
///
/// Only [`Chunks`] makes them, one for each chunk at a time.
#[derive(Debug)]
#[must_use = "a chunk that is dropped is lost until the socket closes"]
pub(super) struct Chunk(u32);

impl Chunk {
    /// Its place in the UMEM.
    pub(crate) fn index(&self) -> u32 {
        self.0
    }
}

/// Where the chunks of a socket are. The four others always add up to `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkCounts {
    /// Free.
    pub pool: u32,
    /// With the kernel, to receive into: fill ring, driver, RX ring.
    pub fill: u32,
    /// In frames that the caller has, or in a frame of which not every piece has arrived.
    pub in_use: u32,
    /// On their way out: overflow queue, TX ring, driver, completion ring.
    pub tx: u32,
    /// All.
    pub total: u32,
}

impl ChunkCounts {
    /// Whether every chunk is in one place.
    pub fn is_conserved(&self) -> bool {
        let places = [self.pool, self.fill, self.in_use, self.tx];
        places.iter().map(|&count| u64::from(count)).sum::<u64>() == u64::from(self.total)
    }
}

/// The book of a socket's chunks: the pool, and who has the rest.
#[derive(Debug)]
pub(super) struct Chunks {
    /// The warm end is the back: chunks that were sent come back there, whole in this CPU's cache, and [`Chunks`] gives them out
    /// first. Of a received chunk only the header was looked at: it goes to the front, from where the kernel is served.
    pool: VecDeque<u32>,
    fill: u32,
    in_use: u32,
    tx: u32,
    /// Where each chunk is, to catch one that the kernel returns twice or that nobody gave it.
    #[cfg(debug_assertions)]
    places: Vec<Place>,
    total: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Pool,
    Fill,
    InUse,
    Tx,
}

impl Chunks {
    /// All in the pool; the lowest is the warmest.
    pub(crate) fn new(total: u32) -> Chunks {
        Chunks {
            pool: (0..total).rev().collect(),
            fill: 0,
            in_use: 0,
            tx: 0,
            #[cfg(debug_assertions)]
            places: vec![Place::Pool; total as usize],
            total,
        }
    }

    /// Chunks in the pool.
    pub(crate) fn free(&self) -> u32 {
        // Never more than `total`, which is a u32.
        self.pool.len() as u32
    }

    /// Chunks on their way out.
    pub(crate) fn in_transmission(&self) -> u32 {
        self.tx
    }

    /// Pool to caller: the warmest.
    pub(crate) fn take(&mut self) -> Option<Chunk> {
        let index = self.pool.pop_back()?;
        self.moved(index, Place::Pool, Place::InUse);
        Some(Chunk(index))
    }

    /// Caller to pool: the coldest, what is sent comes back by another way.
    #[expect(clippy::needless_pass_by_value, reason = "the token ends here")]
    pub(crate) fn put(&mut self, chunk: Chunk) {
        self.moved(chunk.0, Place::InUse, Place::Pool);
        self.pool.push_front(chunk.0);
    }

    /// Pool to the kernel's receive side: the coldest.
    pub(crate) fn take_for_fill(&mut self) -> Option<u32> {
        let index = self.pool.pop_front()?;
        self.moved(index, Place::Pool, Place::Fill);
        Some(index)
    }

    /// The kernel's receive side to the caller.
    pub(crate) fn received(&mut self, index: u32) -> Chunk {
        self.moved(index, Place::Fill, Place::InUse);
        Chunk(index)
    }

    /// Caller to the transmit side.
    #[expect(clippy::needless_pass_by_value, reason = "the token ends here")]
    pub(crate) fn transmitted(&mut self, chunk: Chunk) -> u32 {
        self.moved(chunk.0, Place::InUse, Place::Tx);
        chunk.0
    }

    /// The transmit side to the pool.
    pub(crate) fn completed(&mut self, index: u32) {
        self.moved(index, Place::Tx, Place::Pool);
        self.pool.push_back(index);
    }

    /// The counts.
    pub(crate) fn chunk_counts(&self) -> ChunkCounts {
        ChunkCounts {
            pool: self.free(),
            fill: self.fill,
            in_use: self.in_use,
            tx: self.tx,
            total: self.total,
        }
    }

    /// Counts a move. An index from the kernel beyond the last chunk would let it name foreign memory: refused always.
    fn moved(&mut self, index: u32, from: Place, to: Place) {
        assert!(index < self.total, "chunk {index} of {}", self.total);
        #[cfg(debug_assertions)]
        if let Some(place) = self.places.get_mut(index as usize) {
            assert_eq!(*place, from, "chunk {index} was to move from {from:?} to {to:?}");
            *place = to;
        }
        if let Some(count) = self.count(from) {
            *count = count.wrapping_sub(1);
        }
        if let Some(count) = self.count(to) {
            *count = count.wrapping_add(1);
        }
    }

    /// The counter of a place; the pool counts itself.
    fn count(&mut self, place: Place) -> Option<&mut u32> {
        match place {
            Place::Pool => None,
            Place::Fill => Some(&mut self.fill),
            Place::InUse => Some(&mut self.in_use),
            Place::Tx => Some(&mut self.tx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_goes_round_and_is_counted_at_each_station() {
        let mut chunks = Chunks::new(3);
        let index = chunks.take_for_fill().unwrap();
        assert_eq!(
            chunks.chunk_counts(),
            ChunkCounts {
                pool: 2,
                fill: 1,
                in_use: 0,
                tx: 0,
                total: 3
            }
        );
        let chunk = chunks.received(index);
        assert_eq!(
            chunks.chunk_counts(),
            ChunkCounts {
                pool: 2,
                fill: 0,
                in_use: 1,
                tx: 0,
                total: 3
            }
        );
        let index = chunks.transmitted(chunk);
        assert_eq!(
            chunks.chunk_counts(),
            ChunkCounts {
                pool: 2,
                fill: 0,
                in_use: 0,
                tx: 1,
                total: 3
            }
        );
        chunks.completed(index);
        assert_eq!(
            chunks.chunk_counts(),
            ChunkCounts {
                pool: 3,
                fill: 0,
                in_use: 0,
                tx: 0,
                total: 3
            }
        );
    }

    #[test]
    fn replies_take_what_was_sent_last_and_the_kernel_what_was_received() {
        let mut chunks = Chunks::new(4);
        let (received, sent) = (chunks.take().unwrap(), chunks.take().unwrap());
        let (cold, warm) = (received.index(), sent.index());
        let out = chunks.transmitted(sent);
        chunks.completed(out);
        chunks.put(received);
        let again = chunks.take().unwrap();
        assert_eq!(again.index(), warm);
        assert_eq!(chunks.take_for_fill(), Some(cold));
        assert!(chunks.chunk_counts().is_conserved());
        chunks.put(again);
    }

    #[test]
    fn the_pool_ends() {
        let mut chunks = Chunks::new(2);
        let (a, b) = (chunks.take().unwrap(), chunks.take().unwrap());
        assert!(chunks.take().is_none() && chunks.take_for_fill().is_none());
        chunks.put(a);
        chunks.put(b);
        assert_eq!(chunks.free(), 2);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "was to move from Tx")]
    fn a_chunk_completed_twice_is_caught() {
        let mut chunks = Chunks::new(2);
        let chunk = chunks.take().unwrap();
        let index = chunks.transmitted(chunk);
        chunks.completed(index);
        chunks.completed(index);
    }

    #[test]
    #[should_panic(expected = "chunk 2 of 2")]
    fn a_chunk_that_does_not_exist_is_refused() {
        let _ = Chunks::new(2).received(2);
    }

    #[test]
    fn a_lost_chunk_shows() {
        let lost = ChunkCounts {
            pool: 1,
            fill: 1,
            in_use: 1,
            tx: 0,
            total: 4,
        };
        assert!(!lost.is_conserved());
    }
}
