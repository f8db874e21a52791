//! What is carried out, seen at the disks: by whom it may be asked, and whether it comes too late.

use super::arrival::{Arrival, What};
use super::sector::Copy;
use super::violation::Promise;
use super::{Exported, Oracle, STALE_AFTER_US};
use crate::bus::WorkerId;
use crate::stamp::{self, Value};

/// Sectors of a disk that changed at once where reads see it.
struct Applied<'a> {
    disk: u8,
    first: u64,
    values: &'a [Value],
    worker: WorkerId,
}

impl Applied<'_> {
    /// Whether all of them may be this request's doing, to an export that begins at `base`.
    fn may_be(&self, arrival: &Arrival, base: u64) -> bool {
        let gives = |at: u64, value| {
            let lba = at.checked_sub(base);
            lba.is_some_and(|lba| arrival.key_of(lba, value).is_some())
        };
        (self.first..)
            .zip(self.values)
            .all(|(at, value)| gives(at, *value))
    }
}

/// A write that is carried out after its answer and a newer one's: the export, the sector, its value, the newer one's.
type Stale = (usize, u64, Value, Value);

impl Oracle {
    /// Sectors of a disk have changed where reads see it, to these values.
    pub fn applied(&mut self, disk: u8, first: u64, values: &[Value], worker: WorkerId) {
        if worker == WorkerId::MAX {
            // The operator's doing, or the medium's.
            return self.settle(disk, first, values.len() as u64);
        }
        let all = Applied {
            disk,
            first,
            values,
            worker,
        };
        for (at, value) in (first..).zip(values) {
            if let Some(stale) = self.applied_at(&all, at, *value) {
                self.too_late(&all, stale);
            }
        }
    }

    /// One of them: what it changes in the histories of its sector. It may be stale.
    fn applied_at(&mut self, all: &Applied<'_>, at: u64, value: Value) -> Option<Stale> {
        let holds = |export: &Exported| {
            let sectors = export.base..export.base + export.plan.sectors;
            export.disk_number == all.disk && sectors.contains(&at)
        };
        let mut stale = None;
        for number in 0..self.exports.len() {
            let export = &self.exports[number];
            if !holds(export) {
                continue;
            }
            let lba = at - export.base;
            let sector = &export.sectors[lba as usize];
            let newer = sector
                .is_stale(value)
                .or_else(|| self.stale_trim(number, lba, value));
            if let Some(newer) = newer {
                stale.get_or_insert((number, lba, value, newer));
            }
            if let Some(source) = sector.refused(value, |mac| export.may_write(mac)) {
                let text = format!(
                    "{} of {source} is carried out at sector {lba} although it may not write",
                    stamp::name(value)
                );
                self.broken(Promise::Access, text);
                return None;
            }
            let copy = self.copy_in(all.worker, (number, lba), value);
            if let Some(copy) = copy {
                self.exports[number].sectors[lba as usize].carried_out(&copy);
            }
        }
        stale
    }

    /// Judges a write that is carried out after its answer and a newer one's.
    fn too_late(&mut self, all: &Applied<'_>, (number, lba, value, newer): Stale) {
        let export = &self.exports[number];
        // What reads around a part of a block before it is carried out, on a disk that others use.
        let transfer_us = 1000 + 100 * export.plan.io_us;
        let waits = |arrival: &&Arrival| {
            let here = arrival.worker == all.worker && arrival.export == Some(number);
            here && arrival.key_of(lba, value).is_some()
        };
        let waiting = self.arrivals.values().map(|arrival| &**arrival).filter(waits);
        let waiting: Vec<&Arrival> = waiting.collect();
        // Those that give all of the sectors their values, if any do; else some of it was refused, or another has changed it.
        let whole = |arrival: &&Arrival| all.may_be(arrival, export.base);
        let (whole, part): (Vec<&Arrival>, Vec<&Arrival>) = waiting.into_iter().partition(whole);
        let fitting = if whole.is_empty() { part } else { whole };
        // An adversary's frame with a piece of the write in it is a write of its own.
        if fitting.iter().any(|arrival| arrival.odd) {
            return;
        }
        let (promise, since) = match fitting.first() {
            // Doubled by the network and hardly late when its turn came: no target can tell it from a new write.
            Some(arrival) if self.now_us - arrival.at_us <= STALE_AFTER_US + transfer_us => return,
            Some(arrival) => (
                Promise::StaleFromRing,
                format!(
                    "a copy had waited at that worker for {} ms",
                    (self.now_us - arrival.at_us) / 1000
                ),
            ),
            None => (Promise::StaleWrite, "no copy waits at that worker".to_owned()),
        };
        self.broken(
            promise,
            format!(
                "{} is carried out at sector {lba} after its answer and the newer {}'s; {since}",
                stamp::name(value),
                stamp::name(newer)
            ),
        );
    }

    /// The request that may have been carried out just now: of the writes and trims at the worker that are too young to be known as
    /// old, or that the network has changed into writes of their own, the one that came first.
    fn copy_in(&self, worker: WorkerId, (number, lba): (usize, u64), value: Value) -> Option<Copy> {
        let newest_first = self.arrivals.iter().rev();
        let counts = |arrival: &Arrival| arrival.odd || self.now_us - arrival.at_us <= STALE_AFTER_US;
        let here = newest_first.filter(|(_, arrival)| {
            arrival.worker == worker && arrival.export == Some(number) && counts(arrival)
        });
        let mut fits = here.filter_map(|(tick, arrival)| {
            Some(Copy {
                value,
                key: arrival.key_of(lba, value)?,
                arrived: *tick,
                source: arrival.header.source,
            })
        });
        fits.next_back()
    }

    /// Zeros do not say which trim they are of: they are stale when every trim of the sector that waits is a copy of one that was
    /// answered before a newer write was.
    fn stale_trim(&self, number: usize, lba: u64, value: Value) -> Option<Value> {
        if value != stamp::ZEROS {
            return None;
        }
        let mut newer = None;
        for (tick, arrival) in &self.arrivals {
            let What::Trim(spans, key) = &arrival.what else {
                continue;
            };
            let covers = |&(first, count): &(u64, u64)| (first..first.saturating_add(count)).contains(&lba);
            if arrival.export == Some(number) && spans.iter().any(covers) {
                newer = Some(self.exports[number].sectors[lba as usize].overwritten(*key, *tick)?);
            }
        }
        newer
    }
}
