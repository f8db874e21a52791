//! What workers receive and send, as a live pcapng stream for `xblade dump`.
//!
//! A worker looks once a round, with one relaxed load, whether anybody wants to see its frames. Where somebody does it copies them into a
//! ring of its own for that reader ([`tap`]), and where the ring is full it counts what it does not copy. A thread for each reader
//! ([`writer`]) empties the rings into its socket ([`pcapng`] blocks): a reader that stalls costs nobody but itself.

mod pcapng;
mod record;
mod tap;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rtrb::Consumer;

pub(crate) use tap::Tap;
pub(crate) use writer::send;

/// Readers at a time: each has rings of its own.
const READERS_MAX: usize = 4;

/// Which exports' frames are wanted, by shelf and slot.
type Choice = Box<dyn Fn(u16, u8) -> bool + Send + Sync>;

/// What somebody wants to see.
pub(crate) struct DumpWanted {
    /// On these interfaces; none: on all.
    pub(crate) interfaces: Vec<String>,
    /// Of these exports, and whatever is for every shelf or slot; `None`: of all.
    pub(crate) exports: Option<Choice>,
    /// So many bytes of each frame.
    pub(crate) frame_bytes: u32,
}

impl fmt::Debug for DumpWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted")
            .field("interfaces", &self.interfaces)
            .finish_non_exhaustive()
    }
}

/// A worker's ring for one reader, seen from the reader.
#[derive(Debug)]
struct Source {
    interface: Arc<str>,
    queue: u32,
    ring: Consumer<u8>,
    /// Frames that found the ring full.
    lost: Arc<AtomicU64>,
}

/// One reader.
#[derive(Debug)]
struct Reader {
    wanted: DumpWanted,
    /// Rings that its thread has not taken over yet.
    new_sources: Mutex<Vec<Source>>,
}

/// Where workers find readers.
#[derive(Debug, Default)]
pub struct Hub {
    /// Counts the changes of `readers`.
    changes: AtomicU64,
    readers: Mutex<Vec<Arc<Reader>>>,
}

impl Hub {
    /// From now on workers keep frames for a reader, until the session is dropped.
    ///
    /// # Errors
    /// When there are as many readers as there may be.
    pub(crate) fn start(self: &Arc<Hub>, wanted: DumpWanted) -> Result<DumpSession, String> {
        let mut readers = self.readers.lock();
        if readers.len() >= READERS_MAX {
            return Err(format!(
                "{READERS_MAX} dumps are running, and no more are possible"
            ));
        }
        let reader = Arc::new(Reader {
            wanted,
            new_sources: Mutex::default(),
        });
        readers.push(Arc::clone(&reader));
        self.changes.fetch_add(1, Ordering::Release);
        Ok(DumpSession {
            hub: Arc::clone(self),
            reader,
        })
    }
}

/// A reader that workers know of.
#[derive(Debug)]
pub(crate) struct DumpSession {
    hub: Arc<Hub>,
    reader: Arc<Reader>,
}

impl Drop for DumpSession {
    fn drop(&mut self) {
        let mut readers = self.hub.readers.lock();
        readers.retain(|reader| !Arc::ptr_eq(reader, &self.reader));
        self.hub.changes.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
