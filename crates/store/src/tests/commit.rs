//! Group commit and write-back on a medium that does what the test says.

use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::driver::counter;
use super::faults::patiently;
use super::{Driver, image, stamp};
use crate::commit::machine::{Epoch, OnLostWrite};
use crate::commit::policy::{Losses, Policy};
use crate::commit::{Committer, Medium, Task, UnmadeTransfer, Waiter};
use crate::completion_queue::CompletionQueue;
use crate::io::buffer::Buffer;
use crate::io::threads::Threads;
use crate::io::transfer::{Direction, Transfer};
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};
use engine::{Completions as _, Durability, Event, Extent, Fault, FaultKind, Health, LostWrites, Step};

#[derive(Debug, Default)]
pub(super) struct Fake {
    pub(super) commits: AtomicU64,
    /// What commits fail with; 0: they succeed.
    pub(super) errno: AtomicI32,
    slow_ms: u64,
    /// Somebody cut the file short.
    is_cut: AtomicBool,
}

impl Medium for Fake {
    fn commit(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(self.slow_ms));
        self.commits.fetch_add(1, SeqCst);
        match self.errno.load(SeqCst) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn take_cut(&self) -> Option<Extent> {
        let extent = Extent { lba: 5000, count: 8 };
        self.is_cut.swap(false, SeqCst).then_some(extent)
    }

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        Fault {
            kind: FaultKind::Write,
            lba,
            source,
        }
    }

    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn name(&self) -> String {
        "fake".to_owned()
    }
}

const SECTORS: u64 = 1 << 24;

pub(super) fn policy(interval: Duration) -> Policy {
    Policy {
        flush_interval: interval,
        on_lost_write: OnLostWrite::Stop,
        losses: Losses::default(),
        leftovers: false,
    }
}

fn with_policy(slow_ms: u64, policy: Policy) -> (Arc<Fake>, Arc<Committer>) {
    let fake = Arc::new(Fake {
        slow_ms,
        ..Fake::default()
    });
    let committer = Committer::new(
        Arc::clone(&fake) as Arc<dyn Medium>,
        policy,
        &Threads::new().unwrap(),
    );
    (fake, committer)
}

pub(super) fn committer(slow_ms: u64, interval: Duration) -> (Arc<Fake>, Arc<Committer>) {
    with_policy(slow_ms, policy(interval))
}

/// A durable write that is in the cache.
fn durable(committer: &Committer, lba: u64) -> Task {
    Task::Write(lba, committer.enter(lba).unwrap())
}

/// A write-back write, answered.
fn write_back(committer: &Arc<Committer>, lba: u64) -> Result<(), Fault> {
    let entered = committer.enter(lba)?;
    committer.acknowledge(Extent { lba, count: 1 }, entered)
}

/// The loss that stands.
fn lost(committer: &Committer) -> Option<LostWrites> {
    match committer.health() {
        Health::Healthy => None,
        Health::LostWrites(lost) => Some(lost),
        other => panic!("{other:?}"),
    }
}

