//! A disk: what reads see, what survives a power cut, and how it fails.
//!
//! Written is not durable: a write changes what reads see, and a commit carries that to the medium. What a power cut finds in
//! between is lost or kept sector by sector. A failed commit is told once to each committer, and the pages concerned are
//! clean afterwards, as on Linux.

mod blocks;
mod commit;
mod power;
mod store;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};

use aoe_common::wire::SECTOR_BYTES;

pub use self::commit::Committer;
pub use self::store::SimStore;
use self::transfer::Operation;
use crate::bus::{Bus, Event, Note, WorkerId};
use crate::mutants::Mutant;
use crate::plan::{ExportPlan, StoreKind};
use crate::random::Random;
use crate::stamp;

/// Sectors of a page of the page cache.
const PAGE: u64 = 8;

/// What is wrong with a disk at the moment.
#[derive(Debug, Default, Clone)]
pub struct DiskFaults {
    /// Takes fifty times as long.
    pub slow: bool,
    /// Finishes nothing.
    pub hung: bool,
    /// Commits fail.
    pub commit_fails: bool,
    /// Reads of these sectors fail.
    pub bad_reads: Option<(u64, u64)>,
    /// Writes to these sectors fail.
    pub bad_writes: Option<(u64, u64)>,
    /// Writes to sectors that hold zeros or their initial contents find no space.
    pub full: bool,
    /// Nothing is there any more.
    pub gone: bool,
    /// Only so many sectors are there.
    pub shrunk: Option<u64>,
}

impl DiskFaults {
    /// Whether an error may be told now.
    pub fn any(&self) -> bool {
        self.commit_fails
            || self.full
            || self.gone
            || self.bad_reads.is_some()
            || self.bad_writes.is_some()
            || self.shrunk.is_some()
    }
}

/// A disk with the stores on it.
#[derive(Debug)]
pub struct Disk {
    number: u8,
    bus: Bus,
    random: Random,
    mutant: Option<Mutant>,
    kind: StoreKind,
    io_us: u64,
    commit_us: u64,
    cold: u32,
    sectors: u64,
    /// Where its exports begin.
    bases: Vec<u64>,
    /// What reads see.
    seen: Vec<u8>,
    /// What survives a power cut.
    durable: Vec<u8>,
    /// Not on the medium yet; true: and a write-back write of it was acknowledged.
    dirty: BTreeMap<u64, bool>,
    /// Dropped by a failed commit although acknowledged.
    lost: BTreeSet<u64>,
    /// Failed commits of any kind.
    errors: u64,
    /// What is wrong.
    pub faults: DiskFaults,
    operations: BTreeMap<u64, Operation>,
    next_operation: u64,
    /// Operations that ended while the disk hung.
    stuck: Vec<u64>,
    blocks: blocks::Blocks,
    committers: Vec<Committer>,
    /// Who was asked to repeat a call.
    granted: BTreeSet<(WorkerId, u64)>,
    warm: BTreeSet<u64>,
    /// The longest that a commit has taken.
    pub longest_commit_us: u64,
}

fn sector_of(bytes: &[u8], number: u64) -> &[u8] {
    &bytes[number as usize * SECTOR_BYTES..][..SECTOR_BYTES]
}

impl Disk {
    /// A disk of so many sectors that holds stamps of before the first write.
    pub fn new(
        number: u8,
        plan: &ExportPlan,
        sectors: u64,
        seed: u64,
        bus: &Bus,
        mutant: Option<Mutant>,
    ) -> Disk {
        let seen = vec![0; sectors as usize * SECTOR_BYTES];
        Disk {
            number,
            bus: bus.clone(),
            random: Random::stream(seed, 0x6469_736b_0000 + u64::from(number)),
            mutant,
            kind: plan.store,
            io_us: plan.io_us,
            commit_us: plan.commit_us,
            cold: plan.cold,
            sectors,
            bases: Vec::new(),
            durable: seen.clone(),
            seen,
            dirty: BTreeMap::new(),
            lost: BTreeSet::new(),
            errors: 0,
            faults: DiskFaults::default(),
            operations: BTreeMap::new(),
            next_operation: 0,
            stuck: Vec::new(),
            blocks: blocks::Blocks::default(),
            committers: Vec::new(),
            granted: BTreeSet::new(),
            warm: BTreeSet::new(),
            longest_commit_us: 0,
        }
    }

