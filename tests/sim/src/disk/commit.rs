//! The real committer's machine ([`CommitMachine`]) on a simulated disk: this is its thread, and the kernel below it.
//!
//! What the machine knows of a loss outlives the process, as the mark in the state directory does.

use std::collections::BTreeSet;
use std::time::Duration;

use aoe_common::wire::SECTOR_BYTES;
use engine::{Extent, FaultKind};
use store::commit::machine::{
    CommitAction, CommitAnswer, CommitMachine, Epoch, Failed, Failure, Member, OnLostWrite, Wish,
};

use super::transfer::{Operation, Waiter, Write};
use super::{Disk, PAGE};
use crate::bus::{Note, WorkerId};
use crate::mutants::Mutant;
use crate::plan::StoreKind;

/// What the disk says.
const EIO: i32 = 5;

/// What is waited for.
#[derive(Debug)]
pub(super) enum Task {
    /// A write that reads see already; its first sector, and its stamp.
    Write(u64, Epoch),
    /// A write to be made before the commit.
    Lone(Box<Write>),
    /// Everything that was answered before.
    Flush,
    /// Sectors to be zeroed before the commit: first and count.
    Trim(Vec<(u64, u64)>),
}

impl Task {
    fn wish(&self) -> Wish {
        match self {
            Task::Write(_, epoch) => Wish::Made(*epoch),
            Task::Lone(_) | Task::Trim(_) => Wish::Unmade,
            Task::Flush => Wish::Flush,
        }
    }
}

/// Who waits for a commit, and for what.
type Who = (Waiter, Task);

/// A unit as it was when the commit took it: its number, whether acknowledged data is in it, its bytes.
type Taken = (u64, bool, Vec<u8>);

/// Commits for one store.
#[derive(Debug)]
pub struct Committer {
    flush_interval: Duration,
    machine: CommitMachine<Who>,
    group: Vec<Member<Who>>,
    /// What the running commit writes.
    taken: Vec<Taken>,
    /// The kernel carries a commit out, perhaps for a process that is gone.
    running: bool,
    /// The machine knows of write-back data that no commit covers.
    noted: bool,
    began_us: u64,
    /// How long each half of it takes, while the disk answers.
    half_us: u64,
    /// Errors of the disk that this one has told.
    told: u64,
    /// Errors that a flush has to be told of (the design of a mutant).
    owed: bool,
    /// Who came while a commit ran, and is spared its error (the design of a mutant).
    spared: Vec<Who>,
}

impl Committer {
    pub(super) fn new(flush_interval_ms: u64) -> Committer {
        Committer {
            flush_interval: Duration::from_millis(flush_interval_ms),
            machine: CommitMachine::new(Duration::from_millis(flush_interval_ms), OnLostWrite::Stop, None),
            group: Vec::new(),
            taken: Vec::new(),
            running: false,
            noted: false,
            began_us: 0,
            half_us: 0,
            told: 0,
            owed: false,
            spared: Vec::new(),
        }
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.machine.is_stopped()
    }

    /// The stamp of a write that begins to enter the cache now.
    pub(super) fn epoch(&self) -> Epoch {
        self.machine.epoch()
    }

    /// Write-back writes are answered when they are committed.
    pub(super) fn is_late(&self, now_us: u64) -> bool {
        let now = Duration::from_micros(now_us);
        self.machine.late_at().is_some_and(|late_at| now >= late_at)
    }

    pub(super) fn owes(&self, errors: u64) -> bool {
        self.told < errors || self.owed
    }

    pub(super) fn accept(&mut self) {
        self.machine.accept();
        self.owed = false;
    }

    /// Nobody waits and nothing runs.
    pub(super) fn is_quiet(&self) -> bool {
        !self.running && self.machine.is_quiet()
    }

    /// Writes and trims yet to be made for a worker.
    pub(super) fn writes_of(&self, worker: WorkerId) -> usize {
        let to_be_made = |(waiter, task): &&Who| {
            waiter.handle.worker() == worker && matches!(task, Task::Lone(_) | Task::Trim(_))
        };
        self.machine.waiting().filter(to_be_made).count()
    }

