//! Who counts now, and what those had counted that are no more.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use aoe_common::Vlan;
use engine::{Counters, Meters};
use parking_lot::Mutex;

use super::export::ExportTotals;
use super::worker::{QueueTotals, WorkerCounters};
use crate::filter::{self, CounterReader};
use crate::target::Address;

/// An export as its counters are kept: by what initiators call it, on one interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ExportKey {
    /// The interface.
    pub(crate) interface: Arc<str>,
    /// Shelf and slot.
    pub(crate) address: Address,
    /// The number of its VLAN; 0: untagged, `u16::MAX`: any.
    vlan: u16,
}

impl ExportKey {
    fn new(interface: &Arc<str>, address: Address, vlan: Vlan) -> ExportKey {
        let vlan = match vlan {
            Vlan::Untagged => 0,
            Vlan::Id(id) => id,
            Vlan::Any => u16::MAX,
        };
        ExportKey {
            interface: Arc::clone(interface),
            address,
            vlan,
        }
    }
}

/// One worker that counts.
#[derive(Debug)]
struct Queue {
    interface: Arc<str>,
    queue: usize,
    engine: Arc<Counters>,
    worker: Arc<WorkerCounters>,
    meters: Arc<Meters>,
    /// Zero of the worker's clock.
    start: Instant,
}

impl Queue {
    fn totals(&self) -> QueueTotals {
        QueueTotals::of(&self.engine, &self.worker)
    }
}

/// Everything that counts and has counted.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Inner>,
    /// Workers that serve, on all ports.
    serving: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    last_id: u64,
    queues: BTreeMap<u64, Queue>,
    filters: BTreeMap<u64, (Arc<str>, CounterReader)>,
    /// Of workers and filters that have ended.
    past: Snapshot,
}

/// A worker's place in the registry. When the worker's thread drops it, what was counted passes into the sums.
#[derive(Debug)]
pub(crate) struct Registration {
    id: u64,
    registry: Arc<Registry>,
}

/// One of the workers that serve, until this is dropped.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Registry>);

/// As [`Registration`], of a filter.
#[derive(Debug)]
pub(crate) struct FilterRegistration(Registration);

/// Counters of one interface.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PortTotals {
    /// By receive queue.
    pub(crate) queues: BTreeMap<usize, QueueTotals>,
    /// By verdict of the filter.
    pub(crate) filter: filter::FilterCounters,
    /// Times that it was opened.
    pub(crate) opens: u64,
    /// Times that it was found deaf.
    pub(crate) deaf: u64,
}

/// Everything counted, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Snapshot {
    /// By interface.
    pub(crate) ports: BTreeMap<Arc<str>, PortTotals>,
    /// By export and interface: those that had a request.
    pub(crate) exports: HashMap<ExportKey, ExportTotals>,
}

impl Registry {
    /// Enters a worker.
    pub(crate) fn add_queue(
        self: &Arc<Registry>,
        (interface, queue): (&str, usize),
        engine: Arc<Counters>,
        worker: Arc<WorkerCounters>,
        meters: Arc<Meters>,
        start: Instant,
    ) -> Registration {
        let mut inner = self.inner.lock();
        inner.last_id += 1;
        let id = inner.last_id;
        let queue = Queue {
            interface: interface.into(),
            queue,
            engine,
            worker,
            meters,
            start,
        };
        inner.queues.insert(id, queue);
        Registration {
            id,
            registry: Arc::clone(self),
        }
    }

    /// Counts that an interface was opened.
    pub(crate) fn opened(&self, interface: &str) {
        let mut inner = self.inner.lock();
        inner.past.ports.entry(interface.into()).or_default().opens += 1;
    }

    /// Counts that frames come in by an interface and none arrives.
    pub(crate) fn deaf(&self, interface: &str) {
        let mut inner = self.inner.lock();
        inner.past.ports.entry(interface.into()).or_default().deaf += 1;
    }

