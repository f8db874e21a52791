//! What a worker counts beside its engine: rounds, sleeps, frames the kernel dropped, chunks.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engine::{CounterTotals, Counters};

/// Where the chunks of a socket's packet memory are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// All of them.
    pub(crate) total: u64,
    /// With the worker, to be filled.
    pub(crate) pool: u64,
    /// With the kernel, to be received into.
    pub(crate) fill: u64,
    /// In frames that are being worked on.
    pub(crate) in_use: u64,
    /// With the kernel, to be sent.
    pub(crate) tx: u64,
}

/// One worker's own counters. The worker writes, anybody reads.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    turns: AtomicU64,
    batches: AtomicU64,
    sleeps: AtomicU64,
    asleep: AtomicBool,
    dropped: AtomicU64,
    panics: AtomicU64,
    chunks: [AtomicU64; 5],
}

fn bump(counter: &AtomicU64) {
    // Not fetch_add: only the worker writes.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

impl WorkerCounters {
    /// Once more through the worker's loop.
    #[inline]
    pub(crate) fn turn(&self) {
        bump(&self.turns);
    }

    /// Frames were taken from the ring together.
    #[inline]
    pub(crate) fn batch(&self) {
        bump(&self.batches);
    }

    /// The worker goes to sleep.
    pub(crate) fn falls_asleep(&self) {
        bump(&self.sleeps);
        self.asleep.store(true, Ordering::Relaxed);
    }

    /// It is awake again.
    pub(crate) fn wakes_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// The worker has panicked and serves no more.
    pub(crate) fn panicked(&self) {
        bump(&self.panics);
    }

    /// What the kernel counted of the socket, and where its chunks are.
    pub(crate) fn publish(&self, dropped: u64, chunks: Chunks) {
        self.dropped.store(dropped, Ordering::Relaxed);
        let Chunks {
            total,
            pool,
            fill,
            in_use,
            tx,
        } = chunks;
        for (place, count) in self.chunks.iter().zip([total, pool, fill, in_use, tx]) {
            place.store(count, Ordering::Relaxed);
        }
    }

    /// What changes as long as the worker is not stuck: `None` while it sleeps, as it may for ever.
    pub(crate) fn progress(&self) -> Option<u64> {
        let turns = self.turns.load(Ordering::Relaxed);
        (!self.asleep.load(Ordering::Relaxed)).then_some(turns)
    }

    /// The numbers now.
    fn add_to(&self, totals: &mut QueueTotals) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        totals.batches += get(&self.batches);
        totals.sleeps += get(&self.sleeps);
        totals.dropped += get(&self.dropped);
        totals.workers_lost += get(&self.panics);
        let [total, pool, fill, in_use, tx] = self.chunks.each_ref().map(get);
        totals.chunks.total += total;
        totals.chunks.pool += pool;
        totals.chunks.fill += fill;
        totals.chunks.in_use += in_use;
        totals.chunks.tx += tx;
    }
}

/// What was counted of one receive queue, or of several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueTotals {
    /// By the engine.
    pub(crate) engine: CounterTotals,
    /// Times that frames were taken from the ring.
    pub(crate) batches: u64,
    /// Times that the worker went to sleep.
    pub(crate) sleeps: u64,
    /// Frames that the kernel dropped because xblade was too slow.
    pub(crate) dropped: u64,
    /// Workers that panicked.
    pub workers_lost: u64,
    /// Chunks now.
    pub(crate) chunks: Chunks,
}

impl QueueTotals {
    /// What a worker has counted so far.
    pub(crate) fn of(engine: &Counters, worker: &WorkerCounters) -> QueueTotals {
        let mut totals = QueueTotals {
            engine: engine.totals(),
            ..QueueTotals::default()
        };
        worker.add_to(&mut totals);
        totals
    }

    /// Adds another queue.
    pub(crate) fn add(&mut self, other: &QueueTotals) {
        self.engine.add(&other.engine);
        self.batches += other.batches;
        self.sleeps += other.sleeps;
        self.dropped += other.dropped;
        self.workers_lost += other.workers_lost;
        self.chunks.total += other.chunks.total;
        self.chunks.pool += other.chunks.pool;
        self.chunks.fill += other.chunks.fill;
        self.chunks.in_use += other.chunks.in_use;
        self.chunks.tx += other.chunks.tx;
    }

    /// What remains true when the worker has ended: its chunks are gone.
    pub(super) fn without_chunks(mut self) -> QueueTotals {
        self.chunks = Chunks::default();
        self
    }

    /// All of it by name.
    pub(crate) fn named(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.engine.named();
        all.extend([
            ("batches", self.batches),
            ("sleeps", self.sleeps),
            ("dropped", self.dropped),
            ("workers_lost", self.workers_lost),
            ("chunks", self.chunks.total),
            ("chunks_pool", self.chunks.pool),
            ("chunks_fill", self.chunks.fill),
            ("chunks_held", self.chunks.in_use),
            ("chunks_tx", self.chunks.tx),
        ]);
        all
    }
}

/// For the log; what is 0 is left out.
impl fmt::Display for QueueTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, value) in self.named().into_iter().filter(|(_, value)| *value > 0) {
            write!(f, "{separator}{name}={value}")?;
            separator = " ";
        }
        if separator.is_empty() {
            f.write_str("nothing")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_added_up_and_told_by_name() {
        let worker = WorkerCounters::default();
        worker.falls_asleep();
        worker.publish(
            3,
            Chunks {
                total: 8,
                fill: 8,
                ..Chunks::default()
            },
        );
        let mut one = QueueTotals::default();
        one.engine.reads = 2;
        worker.add_to(&mut one);
        let mut both = one;
        both.add(&one);
        assert_eq!(
            both.to_string(),
            "reads=4 sleeps=2 dropped=6 chunks=16 chunks_fill=16"
        );
        assert_eq!(both.without_chunks().chunks, Chunks::default());
        assert_eq!(QueueTotals::default().to_string(), "nothing");
    }

    #[test]
    fn a_worker_that_sleeps_owes_no_progress() {
        let worker = WorkerCounters::default();
        let first = worker.progress();
        worker.turn();
        assert!(first.is_some() && worker.progress() != first);
        worker.falls_asleep();
        assert_eq!(worker.progress(), None);
        worker.wakes_up();
        assert!(worker.progress().is_some());
    }
}