    /// Sectors that writes yet to be made will change.
    pub(super) fn lone_writes(&self) -> impl Iterator<Item = (u64, u64, bool)> + '_ {
        self.machine.waiting().flat_map(|(_, task)| match task {
            Task::Lone(write) => vec![(
                write.first,
                write.first + (write.bytes.len() / SECTOR_BYTES) as u64,
                true,
            )],
            Task::Trim(spans) => spans
                .iter()
                .map(|(first, count)| (*first, first + count, true))
                .collect(),
            Task::Write(..) | Task::Flush => Vec::new(),
        })
    }

    /// When the commit began that runs now.
    pub(super) fn running_since(&self) -> Option<u64> {
        self.running.then_some(self.began_us)
    }

    /// The power is gone: what the running commit had under way.
    pub(super) fn take_running(&mut self) -> Vec<Taken> {
        self.running = false;
        std::mem::take(&mut self.taken)
    }

    /// The process is gone; what the kernel has begun goes on.
    pub(super) fn forget(&mut self) {
        let lost = self.machine.lost().cloned();
        self.machine = CommitMachine::new(self.flush_interval, OnLostWrite::Stop, lost);
        self.group.clear();
        self.spared.clear();
        self.noted = false;
        self.owed = false;
    }
}

impl Disk {
    /// Write-back data of a store waits for a commit.
    pub(super) fn note_write(&mut self, store: usize) {
        let now = Duration::from_micros(self.bus.now_us());
        let committer = &mut self.committers[store];
        if !std::mem::replace(&mut committer.noted, true) {
            committer.machine.acknowledged(now);
            // A little more, so that it is due by then.
            let delay = committer.flush_interval.as_micros() as u64 / 2 + 1;
            self.start(Operation::Begin(store), delay);
        }
    }

    /// A new process begins with committing what an old one left.
    pub(super) fn commit_leftovers(&mut self, store: usize) {
        if !self.dirty.is_empty() && !self.is(Mutant::LeftoversNotCommitted) {
            let now = Duration::from_micros(self.bus.now_us());
            self.committers[store].machine.commit_leftovers(now);
            self.start(Operation::Begin(store), 1);
        }
    }

    /// Someone waits for the next commit of a store.
    pub(super) fn commit(&mut self, store: usize, waiter: Waiter, task: Task) {
        match task {
            Task::Flush if self.is(Mutant::FlushWithoutCommit) => return waiter.finish(Ok(None)),
            Task::Write(..) if self.is(Mutant::AckBeforeCommit) => {
                self.note_write(store);
                return waiter.finish(Ok(None));
            }
            Task::Write(..) if self.is(Mutant::JoinsRunningCommit) && self.committers[store].running => {
                let wish = task.wish();
                let who = (waiter, task);
                self.committers[store].group.push(Member { who, wish });
                return;
            }
            Task::Write(..) if self.is(Mutant::ErrorToRunningGroupOnly) && self.committers[store].running => {
                self.committers[store].spared.push((waiter, task));
                return;
            }
            _ => {}
        }
        let committer = &mut self.committers[store];
        let wish = task.wish();
        if let Some(refused) = committer.machine.join((waiter, task), wish) {
            return Self::answer(refused);
        }
        if !committer.running {
            let delay = self.random.between(2, 60);
            self.start(Operation::Begin(store), delay);
        }
    }

