//! Group commit, and what becomes of a failed one.
//!
//! A failed commit is told to all that it took down: the group that it ran for, and whoever came meanwhile. When data that had
//! been acknowledged is lost by it, the store takes no writes any more until the operator accepts that; this outlives the
//! process.

use aoe_common::wire::SECTOR_BYTES;
use engine::FaultKind;

use super::transfer::{Operation, Waiter, Write};
use super::{Disk, PAGE};
use crate::bus::{Note, WorkerId};
use crate::mutants::Mutant;
use crate::plan::StoreKind;

/// What is waited for.
#[derive(Debug)]
pub enum Task {
    /// A write that reads see already; its first sector.
    Write(u64),
    /// A write to be made before the commit.
    Lone(Box<Write>),
    /// Everything that was answered before.
    Flush,
    /// Sectors to be zeroed before the commit: first and count.
    Trim(Vec<(u64, u64)>),
}

/// A unit as it was when the commit took it: its number, whether acknowledged data is in it, its bytes.
type Taken = (u64, bool, Vec<u8>);

/// Commits for one store.
#[derive(Debug)]
pub struct Committer {
    flush_interval_us: u64,
    waiting: Vec<(Waiter, Task)>,
    group: Vec<(Waiter, Task)>,
    /// What the running commit writes.
    taken: Vec<Taken>,
    running: bool,
    /// Write-back data waits for its commit.
    due: bool,
    began_us: u64,
    /// Errors of the disk that this one has told.
    told: u64,
    /// Acknowledged data is lost.
    poisoned: bool,
    /// Errors that a flush has to be told of (the design of a mutant).
    owed: bool,
}

impl Committer {
    pub(super) fn new(flush_interval_ms: u64) -> Committer {
        Committer {
            flush_interval_us: flush_interval_ms * 1000,
            waiting: Vec::new(),
            group: Vec::new(),
            taken: Vec::new(),
            running: false,
            due: false,
            began_us: 0,
            told: 0,
            poisoned: false,
            owed: false,
        }
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    pub(super) fn owes(&self, errors: u64) -> bool {
        self.told < errors || self.owed
    }

    pub(super) fn accept(&mut self) {
        self.poisoned = false;
        self.owed = false;
    }

    /// Nobody waits and nothing runs.
    pub(super) fn is_quiet(&self) -> bool {
        !self.running && self.waiting.is_empty()
    }

    /// Writes and trims yet to be made for a worker.
    pub(super) fn writes_of(&self, worker: WorkerId) -> usize {
        let to_be_made = |(waiter, task): &&(Waiter, Task)| {
            waiter.handle.worker() == worker && matches!(task, Task::Lone(_) | Task::Trim(_))
        };
        self.waiting.iter().filter(to_be_made).count()
    }

    /// Sectors that writes yet to be made will change.
    pub(super) fn lone_writes(&self) -> impl Iterator<Item = (u64, u64, bool)> + '_ {
        self.waiting.iter().flat_map(|(_, task)| match task {
            Task::Lone(write) => vec![(
                write.first,
                write.first + (write.bytes.len() / SECTOR_BYTES) as u64,
                true,
            )],
            Task::Trim(spans) => spans
                .iter()
                .map(|(first, count)| (*first, first + count, true))
                .collect(),
            Task::Write(_) | Task::Flush => Vec::new(),
        })
    }

    /// The power is gone: what the running commit had under way.
    pub(super) fn take_running(&mut self) -> Vec<Taken> {
        self.running = false;
        std::mem::take(&mut self.taken)
    }

    /// The process is gone; what the kernel has begun goes on.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.group.clear();
        self.due = false;
        self.owed = false;
    }
}

impl Disk {
    /// Write-back data of a store waits for a commit.
    pub(super) fn note_write(&mut self, store: usize) {
        let committer = &mut self.committers[store];
        if !committer.due {
            committer.due = true;
            let delay = committer.flush_interval_us;
            self.start(Operation::Begin(store), delay);
        }
    }

    /// A new process begins with committing what an old one left.
    pub(super) fn commit_leftovers(&mut self, store: usize) {
        if !self.dirty.is_empty() && !self.is(Mutant::LeftoversNotCommitted) {
            self.committers[store].due = false;
            self.note_write(store);
        }
    }

