//! A private copy of a golden image: what was written lies in a sparse file of its own (the delta), all else is read from the
//! golden image, which many overlays share.
//!
//! One bit a sector says where it is. AoE writes whole sectors, so nothing is ever copied up. A bit is set when the data is
//! in the delta and not before: whoever dies in between leaves a sector that reads as it did. The engine keeps reads and
//! writes of a sector apart, so a look at the bits holds for the whole operation.
//!
//! A volatile overlay outlives the process (its files are in the page cache), not the host's boot. A persistent one outlives power cuts
//! too, as its durability says: it has a third file with the bits that are on the medium, and a commit writes them there after the data
//! ([`durable`]). An operation that waits for that is in the delta first, its bits are set, and then it waits.

mod bits_file;
mod counters;
mod current;
pub(crate) mod deferred;
mod device;
mod durable;
mod files;
mod fingerprint;
mod golden;
mod marks;
mod merge;
mod opening;
mod presence;
mod records;
mod space;
mod survey;
#[cfg(test)]
mod tests;
mod tmpfs;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::{
    Durability, Extent, Fault, FaultKind, Health, LostWrites, SECTOR_BYTES, Step, Store, Token, Traits,
};

use self::deferred::{Ending, Layer};
use self::marks::{Marks, Where};
use self::presence::Presence;
use crate::commit::{Committer, Task};
use crate::completion_queue::CompletionQueue;

pub use counters::OverlayTotals;
pub use current::CurrentGolden;
pub use files::OverlayFiles;
pub use golden::Golden;
pub use merge::{MergeError, MergedImage, remove_unfinished_merge};
pub use opening::{OverlayError, OverlayOptions};
#[cfg(test)]
pub(crate) use records::RecordsHeader;
pub use space::{Full, free_bytes, is_full};
pub use tmpfs::{lies_in_memory, look_for_memory};

type Shared = Arc<dyn Store<CompletionQueue>>;

/// See the module.
#[derive(Debug)]
pub struct OverlayStore {
    golden: Golden,
    delta: Shared,
    marks: Arc<Marks>,
    sectors: u64,
    presence: Presence,
    files: OverlayFiles,
    /// Puts delta and bits on the medium; `None`: volatile.
    committer: Option<Arc<Committer>>,
    pinned: AtomicBool,
}

/// What an overlay holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayUsage {
    /// Sectors that were written or trimmed.
    pub written_sectors: u64,
    /// Bytes of the delta that take space, by blocks of 4 KiB.
    pub allocated_bytes: u64,
    /// Writes that were refused because there was no space.
    pub refused_writes: u64,
    /// What is full, since a write was refused for that.
    pub full: Option<Full>,
}

impl OverlayStore {
    /// The image below.
    pub fn golden(&self) -> &Golden {
        &self.golden
    }

    /// Whether it outlives the host's boot.
    pub fn is_persistent(&self) -> bool {
        self.committer.is_some()
    }

