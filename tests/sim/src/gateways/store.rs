//! The image of a gateway's client as the engine sees it: a store, and where the protocol state is kept.

use std::io;
use std::sync::Arc;

use engine::{
    Address, Completions as _, Durability, Extent, Fault, FaultKind, Persistent, SECTOR_BYTES, StateStore,
    Step, Store, Token, Traits,
};
use parking_lot::Mutex;

use super::ceph::{Ceph, OBJECT, To, Work};
use super::client::Client;
use super::parts::Parts;
use crate::bus::{CompletionQueue, Handle, WorkerId};

/// An image as the engine sees it.
#[derive(Debug)]
pub(super) struct Image {
    /// Through which it is used.
    pub client: Arc<Client>,
    /// Where it lies.
    pub ceph: Arc<Mutex<Ceph>>,
    /// Its size.
    pub sectors: u64,
}

impl Image {
    fn worker(handle: &Handle) -> WorkerId {
        handle.worker()
    }

    /// The parts of an extent by objects: first sector and count.
    fn cut(extent: Extent) -> Vec<(u64, u64)> {
        let (mut at, end) = (extent.lba, extent.end());
        let mut parts = Vec::new();
        while at < end {
            let next = (at + OBJECT - at % OBJECT).min(end);
            parts.push((at, next - at));
            at = next;
        }
        parts
    }

    fn start(
        &self,
        queue: &CompletionQueue,
        token: Token,
        extent: Extent,
        read: Option<u64>,
        work: impl Fn(u64, u64) -> Work,
    ) -> Step {
        let handle = queue.handle();
        let worker = Image::worker(&handle);
        let cut = Image::cut(extent);
        let parts = Parts::new(&self.client, (handle, token), extent.lba, cut.len(), read);
        let parts = Arc::new(Mutex::new(parts));
        let mut ceph = self.ceph.lock();
        for (first, count) in cut {
            let to = To::Parts(Arc::clone(&parts), first - extent.lba);
            ceph.submit(&self.client, worker, work(first, count), to);
        }
        Step::Later
    }

    fn judge(&self, extent: Extent, kind: FaultKind) -> Result<(), Fault> {
        match extent.end() > self.sectors || extent.count == 0 {
            true => Err(Fault::outside(kind, extent)),
            false => Ok(()),
        }
    }
}

impl Store<CompletionQueue> for Image {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(self.sectors)
    }

    fn traits(&self) -> Traits {
        Traits {
            trim: false,
            zeroes_after_trim: false,
            physical_exponent: 3,
        }
    }

    fn read(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        _: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        self.judge(extent, FaultKind::Read)?;
        Ok(self.start(queue, token, extent, Some(extent.count), Work::Read))
    }

    fn write(
        &self,
        queue: &mut CompletionQueue,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        _: Durability,
    ) -> Result<Step, Fault> {
        self.judge(extent, FaultKind::Write)?;
        let bytes = from.concat();
        Ok(self.start(queue, token, extent, None, |first, count| {
            let at = ((first - extent.lba) * SECTOR_BYTES) as usize;
            Work::Write(first, bytes[at..][..(count * SECTOR_BYTES) as usize].to_vec())
        }))
    }

    fn flush(&self, queue: &mut CompletionQueue, token: Token) -> Result<Step, Fault> {
        // Whatever was answered is on the OSDs.
        let extent = Extent { lba: 0, count: 1 };
        Ok(self.start(queue, token, extent, None, |_, _| Work::Nothing))
    }

    fn trim(&self, _: &mut CompletionQueue, _: Token, extents: &[Extent]) -> Result<Step, Fault> {
        let extent = extents.first().copied().unwrap_or(Extent { lba: 0, count: 0 });
        Err(Fault {
            kind: FaultKind::Write,
            lba: extent.lba,
            source: io::Error::other("no TRIM was promised"),
        })
    }

    fn verify(&self, queue: &mut CompletionQueue, token: Token, extent: Extent) -> Result<Step, Fault> {
        self.judge(extent, FaultKind::Read)?;
        Ok(self.start(queue, token, extent, None, Work::Read))
    }

    fn is_silenced(&self) -> bool {
        self.client.is_silent()
    }

    fn is_unheard(&self) -> bool {
        self.client.has_lapsed() && !self.client.is_shut_out()
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The protocol state, in the image's metadata.
#[derive(Debug)]
pub(super) struct Metadata {
    /// Through which it is kept.
    pub client: Arc<Client>,
    /// Where it lies.
    pub ceph: Arc<Mutex<Ceph>>,
}

impl StateStore<CompletionQueue> for Metadata {
    fn save(&self, _: Address, state: &Persistent, handle: Handle, token: Token) {
        let worker = Image::worker(&handle);
        let parts = Arc::new(Mutex::new(Parts::new(&self.client, (handle, token), 0, 1, None)));
        let work = Work::Save(state.clone());
        self.ceph
            .lock()
            .submit(&self.client, worker, work, To::Parts(parts, 0));
    }
}