    /// Someone waits for the next commit of a store.
    pub(super) fn commit(&mut self, store: usize, waiter: Waiter, task: Task) {
        match task {
            Task::Flush if self.is(Mutant::FlushWithoutCommit) => return waiter.finish(Ok(None)),
            Task::Write(_) if self.is(Mutant::AckBeforeCommit) => {
                self.note_write(store);
                return waiter.finish(Ok(None));
            }
            Task::Write(_) if self.is(Mutant::JoinsRunningCommit) && self.committers[store].running => {
                self.committers[store].group.push((waiter, task));
                return;
            }
            _ => {}
        }
        let committer = &mut self.committers[store];
        committer.waiting.push((waiter, task));
        if !committer.running {
            let delay = self.random.between(2, 60);
            self.start(Operation::Begin(store), delay);
        }
    }

    pub(super) fn begin_commit(&mut self, store: usize) {
        let (now, committer) = (self.bus.now_us(), &mut self.committers[store]);
        let waits = committer.due || !committer.waiting.is_empty();
        if committer.running || !waits {
            return;
        }
        // Whoever commits waits for what another commit of the disk has under way.
        if self.committers.iter().any(|committer| committer.running) {
            self.start(Operation::Begin(store), 50);
            return;
        }
        let committer = &mut self.committers[store];
        committer.running = true;
        committer.due = false;
        committer.began_us = now;
        let group = std::mem::take(&mut committer.waiting);
        for (waiter, task) in group {
            let worker = waiter.handle.worker();
            match &task {
                Task::Lone(write) => {
                    let count = (write.bytes.len() / SECTOR_BYTES) as u64;
                    if let Some(fault) = self.write_fault(write.first, count, &waiter) {
                        waiter.finish(Err(fault));
                        continue;
                    }
                    self.apply(write.first, &write.bytes, false, worker);
                }
                Task::Trim(spans) => {
                    for &(first, count) in spans {
                        let more = u64::from(self.is(Mutant::TrimTooLong) && first + count < self.sectors);
                        self.apply(
                            first,
                            &vec![0; (count + more) as usize * SECTOR_BYTES],
                            false,
                            worker,
                        );
                    }
                }
                Task::Write(_) | Task::Flush => {}
            }
            self.committers[store].group.push((waiter, task));
        }
        let mut time = self.random.around(self.commit_us) + 2;
        if self.faults.slow {
            time *= 50;
        }
        self.start(Operation::Middle(store), time / 2);
    }

    /// Everything that is dirty now is on its way; what becomes dirty from here on is the next commit's.
    pub(super) fn middle_of_commit(&mut self, store: usize) {
        let taken = self.take_dirty();
        self.committers[store].taken = taken;
        let half = (self.bus.now_us() - self.committers[store].began_us).max(1);
        self.start(Operation::End(store), half);
    }

