//! What must always hold, watched from outside: the oracles see every frame that reaches the target's rings and every frame
//! that leaves it, and the disks, and nothing of the engine.

mod admin;
mod arrival;
mod carried_out;
mod cluster;
mod crash;
mod replies;
pub mod sector;
#[cfg(test)]
mod tests;
pub mod violation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aoe_common::Mac;
use engine::Persistent;
use parking_lot::Mutex;

use self::admin::Asked;
pub use self::arrival::{Arrival, What};
pub use self::cluster::Tick;
use self::sector::Sector;
pub use self::violation::{Promise, Violation};
use crate::bus::WorkerId;
use crate::disk::Disk;
use crate::plan::ExportPlan;
use crate::stamp;

/// The shelf of every export.
pub const SHELF: u16 = 7;
/// `stale_after` of every export.
pub const STALE_AFTER_US: u64 = 100_000;

/// What is known of one export.
#[derive(Debug)]
pub struct Exported {
    plan: ExportPlan,
    disk: Arc<Mutex<Disk>>,
    /// Its disk's number.
    pub disk_number: u8,
    /// First sector on its disk.
    pub base: u64,
    access: BTreeMap<Mac, bool>,
    /// In force, as its answers say.
    pub state: Persistent,
    sectors: Vec<Sector>,
    /// Sectors with answered writes that no promise has made durable yet.
    soft: BTreeSet<u64>,
    /// When its reservation changed last.
    reserved: Tick,
    /// When there was last something wrong with the disk.
    faults: Tick,
    /// The same, in time.
    faults_us: u64,
}

/// A worker as far as the oracles know it.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Its number.
    pub worker: WorkerId,
    /// Its port.
    pub port: u8,
    /// The port's address now.
    pub mac: Mac,
    /// The port's MTU now.
    pub mtu: u32,
}

/// All oracles.
#[derive(Debug)]
pub struct Oracle {
    now_us: u64,
    tick: Tick,
    /// By slot.
    pub exports: Vec<Exported>,
    arrivals: BTreeMap<Tick, Box<Arrival>>,
    /// Those that wait, by worker, source and tag.
    by_tag: BTreeSet<(WorkerId, Mac, u32, Tick)>,
    /// Writes that may have been answered, or another frame with their tag was.
    unclear: BTreeSet<(WorkerId, Tick)>,
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// Exports whose state an answer changed of which nobody can say what it answers.
    pub unsure: Vec<usize>,
    /// Exports whose state was to change when the worker that was asked ended: the change may come to be at any time.
    pub unanswered: BTreeSet<usize>,
    /// Replies seen.
    pub replies: u64,
}

impl Oracle {
    /// Watches nothing yet.
    #[expect(clippy::new_without_default, reason = "there is one, made in one place")]
    pub fn new() -> Oracle {
        Oracle {
            now_us: 0,
            tick: 1,
            exports: Vec::new(),
            arrivals: BTreeMap::new(),
            by_tag: BTreeSet::new(),
            unclear: BTreeSet::new(),
            violation: None,
            unsure: Vec::new(),
            unanswered: BTreeSet::new(),
            replies: 0,
        }
    }

    /// Watches an export, too.
    pub fn add(
        &mut self,
        plan: &ExportPlan,
        disk: &Arc<Mutex<Disk>>,
        disk_number: u8,
        base: u64,
        access: BTreeMap<Mac, bool>,
    ) {
        self.exports.push(Exported {
            sectors: vec![Sector::default(); plan.sectors as usize],
            plan: plan.clone(),
            disk: Arc::clone(disk),
            disk_number,
            base,
            access,
            state: Persistent::default(),
            soft: BTreeSet::new(),
            reserved: 0,
            faults: 0,
            faults_us: 0,
        });
    }