    /// Whether it stays when its machine boots.
    pub fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Has a volatile one stay when its machine boots, or not any more. `files` are its own.
    ///
    /// # Errors
    /// When they cannot be written: it is as before.
    pub fn set_pinned(&self, files: &OverlayFiles, pinned: bool) -> io::Result<()> {
        files.set_pinned(pinned)?;
        self.pinned.store(pinned, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it cannot be told any more what it holds: that is no loss that could be accepted.
    pub fn is_unknown(&self) -> bool {
        self.marks.check().is_err()
    }

    /// What its machine has done since [`OverlayStore::count_anew`], or since it was opened.
    pub fn totals(&self) -> OverlayTotals {
        self.marks.counters().get()
    }

    /// Begins to count anew: its machine boots.
    pub fn count_anew(&self) {
        self.marks.counters().clear();
    }

    /// What it holds.
    pub fn usage(&self) -> OverlayUsage {
        OverlayUsage {
            written_sectors: self.marks.written_sectors(),
            allocated_bytes: self.marks.space().allocated_bytes(),
            refused_writes: self.marks.space().refused(),
            full: self.marks.space().full(),
        }
    }

    /// Another limit of the space that the delta takes, in bytes; 0: none.
    pub fn set_limit(&self, bytes: u64) {
        self.marks.space().set_limit(bytes);
    }

    fn check(&self, extent: Extent, kind: FaultKind) -> Result<(), Fault> {
        match extent.end() <= self.sectors {
            true => Ok(()),
            false => Err(Fault::outside(kind, extent)),
        }
    }

    /// How a write or TRIM that begins now is to end.
    ///
    /// # Errors
    /// While acknowledged writes are lost.
    fn ending(&self, lba: u64, durable: bool) -> Result<Option<Ending>, Fault> {
        let Some(committer) = &self.committer else {
            return Ok(None);
        };
        Ok(Some(Ending {
            committer: Arc::clone(committer),
            entered: committer.enter(lba)?,
            durable,
        }))
    }

    /// Reads what lies partly here and partly there: all of it from both, each part at most put off for itself, then put together.
    fn read_both(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        let mut gather = queue.overlays().take(token);
        for layer in [Layer::Golden, Layer::Delta] {
            if gather.has(layer) {
                continue;
            }
            let store = match layer {
                Layer::Golden => self.golden.store(),
                Layer::Delta => &self.delta,
            };
            let mut bytes = vec![0; (extent.count * SECTOR_BYTES) as usize].into_boxed_slice();
            match store.read(queue, token, extent, &mut [&mut bytes])? {
                Step::Done => gather.put(layer, bytes),
                Step::Later => {
                    queue.overlays().gather(token, gather.waiting_for(layer));
                    return Ok(Step::Later);
                }
            }
        }
        let (mut bytes, delta) = gather.into_layers();
        let mut own = 0;
        for run in self.marks.written_runs(extent) {
            own += run.count;
            let at = ((run.lba - extent.lba) * SECTOR_BYTES) as usize;
            let span = at..at + (run.count * SECTOR_BYTES) as usize;
            bytes[span.clone()].copy_from_slice(&delta[span]);
        }
        // They are the same as at the call's beginning, or not the file's any more.
        self.marks.place(extent)?;
        self.marks.counters().read(extent.count - own, own);
        let mut rest = &bytes[..];
        for piece in into {
            let (now, later) = rest.split_at(piece.len());
            piece.copy_from_slice(now);
            rest = later;
        }
        Ok(Step::Done)
    }
}

impl Store<CompletionQueue> for OverlayStore {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn refresh(&self) -> io::Result<u64> {
        // On the data path: whether the image is as it was is looked at beside it.
        Ok(self.sectors)
    }

    fn traits(&self) -> Traits {
        self.delta.traits()
    }

    fn read(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        self.check(extent, FaultKind::Read)?;
        let (store, golden, delta) = match self.marks.place(extent)? {
            Where::Golden => (self.golden.store(), extent.count, 0),
            Where::Delta => (&self.delta, 0, extent.count),
            Where::Both => return self.read_both(queue, token, extent, into),
        };
        let step = store.read(queue, token, extent, into)?;
        match step {
            Step::Done => self.marks.counters().read(golden, delta),
            Step::Later => queue.overlays().read(token, &self.marks, golden, delta),
        }
        Ok(step)
    }

    fn write(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault> {
        self.check(extent, FaultKind::Write)?;
        self.marks.space().claim(extent)?;
        let ending = self.ending(extent.lba, durability == Durability::Durable)?;
        // Of a persistent one the delta alone would commit too early: before the bits are set.
        let own = ending.as_ref().map_or(durability, |_| Durability::WriteBack);
        let failed = |fault: &Fault| self.marks.space().note_failure(&fault.source, Full::Delta);
        let step = self.delta.write(queue, token, extent, from, own);
        match step.inspect_err(failed)? {
            Step::Later => {
                queue.overlays().write(token, &self.marks, extent, ending);
                Ok(Step::Later)
            }
            Step::Done => {
                self.marks.written(extent)?;
                let Some(ending) = ending else {
                    return Ok(Step::Done);
                };
                match ending.of(extent, queue.now())? {
                    None => Ok(Step::Done),
                    Some(task) => {
                        queue.commit(&ending.committer, token, task);
                        Ok(Step::Later)
                    }
                }
            }
        }
    }

    fn flush(&self, queue: &mut CompletionQueue, token: Token) -> Result<Step, Fault> {
        match &self.committer {
            None => self.delta.flush(queue, token),
            // It says so. What is lost of the delta need not be seen by the commit of the bits.
            Some(_) if matches!(self.delta.health(), Health::LostWrites(_)) => self.delta.flush(queue, token),
            Some(committer) => {
                queue.commit(committer, token, Task::Flush);
                Ok(Step::Later)
            }
        }
    }

    fn trim(&self, queue: &mut CompletionQueue, token: Token, extents: &[Extent]) -> Result<Step, Fault> {
        for extent in extents {
            self.check(*extent, FaultKind::Write)?;
        }
        // A TRIM ends with a commit.
        let lba = extents.first().map_or(0, |extent| extent.lba);
        let ending = self.ending(lba, true)?;
        if self.delta.trim(queue, token, extents)? == Step::Later {
            queue.overlays().trim(token, &self.marks, extents, ending);
            return Ok(Step::Later);
        }
        self.marks.trimmed(extents)?;
        let Some(Ending {
            committer, entered, ..
        }) = ending
        else {
            return Ok(Step::Done);
        };
        queue.commit(&committer, token, Task::Write(lba, entered));
        Ok(Step::Later)
    }

    fn verify(&self, queue: &mut CompletionQueue, token: Token, extent: Extent) -> Result<Step, Fault> {
        self.check(extent, FaultKind::Read)?;
        match self.marks.place(extent)? {
            Where::Golden => self.golden.store().verify(queue, token, extent),
            Where::Delta => self.delta.verify(queue, token, extent),
            Where::Both => {
                let gather = queue.overlays().take(token);
                if !gather.has(Layer::Golden)
                    && self.golden.store().verify(queue, token, extent)? == Step::Later
                {
                    let gather = gather.waiting_for(Layer::Golden);
                    queue.overlays().gather(token, gather);
                    return Ok(Step::Later);
                }
                self.delta.verify(queue, token, extent)
            }
        }
    }

    fn prefetch(&self, extent: Extent) {
        if self.check(extent, FaultKind::Read).is_err() {
            return;
        }
        match self.marks.place(extent) {
            Ok(Where::Golden) => self.golden.store().prefetch(extent),
            Ok(Where::Delta | Where::Both) => self.delta.prefetch(extent),
            // The read says so.
            Err(_) => {}
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let usage = self.usage();
        let mut counters = vec![
            ("overlay_written_sectors", usage.written_sectors),
            ("overlay_allocated_bytes", usage.allocated_bytes),
            ("overlay_refused_writes", usage.refused_writes),
        ];
        counters.extend(self.committer.iter().flat_map(|committer| committer.counters()));
        for figure in self.delta.counters() {
            if counters.iter().all(|(name, _)| *name != figure.0) {
                counters.push(figure);
            }
        }
        counters
    }

    fn look_at_backing(&self) {
        self.delta.look_at_backing();
        self.marks.space().look(&self.files.delta(), self.presence.bits());
        if self.presence.look() {
            self.marks.are_cut();
        }
        if let Some(committer) = &self.committer {
            committer.look_for_cut();
        }
    }

    fn health(&self) -> Health {
        if let Err(error) = self.marks.check() {
            return Health::LostWrites(LostWrites {
                extent: Extent {
                    lba: 0,
                    count: self.sectors,
                },
                cause: error.to_string(),
                stopped: true,
            });
        }
        let bits = self.committer.as_ref().map(|committer| committer.health());
        match (bits, self.delta.health()) {
            (Some(lost @ Health::LostWrites(_)), _) => lost,
            (_, Health::Healthy) => self.presence.health(),
            (_, of_delta) => of_delta,
        }
    }

    fn uncommitted_us(&self) -> Option<u64> {
        Some(self.committer.as_ref()?.uncommitted_us())
    }

    fn accept_lost_writes(&self) {
        self.delta.accept_lost_writes();
        self.committer
            .iter()
            .for_each(|committer| committer.accept_lost_writes());
    }

    fn close(&self) -> io::Result<()> {
        let data = self.delta.close();
        let bits = self.committer.as_ref().map_or(Ok(()), Committer::close);
        data.and(bits)?;
        // On a disk that has just taken the data.
        let saved = self
            .files
            .save_bits(&self.marks, self.sectors, self.presence.bits());
        if let Err(error) = saved {
            tracing::warn!(
                "{}: what it holds is noted in {} alone: {error}",
                self.files.base().display(),
                self.presence.bits().display()
            );
        }
        Ok(())
    }

    fn unlock(&self) {
        self.delta.unlock();
    }
}

impl Drop for OverlayStore {
    fn drop(&mut self) {
        if let Some(committer) = &self.committer {
            committer.abandon();
        }
    }
}