    fn take_dirty(&mut self) -> Vec<Taken> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .map(|(unit, acknowledged)| {
                let sectors = self.unit_sectors(unit);
                let bytes = self.seen
                    [sectors.start as usize * SECTOR_BYTES..sectors.end as usize * SECTOR_BYTES]
                    .to_vec();
                (unit, acknowledged, bytes)
            })
            .collect()
    }

    /// Puts what a commit took on the medium, or fails to; true: well.
    fn settle(&mut self, taken: Vec<Taken>) -> bool {
        let fails = self.faults.commit_fails || self.faults.gone;
        if fails && (!taken.is_empty() || self.kind != StoreKind::Mapped) {
            self.errors += 1;
            let bad = self.random.below(taken.len() as u64) as usize;
            for (at, (unit, acknowledged, bytes)) in taken.into_iter().enumerate() {
                if at == bad || self.random.one_in(3) {
                    self.lose(unit, acknowledged);
                } else {
                    self.harden(unit, &bytes);
                }
            }
            return false;
        }
        if self.is(Mutant::DiskLies) {
            return true;
        }
        for (unit, _, bytes) in taken {
            self.harden(unit, &bytes);
        }
        true
    }

    fn harden(&mut self, unit: u64, bytes: &[u8]) {
        let at = self.unit_sectors(unit).start as usize * SECTOR_BYTES;
        self.durable[at..][..bytes.len()].copy_from_slice(bytes);
    }

    /// The kernel marks what could not be written clean: nobody will write it again.
    fn lose(&mut self, unit: u64, acknowledged: bool) {
        if self.dirty.contains_key(&unit) {
            // It has been written to meanwhile and will be tried once more, with all that is in it.
            *self.dirty.entry(unit).or_default() |= acknowledged;
            return;
        }
        let sectors: Vec<u64> = self
            .unit_sectors(unit)
            .filter(|sector| self.seen(*sector) != self.durable(*sector))
            .collect();
        if acknowledged {
            self.lost.extend(&sectors);
        }
        let disk = self.number;
        self.bus
            .say(|| format!("disk {disk}: sectors {sectors:?} are lost by a failed commit"));
        self.bus.note(Note::Lost { disk, sectors });
    }

    pub(super) fn end_commit(&mut self, store: usize) {
        let taken = std::mem::take(&mut self.committers[store].taken);
        let well = self.settle(taken);
        let (now, errors, lost) = (self.bus.now_us(), self.errors, !self.lost.is_empty());
        let disk = self.number;
        self.bus.say(|| {
            format!(
                "disk {disk}: store {store}'s commit {}",
                if well { "is done" } else { "fails" }
            )
        });
        let told_once = self.is(Mutant::StickyErrorToldOnce);
        let only_group = self.is(Mutant::ErrorToRunningGroupOnly);
        let swallowed = self.is(Mutant::ErrorSwallowed) && self.random.one_in(2);
        let committer = &mut self.committers[store];
        committer.running = false;
        let failed = !swallowed && committer.told < errors;
        committer.told = errors;
        let mut group = std::mem::take(&mut committer.group);
        let mut flush_fails = failed;
        if failed {
            // The error may be another store's of this disk, told to each once.
            self.bus.note(Note::Lost {
                disk,
                sectors: Vec::new(),
            });
            if told_once {
                committer.owed = lost;
            } else {
                committer.poisoned |= lost;
            }
            if !only_group {
                group.append(&mut committer.waiting);
            }
        } else if told_once && group.iter().any(|(_, task)| matches!(task, Task::Flush)) {
            flush_fails = std::mem::take(&mut committer.owed);
        }
        let more = committer.due || !committer.waiting.is_empty();
        self.longest_commit_us = self.longest_commit_us.max(now - self.committers[store].began_us);
        for (waiter, task) in group {
            Self::answer(&waiter, &task, failed, flush_fails);
        }
        if more {
            self.start(Operation::Begin(store), 1);
        }
    }

    fn answer(waiter: &Waiter, task: &Task, failed: bool, flush_fails: bool) {
        let sector = match task {
            Task::Write(first) => *first,
            Task::Lone(write) => write.first,
            Task::Flush => waiter.base,
            Task::Trim(spans) => spans.first().map_or(waiter.base, |(first, _)| *first),
        };
        let fails = if matches!(task, Task::Flush) {
            flush_fails
        } else {
            failed
        };
        let result = if fails {
            Err(waiter.fault(FaultKind::Write, sector))
        } else {
            Ok(None)
        };
        waiter.finish(result);
    }

    /// Dirty pages are written back with nobody waiting. An error waits for the next commit of each store.
    pub(super) fn write_back(&mut self) {
        if self.kind == StoreKind::Mapped {
            let taken = self.take_dirty();
            self.settle(taken);
        }
    }

    /// Has the kernel write dirty pages back by itself soon.
    pub fn provoke_write_back(&mut self) {
        let delay = self.random.between(1, 20_000);
        self.start(Operation::WriteBack, delay);
    }

    /// The last commit of an orderly end, at once.
    pub(super) fn close_store(&mut self, store: usize) -> bool {
        let taken = self.take_dirty();
        let well = self.settle(taken) && self.committers[store].told == self.errors;
        let lost = !self.lost.is_empty();
        let committer = &mut self.committers[store];
        committer.told = self.errors;
        committer.poisoned |= lost && !well;
        committer.forget();
        well
    }

    /// Pages that a request meets, out of the cache now and then.
    pub(super) fn evict(&mut self, first: u64, count: u64) -> bool {
        let pages = first / PAGE..(first + count).div_ceil(PAGE);
        if self.random.chance(self.cold) {
            pages.clone().for_each(|page| {
                self.warm.remove(&page);
            });
        }
        self.cold > 0 && pages.clone().any(|page| !self.warm.contains(&page))
    }
}
