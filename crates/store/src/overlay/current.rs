//! The golden image as it is now, for whoever looks at the export as a whole. Overlays hold the one that they lie on.

use std::io;
use std::sync::{Arc, Weak};

use engine::{Durability, Extent, Fault, Health, Step, Store, Token, Traits};
use parking_lot::{Mutex, RwLock};

use super::OverlayStore;
use super::golden::Golden;
use crate::completion_queue::CompletionQueue;

/// A golden image that may get a successor. The old one is closed when the last overlay on it ends.
#[derive(Debug)]
pub struct CurrentGolden {
    now: RwLock<Golden>,
    /// The overlays whose lost writes are the export's, and whose they are.
    overlays: Mutex<Vec<(String, Weak<OverlayStore>)>>,
}

impl CurrentGolden {
    /// Begins with this one.
    pub fn new(golden: Golden) -> CurrentGolden {
        CurrentGolden {
            now: RwLock::new(golden),
            overlays: Mutex::default(),
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

    /// What this overlay loses is told of the export from here on, as of the copy of `machine`.
    pub fn watch(&self, machine: String, overlay: &Arc<OverlayStore>) {
        let mut overlays = self.overlays.lock();
        overlays.retain(|(_, overlay)| overlay.strong_count() > 0);
        overlays.push((machine, Arc::downgrade(overlay)));
    }

    fn overlays(&self) -> Vec<(String, Arc<OverlayStore>)> {
        let overlays = self.overlays.lock();
        let alive =
            |(machine, overlay): &(String, Weak<OverlayStore>)| Some((machine.clone(), overlay.upgrade()?));
        overlays.iter().filter_map(alive).collect()
    }
}

impl Store<CompletionQueue> for CurrentGolden {
    fn sectors(&self) -> u64 {
        self.now.read().store().sectors()
    }

    fn refresh(&self) -> io::Result<u64> {
        // On the data path: whether it is as it was is looked at beside it.
        Ok(self.get().store().sectors())
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
        // Refused there, unless it was opened to be changed.
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

    fn look_at_backing(&self) {
        self.get().look();
        let overlays = self.overlays.lock().clone();
        // One at a time: whoever takes one out of service waits until nobody has it.
        for overlay in overlays.iter().filter_map(|(_, overlay)| overlay.upgrade()) {
            overlay.look_at_backing();
        }
    }

    /// The worst of the image and the machines' copies; lost writes are worse than all else.
    fn health(&self) -> Health {
        let image = self.now.read().health();
        if matches!(image, Health::LostWrites(_) | Health::Silent(_)) {
            return image;
        }
        let mut worst = image;
        for (machine, overlay) in self.overlays() {
            match overlay.health() {
                Health::LostWrites(mut lost) => {
                    lost.cause = format!("{}, in the copy of {machine}", lost.cause);
                    return Health::LostWrites(lost);
                }
                Health::Degraded(why) if worst == Health::Healthy => {
                    worst = Health::Degraded(format!("the copy of {machine}: {why}"));
                }
                _ => {}
            }
        }
        worst
    }

    fn accept_lost_writes(&self) {
        self.get().store().accept_lost_writes();
        for (_, overlay) in self.overlays() {
            overlay.accept_lost_writes();
        }
    }

    fn close(&self) -> io::Result<()> {
        self.get().store().close()
    }

    fn unlock(&self) {
        self.get().store().unlock();
    }
}