    /// Tells the time.
    pub fn set_now(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// A promise is broken. Only the first one counts: what follows may follow from it.
    pub fn broken(&mut self, promise: Promise, text: String) {
        let at_us = self.now_us;
        self.violation.get_or_insert(Violation { promise, at_us, text });
    }

    fn next_tick(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    /// Something is, or was until now, wrong with a disk.
    pub fn faults(&mut self, disk: u8) {
        let (tick, now_us) = (self.next_tick(), self.now_us);
        for export in self
            .exports
            .iter_mut()
            .filter(|export| export.disk_number == disk)
        {
            (export.faults, export.faults_us) = (tick, now_us);
        }
    }

    /// The earliest arrival that still waits.
    fn horizon(&self) -> Tick {
        self.arrivals.keys().next().copied().unwrap_or(self.tick)
    }

    /// What an export's state is, where its answers could not tell.
    pub fn resync(&mut self, number: usize, state: Persistent) {
        let tick = self.next_tick();
        let export = &mut self.exports[number];
        (export.state, export.reserved) = (state, tick);
    }

    /// A failed commit has dropped these sectors.
    pub fn lost(&mut self, disk: u8, sectors: &[u64]) {
        self.faults(disk);
        for export in self
            .exports
            .iter_mut()
            .filter(|export| export.disk_number == disk)
        {
            for sector in sectors {
                let inside = sector
                    .checked_sub(export.base)
                    .and_then(|lba| export.sectors.get_mut(lba as usize));
                if let Some(sector) = inside {
                    sector.damaged = true;
                }
            }
        }
    }

    /// These sectors hold what the disk says, whatever was before.
    pub fn settle(&mut self, disk: u8, first: u64, count: u64) {
        let tick = self.next_tick();
        for export in self
            .exports
            .iter_mut()
            .filter(|export| export.disk_number == disk)
        {
            let device = export.disk.lock();
            for at in first.max(export.base)..(first + count).min(export.base + export.plan.sectors) {
                let lba = at - export.base;
                let value = stamp::value(lba, device.seen(at));
                export.sectors[lba as usize].settle(value, tick);
                export.soft.remove(&lba);
            }
        }
    }

    /// A worker has nothing any more of what it took from its ring: what it did not answer, it never will.
    pub fn idle(&mut self, worker: WorkerId, in_ring: &dyn Fn(Tick) -> bool) {
        let first = (worker, Mac([0; 6]), 0, 0);
        let its_own = self.by_tag.range(first..).take_while(|(at, ..)| *at == worker);
        let unclear = self.unclear.range((worker, 0)..=(worker, Tick::MAX));
        let ticks = its_own
            .map(|(.., tick)| *tick)
            .chain(unclear.map(|(_, tick)| *tick));
        let mut gone: Vec<Tick> = ticks.filter(|tick| !in_ring(*tick)).collect();
        gone.sort_unstable();
        for tick in gone {
            let arrival = self.leave(tick);
            let admin = arrival.filter(|arrival| matches!(arrival.what, What::Admin(_)));
            self.unanswered.extend(admin.and_then(|arrival| arrival.export));
        }
    }

    /// Another gateway has begun to use these sectors: what these workers have not done to them yet, they never will. A copy that
    /// has come to the new one by now may be done there.
    pub fn shut_out(&mut self, workers: &BTreeSet<WorkerId>, concerned: &dyn Fn(u64) -> bool) {
        let tick = self.next_tick();
        let (old, new): (Vec<&Arrival>, Vec<&Arrival>) = self
            .arrivals
            .values()
            .map(|arrival| &**arrival)
            .partition(|arrival| workers.contains(&arrival.worker));
        let mut bars = Vec::new();
        for arrival in old {
            let (Some(number), What::Write { lba, values, .. }) = (arrival.export, &arrival.what) else {
                continue;
            };
            for (lba, key) in (*lba..).zip(values).filter(|(lba, _)| concerned(*lba)) {
                if !new.iter().any(|other| other.writes(*key)) {
                    bars.push((number, lba, *key));
                }
            }
        }
        for (number, lba, key) in bars {
            if let Some(sector) = self.exports[number].sectors.get_mut(lba as usize) {
                sector.bar(key, tick);
            }
        }
    }

    /// A write is answered, or is not and may be carried out yet: until the worker has nothing any more of what it took.
    fn stays(&mut self, tick: Tick) -> Option<Box<Arrival>> {
        let arrival = self.arrivals.get(&tick)?;
        let header = &arrival.header;
        self.by_tag
            .remove(&(arrival.worker, header.source, header.tag, tick));
        self.unclear.insert((arrival.worker, tick));
        Some(arrival.clone())
    }

    /// A request is answered or given up.
    fn leave(&mut self, tick: Tick) -> Option<Box<Arrival>> {
        let arrival = self.arrivals.remove(&tick)?;
        let header = &arrival.header;
        self.by_tag
            .remove(&(arrival.worker, header.source, header.tag, tick));
        self.unclear.remove(&(arrival.worker, tick));
        if let Some(number) = arrival.export {
            self.give_up(number, &arrival.what);
        }
        Some(arrival)
    }

    /// A copy of a write is gone: if it was the last one, the write has happened or never will.
    fn give_up(&mut self, number: usize, what: &What) {
        if !what.is_write() {
            return;
        }
        let now = self.tick;
        let others = self.arrivals.values();
        let others = others.filter(|other| other.export == Some(number) && other.is_write());
        let others: Vec<&Arrival> = others.map(|other| &**other).collect();
        let sectors = &mut self.exports[number].sectors;
        let mut gone = |lba: u64, key| {
            let others = others.iter().any(|other| other.writes(key));
            if !others && let Some(sector) = sectors.get_mut(lba as usize) {
                sector.all_left(key, now);
            }
        };
        match what {
            What::Write { lba, values, .. } => (*lba..).zip(values).for_each(|(lba, key)| gone(lba, *key)),
            What::Trim(spans, key) => {
                let sectors = spans
                    .iter()
                    .flat_map(|&(first, count)| first..first.saturating_add(count).min(4096));
                sectors.for_each(|lba| gone(lba, *key));
            }
            _ => {}
        }
    }

    /// A copy of a write was answered, and not that it is done. What other copies of it do is a write of its own.
    fn ended_badly(&mut self, number: usize, arrival: &Arrival) {
        let key = match &arrival.what {
            What::Write { values, .. } => values.first().copied(),
            What::Trim(_, key) => Some(*key),
            _ => None,
        };
        let Some(key) = key else { return };
        let others: Vec<Box<Arrival>> = self
            .arrivals
            .values()
            .filter(|other| other.export == Some(number) && other.writes(key))
            .cloned()
            .collect();
        let tick = self.tick;
        for sector in &mut self.exports[number].sectors {
            sector.all_left(key, tick);
        }
        for other in others {
            self.enter(number, &other.what, tick, &other.header);
        }
    }
}

impl Exported {
    /// What a source may do: `None`: nothing at all; true: write as well.
    pub fn admits(&self, source: Mac) -> Option<bool> {
        if !self.plan.access.is_empty() {
            return self.access.get(&source).copied();
        }
        let mask = &self.state.mask;
        (mask.is_empty() || mask.contains(&source)).then_some(true)
    }

    fn holds(&self, source: Mac) -> bool {
        self.state.reserve.is_empty() || self.state.reserve.contains(&source)
    }

    fn may_write(&self, source: Mac) -> bool {
        source == Mac::ZERO || (self.admits(source) == Some(true) && self.holds(source))
    }
}
