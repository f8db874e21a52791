//! Group commit and write-back on a medium that does what the test says.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::driver::counter;
use super::faults::patiently;
use super::{Driver, image, stamp};
use crate::commit::{Committer, Medium, Task, Waiter};
use crate::completion_queue::CompletionQueue;
use crate::io::buffer::Buffer;
use crate::io::transfer::{Direction, Transfer};
use crate::open::open;
use crate::options::{StoreKind, StoreOptions};
use engine::{Completions as _, Durability, Event, Extent, Fault, FaultKind, Step};

#[derive(Debug, Default)]
struct Fake {
    commits: AtomicU64,
    /// What commits fail with; 0: they succeed.
    errno: AtomicI32,
    slow_ms: u64,
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

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        Fault {
            kind: FaultKind::Write,
            lba,
            source,
        }
    }

    fn name(&self) -> String {
        "fake".to_owned()
    }
}

fn committer(slow_ms: u64, interval: Duration) -> (Arc<Fake>, Arc<Committer>) {
    let fake = Arc::new(Fake {
        slow_ms,
        ..Fake::default()
    });
    let committer = Committer::new(Arc::clone(&fake) as Arc<dyn Medium>, interval);
    (fake, committer)
}

/// Waits for `count` ends; true for those that succeeded, by token.
fn ends(queue: &mut CompletionQueue, count: usize) -> Vec<(u64, bool)> {
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

fn submit(committer: &Arc<Committer>, queue: &CompletionQueue, token: u64, task: Task) {
    committer.submit([Waiter {
        handle: queue.handle(),
        token,
        task,
    }]);
}

#[test]
fn all_that_wait_share_a_commit() {
    let (fake, committer) = committer(30, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    for token in 0..100 {
        submit(&committer, &queue, token, Task::Write(token));
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
fn a_failed_commit_is_told_to_all_it_covered_and_to_the_next_flush() {
    let (fake, committer) = committer(0, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    fake.errno.store(libc::EIO, SeqCst);
    committer.submit((0..3).map(|token| Waiter {
        handle: queue.handle(),
        token,
        task: if token == 2 {
            Task::Flush
        } else {
            Task::Write(token)
        },
    }));
    assert_eq!(ends(&mut queue, 3), [(0, false), (1, false), (2, false)]);
    // The disk is well again. A write answers for itself, the flush for what was lost.
    fake.errno.store(0, SeqCst);
    submit(&committer, &queue, 3, Task::Write(9));
    assert_eq!(ends(&mut queue, 1), [(3, true)]);
    submit(&committer, &queue, 4, Task::Flush);
    assert_eq!(ends(&mut queue, 1), [(4, false)]);
    submit(&committer, &queue, 5, Task::Flush);
    assert_eq!(ends(&mut queue, 1), [(5, true)]);
}

/// A sector that waits to be written.
fn lone_write(file: File, lba: u64) -> Task {
    let mut buffer = Buffer::new(512, 1);
    buffer.gather(0, &[&stamp(lba, 1)]);
    let transfer = Transfer::new(&Arc::new(file), lba * 512, Direction::Write, buffer);
    Task::LoneWrite(Box::new(transfer), lba)
}

#[test]
fn a_write_that_comes_undone_is_made_before_the_commit_and_fails_alone() {
    let (fake, committer) = committer(0, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = image(&path, 16);
    let unwritable = File::open(&path).unwrap();
    let tasks = [lone_write(file, 3), lone_write(unwritable, 4), Task::Write(5)];
    committer.submit((0..).zip(tasks).map(|(token, task)| Waiter {
        handle: queue.handle(),
        token,
        task,
    }));
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
    submit(&committer, &queue, 0, Task::Write(0));
    assert!(!committer.is_quiet(), "a commit is under way, or about to be");
    ends(&mut queue, 1);
    patiently("quiet after one", || committer.is_quiet());
    for token in 0..9 {
        submit(&committer, &queue, token, Task::Write(0));
    }
    ends(&mut queue, 9);
    assert!(!committer.is_quiet(), "many came together");
    submit(&committer, &queue, 0, Task::Write(0));
    ends(&mut queue, 1);
    patiently("quiet after one", || committer.is_quiet());
}

#[test]
fn flushes_fail_as_long_as_the_disk_does() {
    let (fake, committer) = committer(0, Duration::from_millis(10));
    let mut queue = CompletionQueue::new().unwrap();
    // Nobody waits for this commit: its failure is found by the flusher, and owed.
    fake.errno.store(libc::ENOSPC, SeqCst);
    committer.note_write();
    while fake.commits.load(SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    for token in 0..3 {
        submit(&committer, &queue, token, Task::Flush);
        assert_eq!(ends(&mut queue, 1), [(token, false)]);
    }
    assert_eq!(
        committer.close().expect_err("owed").raw_os_error(),
        Some(libc::ENOSPC)
    );
    fake.errno.store(0, SeqCst);
    submit(&committer, &queue, 3, Task::Flush);
    assert_eq!(ends(&mut queue, 1), [(3, false)], "still owed once");
    submit(&committer, &queue, 4, Task::Flush);
    assert_eq!(ends(&mut queue, 1), [(4, true)]);
}

#[test]
fn write_back_is_bounded_and_then_quiet() {
    // Long enough for a thousand notes on the slowest machine.
    let interval = Duration::from_millis(500);
    let (fake, committer) = committer(0, interval);
    let began = Instant::now();
    for _ in 0..1000 {
        committer.note_write();
    }
    patiently("written back", || fake.commits.load(SeqCst) > 0);
    assert!(began.elapsed() >= interval, "not at once");
    std::thread::sleep(interval * 2);
    assert_eq!(fake.commits.load(SeqCst), 1, "once, and no more without writes");
    committer.note_write();
    patiently("written back again", || fake.commits.load(SeqCst) == 2);
}

#[test]
fn closing_commits_what_is_left_and_answers_who_waits() {
    let (fake, committer) = committer(20, Duration::from_secs(60));
    let mut queue = CompletionQueue::new().unwrap();
    committer.note_write();
    submit(&committer, &queue, 1, Task::Write(0));
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
    assert!(counter(&store, "commits") <= 4, "{:?}", store.counters());
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