    pub(super) fn begin_commit(&mut self, store: usize) {
        let now = self.bus.now_us();
        let committer = &self.committers[store];
        if committer.running || !committer.machine.wants_commit(Duration::from_micros(now)) {
            return;
        }
        // Whoever commits waits for what another commit of the disk has under way.
        if self.committers.iter().any(|committer| committer.running) {
            self.start(Operation::Begin(store), 50);
            return;
        }
        let committer = &mut self.committers[store];
        let CommitAction::Commit(group) = committer.machine.poll(Duration::from_micros(now)) else {
            return;
        };
        committer.running = true;
        committer.noted = false;
        committer.began_us = now;
        for member in group {
            let (waiter, task) = &member.who;
            let worker = waiter.handle.worker();
            match task {
                Task::Lone(write) => {
                    let count = (write.bytes.len() / SECTOR_BYTES) as u64;
                    if let Some(fault) = self.write_fault(write.first, count, waiter) {
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
                Task::Write(..) | Task::Flush => {}
            }
            self.committers[store].group.push(member);
        }
        let mut time = self.random.around(self.commit_us) + 2;
        if self.faults.slow {
            time *= 50;
        }
        self.committers[store].half_us = time / 2;
        self.start(Operation::Middle(store), time / 2);
    }

    /// Everything that is dirty now is on its way; what becomes dirty from here on is the next commit's.
    pub(super) fn middle_of_commit(&mut self, store: usize) {
        let taken = self.take_dirty();
        self.committers[store].taken = taken;
        let half_us = self.committers[store].half_us;
        self.start(Operation::End(store), half_us);
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
        let swallowed = self.is(Mutant::ErrorSwallowed) && self.random.one_in(2);
        let committer = &mut self.committers[store];
        committer.running = false;
        let failed = !swallowed && committer.told < errors;
        committer.told = errors;
        if failed {
            // The error may be another store's of this disk, told to each once.
            self.bus.note(Note::Lost {
                disk,
                sectors: Vec::new(),
            });
        }
        self.tell(store, failed.then_some(lost));
        self.longest_commit_us = self.longest_commit_us.max(now - self.committers[store].began_us);
        // Whatever waits or is due.
        self.start(Operation::Begin(store), 1);
    }

    /// Tells the machine how its commit went, and everybody what it says to that; a failure with whether acknowledged data is lost.
    fn tell(&mut self, store: usize, failed: Option<bool>) {
        let told_once = self.is(Mutant::StickyErrorToldOnce);
        let all = Extent {
            lba: 0,
            count: self.sectors,
        };
        let committer = &mut self.committers[store];
        let result = match failed {
            None => Ok(()),
            Some(lost) => Err(Failed {
                cause: None,
                errno: EIO,
                lost: lost.then_some(all),
            }),
        };
        let group = std::mem::take(&mut committer.group);
        let mut answers = committer.machine.done(group, result);
        if told_once {
            committer.machine.accept();
            let mut owed = std::mem::replace(&mut committer.owed, failed == Some(true));
            for answer in answers
                .iter_mut()
                .filter(|answer| matches!(answer.who.1, Task::Flush))
            {
                if failed.is_none() && std::mem::take(&mut owed) {
                    answer.result = Err(Failure::Commit(EIO));
                }
            }
            committer.owed |= owed && failed.is_none();
        }
        let epoch = committer.machine.epoch();
        for (waiter, task) in std::mem::take(&mut committer.spared) {
            let refused = committer.machine.join((waiter, task), Wish::Made(epoch));
            answers.extend(refused);
        }
        answers.into_iter().for_each(Self::answer);
    }

    fn answer(CommitAnswer { who, result }: CommitAnswer<Who>) {
        let (waiter, task) = who;
        let sector = match &task {
            Task::Write(first, _) => *first,
            Task::Lone(write) => write.first,
            Task::Flush => waiter.base,
            Task::Trim(spans) => spans.first().map_or(waiter.base, |(first, _)| *first),
        };
        let fault = |_| waiter.fault(FaultKind::Write, sector);
        waiter.finish(result.map(|()| None).map_err(fault));
    }

    /// Dirty pages are written back with nobody waiting. An error waits for the next commit of each store.
    pub(super) fn write_back(&mut self) {
        if self.kind == StoreKind::Mapped {
            // A page that a commit has under way is not written a second time until that is over.
            let under_way = self.committers.iter().flat_map(|committer| &committer.taken);
            let under_way: BTreeSet<u64> = under_way.map(|(unit, ..)| *unit).collect();
            let (held, free) = std::mem::take(&mut self.dirty)
                .into_iter()
                .partition(|(unit, _)| under_way.contains(unit));
            self.dirty = free;
            let taken = self.take_dirty();
            self.dirty = held;
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
        self.committers[store].told = self.errors;
        self.tell(store, (!well).then_some(lost));
        self.committers[store].forget();
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