    /// An export begins at this sector: its contents before the first write.
    pub fn begin_export(&mut self, base: u64, sectors: u64) {
        self.bases.push(base);
        let stamps = stamp::sectors(stamp::INITIAL, 0, sectors);
        let at = base as usize * SECTOR_BYTES;
        self.seen[at..][..stamps.len()].copy_from_slice(&stamps);
        self.durable[at..][..stamps.len()].copy_from_slice(&stamps);
    }

    /// What a sector of the disk holds, for the export that it belongs to.
    fn value(&self, sector: u64, bytes: &[u8]) -> stamp::Value {
        let base = self
            .bases
            .iter()
            .filter(|base| **base <= sector)
            .max()
            .copied()
            .unwrap_or(0);
        stamp::value(sector - base, bytes)
    }

    /// Whether trimmed sectors read as zeros for certain.
    pub fn zeroes_after_trim(&self) -> bool {
        self.block() == 1
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Sectors that are there now.
    pub fn sectors(&self) -> u64 {
        self.faults.shrunk.unwrap_or(self.sectors)
    }

    /// What reads of a sector see.
    pub fn seen(&self, sector: u64) -> &[u8] {
        &self.seen[sector as usize * SECTOR_BYTES..][..SECTOR_BYTES]
    }

    /// What a power cut would leave of a sector.
    pub fn durable(&self, sector: u64) -> &[u8] {
        &self.durable[sector as usize * SECTOR_BYTES..][..SECTOR_BYTES]
    }

    /// What reads of these sectors see.
    pub fn bytes(&self, first: u64, count: u64) -> Vec<u8> {
        self.seen[first as usize * SECTOR_BYTES..][..count as usize * SECTOR_BYTES].to_vec()
    }

    /// Writes to the medium at once, as a cluster does that answers when all replicas have it.
    pub fn put(&mut self, first: u64, bytes: &[u8], worker: WorkerId) {
        self.apply(first, bytes, true, worker);
        self.durable[first as usize * SECTOR_BYTES..][..bytes.len()].copy_from_slice(bytes);
        self.dirty.clear();
    }

    /// Sectors that were acknowledged, dropped, and not written since.
    pub fn lost(&self) -> &BTreeSet<u64> {
        &self.lost
    }

    /// Blocks or pages are dirty by these.
    fn unit(&self) -> u64 {
        match self.kind {
            StoreKind::Mapped => PAGE,
            StoreKind::Direct { .. } => 1,
        }
    }

    /// The sectors of a unit that exist.
    fn unit_sectors(&self, unit: u64) -> std::ops::Range<u64> {
        unit * self.unit()..((unit + 1) * self.unit()).min(self.sectors)
    }

    /// Puts bytes where reads see them.
    fn apply(&mut self, first: u64, bytes: &[u8], acknowledged: bool, worker: WorkerId) {
        let count = (bytes.len() / SECTOR_BYTES) as u64;
        let disk = self.number;
        // What is written back as it was around a smaller write is nobody's doing.
        let changed = |at: &u64| self.seen(*at) != sector_of(bytes, at - first);
        let mut at = first;
        while let Some(begin) = (at..first + count).find(changed) {
            let same = |at: &u64| !changed(at);
            at = (begin..first + count).find(same).unwrap_or(first + count);
            let values = (begin..at).map(|at| self.value(at, sector_of(bytes, at - first)));
            self.bus.note(Note::Applied {
                disk,
                first: begin,
                values: values.collect(),
                worker,
            });
        }
        self.change(first, bytes, acknowledged);
        self.bus.say(|| {
            let values: Vec<String> = bytes
                .chunks(SECTOR_BYTES)
                .zip(first..)
                .map(|(bytes, at)| stamp::name(self.value(at, bytes)))
                .collect();
            format!(
                "disk {disk}: sectors {first}+{count} become {}",
                values.join(", ")
            )
        });
    }

    /// Puts bytes where reads see them, with nobody watching.
    fn change(&mut self, first: u64, bytes: &[u8], acknowledged: bool) {
        let count = (bytes.len() / SECTOR_BYTES) as u64;
        self.seen[first as usize * SECTOR_BYTES..][..bytes.len()].copy_from_slice(bytes);
        let unit = self.unit();
        for unit in first / unit..(first + count).div_ceil(unit) {
            *self.dirty.entry(unit).or_default() |= acknowledged;
        }
        for sector in first..first + count {
            self.lost.remove(&sector);
        }
    }

    /// How long an operation takes now.
    fn io_time(&mut self) -> u64 {
        let time = self.random.around(self.io_us) + 1;
        if self.faults.slow { time * 50 } else { time }
    }

    /// Starts an operation that goes on after a time.
    fn start(&mut self, operation: Operation, delay_us: u64) -> u64 {
        let number = self.next_operation;
        self.next_operation += 1;
        self.operations.insert(number, operation);
        self.bus.after(delay_us, Event::Disk(self.number, number));
        number
    }

    /// Goes on with an operation: its time has come.
    pub fn event(&mut self, number: u64) {
        if self.faults.hung {
            self.stuck.push(number);
            return;
        }
        if let Some(operation) = self.operations.remove(&number) {
            self.go_on(number, operation);
        }
    }

    /// What waited for the disk to come back goes on, in any order.
    pub fn unstick(&mut self) {
        for number in std::mem::take(&mut self.stuck) {
            let delay = self.random.between(1, self.io_us.max(1) * 4);
            self.bus.after(delay, Event::Disk(self.number, number));
        }
    }

    /// The operator accepts what was lost: writes are taken again. Reads see what the medium has from now on, until a write that had
    /// read around itself before puts a lost sector of its block back.
    pub fn accept(&mut self) {
        self.committers.iter_mut().for_each(Committer::accept);
        for sector in std::mem::take(&mut self.lost) {
            let at = sector as usize * SECTOR_BYTES;
            let durable = self.durable[at..][..SECTOR_BYTES].to_vec();
            self.seen[at..][..SECTOR_BYTES].copy_from_slice(&durable);
            let (disk, values) = (self.number, vec![self.value(sector, &durable)]);
            self.bus.note(if self.is_put_back(sector) {
                let sectors = vec![sector];
                Note::Lost { disk, sectors }
            } else {
                Note::Applied {
                    disk,
                    first: sector,
                    values,
                    worker: WorkerId::MAX,
                }
            });
        }
    }

    /// Whether a write under way has read this sector around its own, and writes it again.
    fn is_put_back(&self, sector: u64) -> bool {
        self.operations.values().any(|operation| match operation {
            Operation::Put(write, first, bytes) => {
                let end = first + (bytes.len() / SECTOR_BYTES) as u64;
                (*first..end).contains(&sector) && !write.sectors().contains(&sector)
            }
            _ => false,
        })
    }

    /// Whether a store of this disk refuses writes because acknowledged ones are lost.
    pub fn is_poisoned(&self) -> bool {
        self.committers.iter().any(Committer::is_poisoned)
    }

    /// True while an error that was noticed has not been told to everybody whom it concerns.
    pub fn owes_errors(&self) -> bool {
        self.committers
            .iter()
            .any(|committer| committer.owes(self.errors))
            || self.is_poisoned()
    }
}