    /// Counts a worker among those that serve.
    pub(crate) fn begin_to_serve(self: &Arc<Registry>) -> Serving {
        self.serving.fetch_add(1, Ordering::Relaxed);
        Serving(Arc::clone(self))
    }

    /// How many workers serve, on all ports.
    #[inline]
    pub(crate) fn serving(&self) -> usize {
        self.serving.load(Ordering::Relaxed)
    }

    /// Enters a filter.
    pub(crate) fn add_filter(
        self: &Arc<Registry>,
        interface: &str,
        counters: CounterReader,
    ) -> FilterRegistration {
        let mut inner = self.inner.lock();
        inner.last_id += 1;
        let id = inner.last_id;
        inner.filters.insert(id, (interface.into(), counters));
        FilterRegistration(Registration {
            id,
            registry: Arc::clone(self),
        })
    }

    /// All there is to know.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let inner = self.inner.lock();
        let mut all = inner.past.clone();
        for queue in inner.queues.values() {
            all.add_queue(queue, &queue.totals());
        }
        for (interface, reader) in inner.filters.values() {
            all.add_filter(interface, reader);
        }
        all
    }

    /// The workers and what changes while they get on, as [`WorkerCounters::progress`].
    pub(crate) fn progress(&self) -> Vec<(u64, Option<u64>)> {
        let inner = self.inner.lock();
        let queues = inner.queues.iter();
        queues.map(|(id, queue)| (*id, queue.worker.progress())).collect()
    }
}

impl Snapshot {
    fn add_queue(&mut self, queue: &Queue, totals: &QueueTotals) {
        let port = self.ports.entry(Arc::clone(&queue.interface)).or_default();
        port.queues.entry(queue.queue).or_default().add(totals);
        for meter in queue.meters.rows() {
            let key = ExportKey::new(&queue.interface, meter.address, meter.vlan);
            self.exports
                .entry(key)
                .or_default()
                .add_meter(&meter, queue.start);
        }
    }

    fn add_filter(&mut self, interface: &Arc<str>, reader: &CounterReader) {
        // A map that cannot be read counts nothing; the port's thread says why.
        if let Ok(counters) = reader.read() {
            let port = self.ports.entry(Arc::clone(interface)).or_default();
            port.filter.add(&counters);
        }
    }

    /// What was counted of an export on the interfaces that `on` chooses.
    pub(crate) fn export(&self, address: Address, vlan: Vlan, on: impl Fn(&str) -> bool) -> ExportTotals {
        let mut totals = ExportTotals::default();
        for interface in self.ports.keys().filter(|name| on(name)) {
            if let Some(more) = self.exports.get(&ExportKey::new(interface, address, vlan)) {
                totals.add(more);
            }
        }
        totals
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut inner = self.registry.inner.lock();
        if let Some(queue) = inner.queues.remove(&self.id) {
            inner.past.add_queue(&queue, &queue.totals().without_chunks());
            // Nothing of it is in flight any more.
            let exports = inner.past.exports.values_mut();
            exports.for_each(|export| export.counts.in_flight = 0);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for FilterRegistration {
    fn drop(&mut self) {
        let mut inner = self.0.registry.inner.lock();
        if let Some((interface, reader)) = inner.filters.remove(&self.0.id) {
            inner.past.add_filter(&interface, &reader);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_counted_outlives_it() {
        let registry = Arc::new(Registry::default());
        let worker = || {
            let counters = Arc::new(WorkerCounters::default());
            counters.falls_asleep();
            registry.add_queue(
                ("eth0", 0),
                Arc::default(),
                counters,
                Arc::default(),
                Instant::now(),
            )
        };
        let sleeps = || registry.snapshot().ports["eth0"].queues[&0].sleeps;
        let first = worker();
        assert_eq!((sleeps(), registry.progress().len()), (1, 1));
        drop(first);
        assert_eq!((sleeps(), registry.progress().len()), (1, 0));
        let _second = worker();
        assert_eq!(sleeps(), 2);
    }
}
