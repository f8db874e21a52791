//! A store that fails where a test says so: a bad disk without root, kernel modules or a preloaded library.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Completion, Durability, Event, Extent, Fault, FaultKind, Lane, Step, Store, Token, Traits};

/// Wraps a store; without instructions it does what the inner one does.
///
/// A failed flush or durable write behaves as the real stores do: it is told to whom it concerns, and to the next
/// flush after the disk has recovered as well.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
    /// A failed commit that no successful flush has told yet.
    owed: AtomicBool,
    injected: AtomicU64,
}

#[derive(Debug, Default)]
struct Plan {
    reads: Vec<(Range<u64>, i32)>,
    writes: Vec<(Range<u64>, i32)>,
    commits: Option<i32>,
    gone: bool,
}

impl FaultyStore {
    /// Does as `inner` until told otherwise.
    pub fn new(inner: Arc<dyn Store>) -> Arc<FaultyStore> {
        Arc::new(FaultyStore {
            inner,
            plan: Mutex::default(),
            owed: AtomicBool::new(false),
            injected: AtomicU64::new(0),
        })
    }

    /// Reads that touch these sectors fail with `errno`, at the first bad one.
    pub fn fail_reads(&self, sectors: Range<u64>, errno: i32) {
        self.plan.lock().reads.push((sectors, errno));
    }

    /// Writes and trims that touch these sectors fail with `errno`, at the first bad one.
    pub fn fail_writes(&self, sectors: Range<u64>, errno: i32) {
        self.plan.lock().writes.push((sectors, errno));
    }

    /// Flushes and durable writes fail with `errno` from now on.
    pub fn fail_commits(&self, errno: i32) {
        self.plan.lock().commits = Some(errno);
    }

    /// The whole device is gone.
    pub fn pull_out(&self) {
        self.plan.lock().gone = true;
    }

    /// The disk is well again.
    pub fn heal(&self) {
        *self.plan.lock() = Plan::default();
    }

    /// Faults given so far.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    fn fault(&self, kind: FaultKind, lba: u64, errno: i32) -> Fault {
        self.injected.fetch_add(1, Ordering::Relaxed);
        Fault {
            kind,
            lba,
            source: io::Error::from_raw_os_error(errno),
        }
    }

    fn check(&self, kind: FaultKind, extent: Extent) -> Result<(), Fault> {
        let plan = self.plan.lock();
        if plan.gone {
            return Err(self.fault(FaultKind::Gone, extent.lba, libc::ENXIO));
        }
        let bad = match kind {
            FaultKind::Read => &plan.reads,
            _ => &plan.writes,
        };
        let hit = bad
            .iter()
            .filter(|(sectors, _)| sectors.start < extent.end() && extent.lba < sectors.end)
            .map(|(sectors, errno)| (sectors.start.max(extent.lba), *errno))
            .min();
        match hit {
            Some((lba, errno)) => Err(self.fault(kind, lba, errno)),
            None => Ok(()),
        }
    }

    fn check_commit(&self, lba: u64) -> Result<(), Fault> {
        let commits = self.plan.lock().commits;
        match commits {
            Some(errno) => {
                self.owed.store(true, Ordering::Relaxed);
                Err(self.fault(FaultKind::Write, lba, errno))
            }
            None => Ok(()),
        }
    }
}

impl Store for FaultyStore {
    fn sectors(&self) -> u64 {
        self.inner.sectors()
    }

    fn refresh(&self) -> io::Result<u64> {
        self.inner.refresh()
    }

    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn read(
        &self,
        lane: &mut Lane,
        token: Token,
        extent: Extent,
        into: &mut [&mut [u8]],
    ) -> Result<Step, Fault> {
        self.check(FaultKind::Read, extent)?;
        self.inner.read(lane, token, extent, into)
    }