/// Waits for `count` ends; true for those that succeeded, by token.
pub(super) fn ends(queue: &mut CompletionQueue, count: usize) -> Vec<(u64, bool)> {
    let limit = Instant::now() + Duration::from_secs(60);
    let mut ends = Vec::new();
    while ends.len() < count {
        assert!(Instant::now() < limit, "{} of {count} ends", ends.len());
        match queue.next() {
            Some(completion) => match completion.event {
                Event::Finished(result) => ends.push((completion.token, result.is_ok())),
                Event::Again => panic!("a commit never asks to come again"),
            },
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    ends.sort_unstable();
    ends
}

pub(super) fn submit(committer: &Arc<Committer>, queue: &CompletionQueue, token: u64, task: Task) {
    committer.submit([Waiter::new(queue.handle(), token, task)]);
}

#[test]
fn all_that_wait_share_a_commit() {
    let (fake, committer) = committer(30, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    for token in 0..100 {
        submit(&committer, &queue, token, durable(&committer, token));
    }
    assert!(ends(&mut queue, 100).iter().all(|(_, ok)| *ok));
    // The first goes alone or with some; the rest while it runs.
    assert!(
        fake.commits.load(SeqCst) <= 3,
        "{} commits for 100 writes",
        fake.commits.load(SeqCst)
    );
}

#[test]
fn a_failed_commit_is_told_to_all_it_covered_and_to_nobody_else() {
    let (fake, committer) = committer(0, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    fake.errno.store(libc::EIO, SeqCst);
    committer.submit((0..3).map(|token| {
        let task = if token == 2 {
            Task::Flush
        } else {
            durable(&committer, token)
        };
        Waiter::new(queue.handle(), token, task)
    }));
    assert_eq!(ends(&mut queue, 3), [(0, false), (1, false), (2, false)]);
    // The disk is well again. Nothing that was acknowledged is lost: each of them was told.
    fake.errno.store(0, SeqCst);
    assert_eq!(lost(&committer), None);
    submit(&committer, &queue, 3, durable(&committer, 9));
    submit(&committer, &queue, 4, Task::Flush);
    assert_eq!(ends(&mut queue, 2), [(3, true), (4, true)]);
}

/// What enters the cache while a commit is failing may be on a page that the kernel gave up: the next commit finds nothing to write.
#[test]
fn a_failure_takes_down_what_entered_before_it_returned() {
    let (fake, committer) = committer(0, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    let entered_before = durable(&committer, 1);
    let acknowledged_late = committer.enter(2).unwrap();
    fake.errno.store(libc::EIO, SeqCst);
    submit(&committer, &queue, 0, durable(&committer, 0));
    assert_eq!(ends(&mut queue, 1), [(0, false)]);
    fake.errno.store(0, SeqCst);
    submit(&committer, &queue, 1, entered_before);
    submit(&committer, &queue, 2, durable(&committer, 1));
    assert_eq!(ends(&mut queue, 2), [(1, false), (2, true)]);
    let late = committer.acknowledge(Extent { lba: 2, count: 1 }, acknowledged_late);
    assert!(late.is_err(), "acknowledged although it may be lost");
}

#[test]
fn a_lost_write_stops_the_store_until_it_is_accepted() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&told);
    let mut policy = policy(Duration::from_millis(10));
    policy.losses.told = Some(Arc::new(move |lost: &LostWrites| {
        keeper.lock().push(lost.clone());
    }));
    let (fake, committer) = with_policy(0, policy);
    let mut queue = CompletionQueue::new().unwrap();
    fake.errno.store(libc::EIO, SeqCst);
    write_back(&committer, 70_000).unwrap();
    write_back(&committer, 90_000).unwrap();
    patiently("lost", || lost(&committer).is_some());
    fake.errno.store(0, SeqCst);
    let loss = lost(&committer).unwrap();
    let (extent, region) = (loss.extent, SECTORS / 4096);
    assert!(
        loss.stopped && extent.lba <= 70_000 && extent.end() > 90_000,
        "{loss:?}"
    );
    assert!(
        extent.lba + region > 70_000 && extent.end() <= 90_000 + region,
        "{loss:?}"
    );
    assert!(loss.to_string().contains("os error 5"), "{loss}");
    // The same answer, whoever asks and how often.
    for token in 0..3 {
        submit(&committer, &queue, token, Task::Flush);
        submit(&committer, &queue, token + 10, Task::Write(9, Epoch(0)));
        assert_eq!(ends(&mut queue, 2), [(token, false), (token + 10, false)]);
        assert!(committer.enter(5).is_err());
    }
    assert_eq!(committer.close().unwrap_err().to_string(), loss.to_string());
    committer.accept_lost_writes();
    write_back(&committer, 7).unwrap();
    submit(&committer, &queue, 3, Task::Flush);
    assert_eq!(ends(&mut queue, 1), [(3, true)]);
    committer.close().unwrap();
    assert_eq!(*told.lock(), [loss], "told once");
}

#[test]
fn a_store_may_go_on_after_a_loss_but_flushes_do_not_pass_it_over() {
    let mut policy = policy(Duration::from_millis(10));
    policy.on_lost_write = OnLostWrite::Continue;
    let (fake, committer) = with_policy(0, policy);
    let mut queue = CompletionQueue::new().unwrap();
    fake.errno.store(libc::EIO, SeqCst);
    write_back(&committer, 1).unwrap();
    patiently("lost", || lost(&committer).is_some());
    fake.errno.store(0, SeqCst);
    patiently("the next commit does well", || {
        submit(&committer, &queue, 0, durable(&committer, 5));
        ends(&mut queue, 1) == [(0, true)]
    });
    write_back(&committer, 1).unwrap();
    submit(&committer, &queue, 1, Task::Flush);
    submit(&committer, &queue, 2, Task::Flush);
    assert_eq!(ends(&mut queue, 2), [(1, false), (2, false)]);
}

#[test]
fn a_loss_of_an_earlier_process_stands() {
    let mut policy = policy(Duration::from_secs(60));
    let known = LostWrites {
        extent: Extent { lba: 3, count: 4 },
        cause: "an earlier one".to_owned(),
        stopped: true,
    };
    policy.losses.known = Some(known.clone());
    let (_, committer) = with_policy(0, policy);
    assert_eq!(lost(&committer), Some(known));
    assert!(write_back(&committer, 9).is_err());
}

#[test]
fn what_an_earlier_process_left_is_committed_at_once() {
    let leftovers = || Policy {
        leftovers: true,
        ..policy(Duration::from_secs(3600))
    };
    let (fake, committer) = with_policy(0, leftovers());
    patiently("committed", || fake.commits.load(SeqCst) == 1);
    assert_eq!(lost(&committer), None);
    // What that reveals is a loss, and nobody knows where.
    let fake = Arc::new(Fake::default());
    fake.errno.store(libc::EIO, SeqCst);
    let committer = Committer::new(
        Arc::clone(&fake) as Arc<dyn Medium>,
        leftovers(),
        &Threads::new().unwrap(),
    );
    patiently("lost", || lost(&committer).is_some());
    let all = Extent {
        lba: 0,
        count: SECTORS,
    };
    assert_eq!(lost(&committer).unwrap().extent, all);
}

/// The medium does not keep up: what is acknowledged before its commit is never older than the interval.
#[test]
fn writers_wait_when_the_oldest_uncommitted_write_is_as_old_as_the_interval() {
    let interval = Duration::from_millis(400);
    let (fake, committer) = committer(4000, interval);
    assert!(!committer.is_late(Instant::now()), "nothing is written");
    assert_eq!(committer.uncommitted_us(), 0);
    let first = Instant::now();
    write_back(&committer, 1).unwrap();
    assert!(!committer.is_late(first));
    patiently("late", || committer.is_late(Instant::now()));
    assert!(first.elapsed() >= interval, "not before");
    let waiting = Duration::from_micros(committer.uncommitted_us());
    assert!(interval <= waiting && waiting <= first.elapsed(), "{waiting:?}");
    assert_eq!(fake.commits.load(SeqCst), 0, "its commit is still under way");
    patiently("in time again", || !committer.is_late(Instant::now()));
    assert_eq!(committer.uncommitted_us(), 0, "it is on the medium");
    assert_eq!(fake.commits.load(SeqCst), 1);
}

/// A sector that waits to be written.
pub(super) fn lone_write(file: File, lba: u64) -> Task {
    let mut buffer = Buffer::new(512, 1);
    buffer.gather(0, &[&stamp(lba, 1)]);
    let transfer = Transfer::new(&Arc::new(file), lba * 512, Direction::Write, buffer);
    Task::LoneWrite(Box::new(UnmadeTransfer::new(transfer, lba)))
}

#[test]
fn a_write_that_comes_undone_is_made_before_the_commit_and_fails_alone() {
    let (fake, committer) = committer(0, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = image(&path, 16);
    let unwritable = File::open(&path).unwrap();
    let tasks = [
        lone_write(file, 3),
        lone_write(unwritable, 4),
        durable(&committer, 5),
    ];
    let waiters = (0..)
        .zip(tasks)
        .map(|(token, task)| Waiter::new(queue.handle(), token, task));
    committer.submit(waiters);
    assert_eq!(ends(&mut queue, 3), [(0, true), (1, false), (2, true)]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[3 * 512..4 * 512], stamp(3, 1));
    assert_eq!(bytes[4 * 512..5 * 512], [0; 512]);
    // Written, but not on the medium.
    fake.errno.store(libc::EIO, SeqCst);
    let file = File::options().write(true).open(&path).unwrap();
    submit(&committer, &queue, 6, lone_write(file, 6));
    assert_eq!(ends(&mut queue, 1), [(6, false)]);
}

#[test]
fn who_was_alone_is_expected_to_be_alone_again() {
    let (_, committer) = committer(100, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    assert!(committer.is_quiet());
    submit(&committer, &queue, 0, durable(&committer, 0));
    assert!(!committer.is_quiet(), "a commit is under way, or about to be");
    ends(&mut queue, 1);
    patiently("quiet after one", || committer.is_quiet());
    for token in 0..9 {
        submit(&committer, &queue, token, durable(&committer, 0));
    }
    ends(&mut queue, 9);
    assert!(!committer.is_quiet(), "many came together");
    submit(&committer, &queue, 0, durable(&committer, 0));
    ends(&mut queue, 1);
    patiently("quiet after one", || committer.is_quiet());
}

#[test]
fn write_back_begins_within_the_interval_and_then_is_quiet() {
    let interval = Duration::from_secs(1);
    let (fake, committer) = committer(0, interval);
    let began = Instant::now();
    for lba in 0..1000 {
        write_back(&committer, lba).unwrap();
    }
    patiently("written back", || fake.commits.load(SeqCst) > 0);
    assert!(began.elapsed() >= interval / 2, "not at once");
    // The commit of someone who waits is the next one: nobody else asked for any.
    let mut queue = CompletionQueue::new().unwrap();
    let before = fake.commits.load(SeqCst);
    submit(&committer, &queue, 0, Task::Flush);
    ends(&mut queue, 1);
    assert_eq!(fake.commits.load(SeqCst), before + 1);
    write_back(&committer, 5).unwrap();
    patiently("written back again", || fake.commits.load(SeqCst) == before + 2);
}

#[test]
fn closing_commits_what_is_left_and_answers_who_waits() {
    let (fake, committer) = committer(20, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    write_back(&committer, 0).unwrap();
    submit(&committer, &queue, 1, durable(&committer, 0));
    committer.close().unwrap();
    assert_eq!(ends(&mut queue, 1), [(1, true)]);
    assert!(fake.commits.load(SeqCst) >= 2, "the waiter's and the last one");
    // And the store can still be used.
    submit(&committer, &queue, 2, Task::Flush);
    assert_eq!(ends(&mut queue, 1), [(2, true)]);
}

#[test]
fn durable_writes_of_a_round_cost_one_fdatasync() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 4096);
    let store = open(&StoreOptions::new(StoreKind::Mmap, &path)).unwrap();
    let mut driver = Driver::new(&store);
    let tokens: Vec<_> = (0..64).map(|lba| (lba * 8, driver.token())).collect();
    let write = |driver: &mut Driver, lba: u64, token| {
        let extent = Extent { lba, count: 1 };
        let sector = stamp(lba, 1);
        let step = store.write(&mut driver.queue, token, extent, &[&sector], Durability::Durable);
        assert_eq!(step.unwrap(), Step::Later);
    };
    for (lba, token) in &tokens {
        write(&mut driver, *lba, *token);
    }
    for (lba, token) in &tokens {
        // All pages are cold.
        assert!(matches!(driver.wait(*token), Event::Again));
        write(&mut driver, *lba, *token);
    }
    for (_, token) in &tokens {
        assert!(matches!(driver.wait(*token), Event::Finished(Ok(None))));
    }
    assert!(counter(&store, "commits") < 64, "{:?}", store.counters());
    assert_eq!(counter(&store, "commit_waiters"), 64);
}

#[test]
fn durable_direct_writes_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 4096);
    let store = open(&StoreOptions::new(StoreKind::Direct, &path)).unwrap();
    let mut driver = Driver::new(&store);
    let tokens: Vec<_> = (0..64).map(|lba| (lba * 8, driver.token())).collect();
    for (lba, token) in &tokens {
        let extent = Extent { lba: *lba, count: 1 };
        let sector = stamp(*lba, 1);
        let step = store.write(&mut driver.queue, *token, extent, &[&sector], Durability::Durable);
        assert_eq!(step.unwrap(), Step::Later);
    }
    for (_, token) in &tokens {
        assert!(matches!(driver.wait(*token), Event::Finished(Ok(None))));
    }
    assert_eq!(counter(&store, "commit_waiters"), 64, "each waits for a commit");
    assert!(counter(&store, "commits") < 64, "{:?}", store.counters());
    for (lba, _) in &tokens {
        assert_eq!(driver.read(*lba, 1).unwrap(), stamp(*lba, 1));
    }
    // One after the other, each has a commit of its own.
    let before = counter(&store, "commits");
    for lba in 0..5 {
        driver.write(lba, &stamp(lba, 2), Durability::Durable).unwrap();
        assert_eq!(driver.read(lba, 1).unwrap(), stamp(lba, 2));
    }
    assert_eq!(counter(&store, "commits") - before, 5);
}

/// Each thing that went wrong is in the cause, the first of them first.
#[test]
fn a_cut_hides_no_error_and_a_later_failure_not_the_first() {
    let eio = io::Error::from_raw_os_error(libc::EIO).to_string();
    let (fake, committer) = committer(0, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    let mut fails = |errno, is_cut| {
        fake.errno.store(errno, SeqCst);
        fake.is_cut.store(is_cut, SeqCst);
        committer.suspect();
        patiently("the commit", || lost(&committer).is_some());
        // The suspect's commit has ended by then, and this one finds the loss that stands.
        submit(&committer, &queue, 1, Task::Flush);
        assert_eq!(ends(&mut queue, 1), [(1, false)]);
        lost(&committer).unwrap().cause
    };
    assert_eq!(fails(libc::EIO, true), format!("{eio}; the file was cut short"));
    committer.accept_lost_writes();
    assert_eq!(fails(0, true), "the file was cut short");
    // Found by the last commit, while the loss stands.
    fake.errno.store(libc::EIO, SeqCst);
    fake.is_cut.store(true, SeqCst);
    committer.close().unwrap_err();
    let cause = lost(&committer).unwrap().cause;
    assert!(cause.contains(&eio) && cause.contains("cut short"), "{cause}");
}
