//! What each initiator did with an export on one queue: a bounded table that one thread writes and others read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aoe_common::Mac;

use crate::counters::EventCount;

/// Places in a block of the table; the addresses of one block share a cache line.
const BLOCK: usize = 8;
/// Blocks at most.
const BLOCKS: usize = 8;
/// Initiators with a row of their own; what others did is counted as theirs together.
#[cfg(test)]
const INITIATORS_MAX: usize = BLOCK * BLOCKS;
/// A full table gives up the row of an initiator that was silent for this long, if another wants it.
const SILENT_US: u64 = 60_000_000;

/// What one initiator did.
#[derive(Debug, Default)]
struct Row {
    reads: EventCount,
    read_sectors: EventCount,
    writes: EventCount,
    written_sectors: EventCount,
    errors: EventCount,
    /// The worker's time of its last request.
    last_us: EventCount,
}

#[derive(Debug, Default)]
struct Block {
    /// 0: free.
    sources: [AtomicU64; BLOCK],
    rows: [Row; BLOCK],
}

/// What one initiator did, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitiatorTotals {
    /// READ commands answered with data.
    pub reads: u64,
    /// Sectors sent.
    pub read_sectors: u64,
    /// WRITE commands acknowledged.
    pub writes: u64,
    /// Sectors of these.
    pub written_sectors: u64,
    /// Answers that were errors.
    pub errors: u64,
    /// The worker's time of its last request, in microseconds.
    pub last_us: u64,
}

impl InitiatorTotals {
    /// Adds what another row counted.
    pub fn add(&mut self, other: &InitiatorTotals) {
        let add = |to: &mut u64, n: u64| *to = to.saturating_add(n);
        add(&mut self.reads, other.reads);
        add(&mut self.read_sectors, other.read_sectors);
        add(&mut self.writes, other.writes);
        add(&mut self.written_sectors, other.written_sectors);
        add(&mut self.errors, other.errors);
        self.last_us = self.last_us.max(other.last_us);
    }
}

/// What an initiator's request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Read(u64),
    Write(u64),
    Other,
    Error,
}

impl Row {
    fn count(&self, done: Done, now_us: u64) {
        self.last_us.set(now_us);
        match done {
            Done::Read(sectors) => {
                self.reads.bump();
                self.read_sectors.add(sectors);
            }
            Done::Write(sectors) => {
                self.writes.bump();
                self.written_sectors.add(sectors);
            }
            Done::Other => {}
            Done::Error => self.errors.bump(),
        }
    }

    fn totals(&self) -> InitiatorTotals {
        InitiatorTotals {
            reads: self.reads.get(),
            read_sectors: self.read_sectors.get(),
            writes: self.writes.get(),
            written_sectors: self.written_sectors.get(),
            errors: self.errors.get(),
            last_us: self.last_us.get(),
        }
    }

    /// Gives what was counted to another row and begins anew.
    fn move_to(&self, other: &Row) {
        let pairs = [
            (&self.reads, &other.reads),
            (&self.read_sectors, &other.read_sectors),
            (&self.writes, &other.writes),
            (&self.written_sectors, &other.written_sectors),
            (&self.errors, &other.errors),
        ];
        for (from, to) in pairs {
            to.add(from.get());
            from.set(0);
        }
        other.last_us.set(other.last_us.get().max(self.last_us.get()));
    }
}

/// The table. Blocks are made as initiators come.
#[derive(Debug, Default)]
pub struct Initiators {
    blocks: [OnceLock<Box<Block>>; BLOCKS],
    others: Row,
}

impl Initiators {
    /// Counts for `source`. Only the session's own thread calls this.
    pub(crate) fn count(&self, source: Mac, done: Done, now_us: u64) {
        self.row(source.to_u64(), now_us).count(done, now_us);
    }

    fn row(&self, source: u64, now_us: u64) -> &Row {
        for block in &self.blocks {
            let block = block.get_or_init(Box::default);
            for (place, row) in block.sources.iter().zip(&block.rows) {
                match place.load(Ordering::Relaxed) {
                    known if known == source => return row,
                    0 => {
                        place.store(source, Ordering::Release);
                        return row;
                    }
                    _ => {}
                }
            }
        }
        self.replace_silent(source, now_us).unwrap_or(&self.others)
    }

    /// The row of the initiator that has been silent longest, if that is long enough.
    fn replace_silent(&self, source: u64, now_us: u64) -> Option<&Row> {
        let rows = self.blocks.iter().filter_map(OnceLock::get);
        let rows = rows.flat_map(|block| block.sources.iter().zip(&block.rows));
        let (place, row) = rows.min_by_key(|(_, row)| row.last_us.get())?;
        if now_us.saturating_sub(row.last_us.get()) < SILENT_US {
            return None;
        }
        row.move_to(&self.others);
        place.store(source, Ordering::Release);
        Some(row)
    }

    /// What each did; `None`: all that have no row of their own, together.
    pub fn totals(&self) -> Vec<(Option<Mac>, InitiatorTotals)> {
        let mut all = Vec::new();
        for block in self.blocks.iter().filter_map(OnceLock::get) {
            for (place, row) in block.sources.iter().zip(&block.rows) {
                let source = place.load(Ordering::Acquire);
                let totals = row.totals();
                // A row that was given to another initiator meanwhile is left out this once.
                if source != 0 && place.load(Ordering::Acquire) == source {
                    all.push((Some(Mac::from_u64(source)), totals));
                }
            }
        }
        let others = self.others.totals();
        if others != InitiatorTotals::default() {
            all.push((None, others));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u64) -> Mac {
        Mac::from_u64(0x0200_0000_0000 | n)
    }

    #[test]
    fn each_initiator_has_its_row() {
        let table = Initiators::default();
        table.count(mac(1), Done::Read(2), 10);
        table.count(mac(2), Done::Write(4), 11);
        table.count(mac(1), Done::Read(2), 12);
        table.count(mac(1), Done::Error, 13);
        let all = table.totals();
        assert_eq!(all.len(), 2);
        let first = InitiatorTotals {
            reads: 2,
            read_sectors: 4,
            errors: 1,
            last_us: 13,
            ..InitiatorTotals::default()
        };
        assert_eq!(all[0], (Some(mac(1)), first));
        assert_eq!((all[1].0, all[1].1.written_sectors), (Some(mac(2)), 4));
    }

    #[test]
    fn a_full_table_counts_the_rest_together_and_loses_nothing() {
        let table = Initiators::default();
        let many = INITIATORS_MAX as u64 + 10;
        for n in 1..=many {
            table.count(mac(n), Done::Read(1), n);
        }
        let all = table.totals();
        assert_eq!(all.len(), INITIATORS_MAX + 1);
        assert_eq!(
            all.last().map(|(mac, totals)| (*mac, totals.reads)),
            Some((None, 10))
        );
        // One that is silent for long makes room.
        table.count(mac(many + 1), Done::Read(1), many + SILENT_US);
        let all = table.totals();
        assert!(all.iter().any(|(mac_of, _)| *mac_of == Some(mac(many + 1))));
        assert!(all.iter().all(|(mac_of, _)| *mac_of != Some(mac(1))));
        let reads: u64 = all.iter().map(|(_, totals)| totals.reads).sum();
        assert_eq!(reads, many + 1);
    }
}