    fn write(
        &self,
        lane: &mut Lane,
        token: Token,
        extent: Extent,
        from: &[&[u8]],
        durability: Durability,
    ) -> Result<Step, Fault> {
        self.check(FaultKind::Write, extent)?;
        if durability == Durability::Durable
            && let Err(fault) = self.check_commit(extent.lba)
        {
            // Later, as a real commit fails.
            return Ok(post(lane, token, Err(fault)));
        }
        self.inner.write(lane, token, extent, from, durability)
    }

    fn flush(&self, lane: &mut Lane, token: Token) -> Result<Step, Fault> {
        self.check(FaultKind::Write, Extent { lba: 0, count: 0 })?;
        let result = match self.check_commit(0) {
            Ok(()) if self.owed.swap(false, Ordering::Relaxed) => {
                Err(self.fault(FaultKind::Write, 0, libc::EIO))
            }
            Ok(()) => return self.inner.flush(lane, token),
            Err(fault) => Err(fault),
        };
        Ok(post(lane, token, result))
    }

    fn trim(&self, lane: &mut Lane, token: Token, extents: &[Extent]) -> Result<Step, Fault> {
        for extent in extents {
            self.check(FaultKind::Write, *extent)?;
        }
        self.inner.trim(lane, token, extents)
    }

    fn verify(&self, lane: &mut Lane, token: Token, extent: Extent) -> Result<Step, Fault> {
        self.check(FaultKind::Read, extent)?;
        self.inner.verify(lane, token, extent)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.inner.counters();
        counters.push(("injected", self.injected()));
        counters
    }

    fn close(&self) -> io::Result<()> {
        match self.check_commit(0) {
            Ok(()) => self.inner.close(),
            Err(fault) => Err(fault.source),
        }
    }
}

fn post(lane: &Lane, token: Token, result: Result<(), Fault>) -> Step {
    lane.mailbox().post(Completion {
        token,
        event: Event::Finished(result.map(|()| None)),
    });
    Step::Later
}

#[cfg(test)]
mod tests {
    use super::super::tests::Driver;
    use super::super::{StoreKind, StoreOptions, open};
    use super::*;

    fn faulty() -> (Arc<FaultyStore>, Driver) {
        let options = StoreOptions {
            length: 100,
            ..StoreOptions::new(StoreKind::Ram, "/nonexistent/xblade-test")
        };
        let store = FaultyStore::new(open(&options).unwrap());
        let driver = Driver::new(&(Arc::clone(&store) as Arc<dyn Store>));
        (store, driver)
    }

    #[test]
    fn the_first_bad_sector_is_named_and_healing_helps() {
        let (store, mut driver) = faulty();
        store.fail_reads(10..12, libc::EIO);
        store.fail_writes(20..21, libc::ENOSPC);
        assert!(driver.read(0, 10).is_ok());
        let fault = driver.read(8, 8).unwrap_err();
        assert_eq!((fault.kind, fault.lba), (FaultKind::Read, 10));
        assert_eq!(driver.read(11, 1).unwrap_err().lba, 11);
        let fault = driver.write(19, &[0; 1024], Durability::WriteBack).unwrap_err();
        assert_eq!((fault.kind, fault.lba), (FaultKind::Write, 20));
        assert_eq!(fault.source.raw_os_error(), Some(libc::ENOSPC));
        store.pull_out();
        assert_eq!(driver.read(50, 1).unwrap_err().kind, FaultKind::Gone);
        store.heal();
        assert!(driver.read(8, 8).is_ok());
        assert_eq!(store.injected(), 4);
    }

    #[test]
    fn a_failed_commit_is_told_to_the_next_flush_too() {
        let (store, mut driver) = faulty();
        store.fail_commits(libc::EIO);
        assert!(driver.write(1, &[1; 512], Durability::Durable).is_err());
        assert!(driver.write(1, &[1; 512], Durability::WriteBack).is_ok());
        assert!(driver.flush().is_err());
        store.heal();
        assert!(driver.flush().is_err(), "owed");
        assert!(driver.flush().is_ok());
    }
}
