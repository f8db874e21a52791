//! Everything that is counted, each in one place: who counts registers here, and every reader (log, control socket,
//! OpenMetrics) takes the same [`Snapshot`].
//!
//! A worker writes plain counters of its own; nothing here is on the data path. What a worker had counted when it ended stays
//! in the sums: counters go on over reloads and over ports that are opened again.

mod counts;
mod export;
mod registry;
mod worker;

pub(crate) use counts::{Counts, Metric};
pub(crate) use export::{ExportTotals, InitiatorCounts};
pub(crate) use registry::{FilterRegistration, Registration, Registry, Snapshot};
pub(crate) use worker::{Chunks, QueueTotals, WorkerCounters};
