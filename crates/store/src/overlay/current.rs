//! The golden image as it is now, for whoever looks at the export as a whole. Overlays hold the one that they lie on.

use std::io;

use engine::{Durability, Extent, Fault, Step, Store, Token, Traits};
use parking_lot::RwLock;

use super::golden::Golden;
use crate::completion_queue::CompletionQueue;

/// A golden image that may get a successor. The old one is closed when the last overlay on it ends.
#[derive(Debug)]
pub struct CurrentGolden {
    now: RwLock<Golden>,
}

impl CurrentGolden {
    /// Begins with this one.
    pub fn new(golden: Golden) -> CurrentGolden {
        CurrentGolden {
            now: RwLock::new(golden),
        }
    }

    /// The one of now.
    pub fn get(&self) -> Golden {
        self.now.read().clone()
    }

    /// Another from here on.
    pub fn set(&self, golden: Golden) {
        *self.now.write() = golden;
    }
}

impl Store<CompletionQueue> for CurrentGolden {
    fn sectors(&self) -> u64 {
        self.now.read().store().sectors()
    }

    fn refresh(&self) -> io::Result<u64> {
        let golden = self.get();
        golden.check_unchanged();
        Ok(golden.store().sectors())
    }

    fn traits(&self) -> Traits {
        self.now.read().store().traits()
    }

    fn read(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        self.now.read().store().read(queue, token, extent, into)
    }

    fn write(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault> {
        // Refused there: it is opened for reading.
        let golden = self.now.read();
        golden.store().write(queue, token, extent, from, durability)
    }

    fn flush(&self, queue: &mut CompletionQueue, token: Token) -> Result<Step, Fault> {
        self.now.read().store().flush(queue, token)
    }

    fn trim(&self, queue: &mut CompletionQueue, token: Token, extents: &[Extent]) -> Result<Step, Fault> {
        self.now.read().store().trim(queue, token, extents)
    }

    fn verify(&self, queue: &mut CompletionQueue, token: Token, extent: Extent) -> Result<Step, Fault> {
        self.now.read().store().verify(queue, token, extent)
    }

    fn prefetch(&self, extent: Extent) {
        self.now.read().store().prefetch(extent);
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.now.read().store().counters()
    }

    fn close(&self) -> io::Result<()> {
        self.get().store().close()
    }

    fn unlock(&self) {
        self.get().store().unlock();
    }
}
