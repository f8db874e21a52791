//! A thread of the store that panics owes an answer all the same: else what it had would be taken for ever.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::commit::{committer, ends, lone_write, policy, submit};
use super::{image, stamp};
use crate::commit::{Committer, Losses, Medium, Task};
use crate::completion_queue::CompletionQueue;
use crate::direct::DirectStore;
use crate::handle::Owed;
use crate::io::buffer::Buffer;
use crate::io::continuation::{Continuation, Next};
use crate::io::device::Waiting;
use crate::io::pool::Pool;
use crate::io::threads::Threads;
use crate::io::transfer::{Direction, Transfer};
use crate::mapped::writer::{Cache, Writer};
use crate::options::{StoreKind, StoreOptions};
use crate::registry::StoreRegistry;
use engine::{Completion, Completions as _, Durability, Event, Extent, Fault, FaultKind, Health, LostWrites};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A page cache and a medium that panic while they are told to.
#[derive(Debug, Default)]
struct Panics {
    does: AtomicBool,
}

impl Panics {
    fn maybe(&self) {
        assert!(!self.does.load(SeqCst), "on purpose, for a test");
    }
}

impl Cache for Panics {
    fn write(&self, _: Waiting, _: Extent, _: &[&[u8]]) -> Result<(), Fault> {
        self.maybe();
        Ok(())
    }

    fn name(&self) -> String {
        "panics".to_owned()
    }
}

impl Medium for Panics {
    fn commit(&self) -> io::Result<()> {
        Ok(())
    }

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        self.maybe();
        Fault {
            kind: FaultKind::Write,
            lba,
            source,
        }
    }

    fn sectors(&self) -> u64 {
        1024
    }

    fn name(&self) -> String {
        "panics".to_owned()
    }
}

#[test]
fn writes_whose_thread_panics_are_answered_and_the_next_are_made() {
    for threads in [Threads::new().unwrap(), Threads::refused()] {
        let (_, committer) = committer(0, Duration::from_secs(60));
        let cache = Arc::new(Panics::default());
        let writer = Writer::new(Arc::clone(&cache) as Arc<dyn Cache>, &committer, &threads);
        let mut queue = CompletionQueue::new().unwrap();
        for does in [true, false] {
            cache.does.store(does, SeqCst);
            let handle = queue.handle();
            let mut batch = writer.batch(&handle);
            for (token, durability) in [(1, Durability::WriteBack), (2, Durability::Durable)] {
                let extent = Extent { lba: token, count: 1 };
                assert!(writer.admit(|| handle.clone(), token, extent));
                batch.push(token, extent, &[&stamp(token, 1)], durability);
            }
            writer.submit(batch);
            assert_eq!(ends(&mut queue, 2), [(1, !does), (2, !does)]);
        }
        writer.close();
    }
}

#[test]
fn whoever_is_in_a_group_whose_making_panics_is_answered_and_the_next_group_is_committed() {
    let medium = Arc::new(Panics::default());
    medium.does.store(true, SeqCst);
    let threads = Threads::new().unwrap();
    let committer = Committer::new(
        Arc::clone(&medium) as Arc<dyn Medium>,
        policy(Duration::from_secs(60)),
        &threads,
    );
    let mut queue = CompletionQueue::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&path, 16);
    let unwritable = std::fs::File::open(&path).unwrap();
    submit(&committer, &queue, 1, lone_write(unwritable, 3));
    assert_eq!(ends(&mut queue, 1), [(1, false)]);
    submit(&committer, &queue, 2, Task::Flush);
    assert_eq!(ends(&mut queue, 1), [(2, true)]);
    committer.close().unwrap();
}

/// Where a medium that panics does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Behind a commit that succeeded.
    TakeCut,
    /// When a commit has failed, and nobody knows of it yet.
    Fault,
    /// When what is lost is to be kept in mind.
    Told,
}

/// A medium that does one commit badly.
#[derive(Debug)]
struct Bad {
    at: At,
    /// Till the first commit has been made.
    is_first: AtomicBool,
    begun: Sender<()>,
    gate: Mutex<Receiver<()>>,
}

impl Bad {
    fn maybe(&self, at: At) {
        let panics = at == self.at && self.is_first.swap(false, SeqCst);
        assert!(!panics, "on purpose, for a test");
    }
}

impl Medium for Bad {
    fn commit(&self) -> io::Result<()> {
        let _ = self.begun.send(());
        let _ = self.gate.lock().recv();
        match self.at != At::TakeCut && self.is_first.load(SeqCst) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    fn take_cut(&self) -> Option<Extent> {
        self.maybe(At::TakeCut);
        None
    }

    fn fault(&self, lba: u64, source: io::Error) -> Fault {
        self.maybe(At::Fault);
        Fault {
            kind: FaultKind::Write,
            lba,
            source,
        }
    }

    fn sectors(&self) -> u64 {
        1 << 24
    }

    fn name(&self) -> String {
        "bad".to_owned()
    }
}

/// A commit whose thread panics, for a write that waits, and for acknowledged ones or without any.
fn a_commit_panics(at: At, acknowledged: bool, threads: &Arc<Threads>) {
    let ((begun, begins), (open, gate)) = (channel(), channel());
    let medium = Arc::new(Bad {
        at,
        is_first: AtomicBool::new(true),
        begun,
        gate: Mutex::new(gate),
    });
    let (told, is_told) = channel();
    let (told, of_told) = (Mutex::new(told), Arc::clone(&medium));
    let mut policy = policy(Duration::from_secs(3600));
    policy.losses.told = Some(Arc::new(move |lost: &LostWrites| {
        of_told.maybe(At::Told);
        told.lock().send(lost.clone()).unwrap();
    }));
    let committer = Committer::new(Arc::clone(&medium) as Arc<dyn Medium>, policy, threads);
    let mut queue = CompletionQueue::new().unwrap();
    let enter = || committer.enter(9).unwrap();
    if acknowledged {
        let extent = Extent { lba: 9, count: 1 };
        committer.acknowledge(extent, enter()).unwrap();
    }
    let entered = enter();
    submit(&committer, &queue, 1, Task::Write(9, enter()));
    begins.recv_timeout(TIMEOUT).unwrap();
    // These wait for the next one, which would find nothing of the first.
    submit(&committer, &queue, 2, Task::Write(9, enter()));
    submit(&committer, &queue, 3, Task::Flush);
    drop(open);
    assert_eq!(ends(&mut queue, 3), [(1, false), (2, false), (3, false)]);
    // A write that was entering the cache meanwhile.
    let extent = Extent { lba: 9, count: 1 };
    assert!(committer.acknowledge(extent, entered).is_err());
    let is_lost = matches!(committer.health(), Health::LostWrites(_));
    assert_eq!(
        is_lost, acknowledged,
        "what was acknowledged, and nothing else, is lost"
    );
    if acknowledged {
        assert!(committer.enter(9).is_err(), "writes are taken");
        is_told.recv_timeout(TIMEOUT).expect("it is kept in mind");
        committer.accept_lost_writes();
    }
    let counters = committer.counters();
    assert!(counters.contains(&("commit_panics", 1)), "{counters:?}");
    submit(&committer, &queue, 4, Task::Write(9, committer.enter(9).unwrap()));
    submit(&committer, &queue, 5, Task::Flush);
    assert_eq!(ends(&mut queue, 2), [(4, true), (5, true)]);
    committer.close().unwrap();
}

#[test]
fn after_a_panic_in_committing_all_who_wait_are_told_and_others_go_on() {
    for threads in [Threads::new().unwrap(), Threads::refused()] {
        for at in [At::TakeCut, At::Fault, At::Told] {
            for acknowledged in [true, false] {
                // Nobody is told of a loss where there is none.
                if acknowledged || at != At::Told {
                    println!("{at:?}, acknowledged: {acknowledged}");
                    a_commit_panics(at, acknowledged, &threads);
                }
            }
        }
    }
}

/// Then there is no thread that could tell of it.
#[test]
fn a_panic_in_the_last_commit_is_told_by_the_close() {
    let (begun, _begins) = channel();
    let (_, gate) = channel();
    let medium = Arc::new(Bad {
        at: At::TakeCut,
        is_first: AtomicBool::new(true),
        begun,
        gate: Mutex::new(gate),
    });
    let threads = Threads::new().unwrap();
    let committer = Committer::new(medium, policy(Duration::from_secs(3600)), &threads);
    assert!(committer.close().is_err());
}

/// TRIM and READ VERIFY run so.
#[test]
fn an_operation_whose_job_panics_is_answered() {
    let pool = Pool::new("panics", &Threads::new().unwrap());
    let mut queue = CompletionQueue::new().unwrap();
    let owed = Owed::new(queue.handle(), 1, FaultKind::Read);
    pool.run(move || {
        let _owed = owed;
        panic!("on purpose, for a test");
    });
    assert_eq!(ends(&mut queue, 1), [(1, false)]);
}

/// Panics where it begins, and ends with what the transfer says.
#[derive(Debug)]
struct BadStart;

impl Continuation for BadStart {
    fn begins(&mut self) {
        panic!("on purpose, for a test");
    }

    fn ended(self: Box<Self>, transfer: Transfer) -> Next {
        let result = transfer.shortfall().map_or(Ok(None), |source| {
            Err(Fault {
                kind: FaultKind::Read,
                lba: 0,
                source,
            })
        });
        Next::Done(Completion {
            token: 1,
            event: Event::Finished(result),
        })
    }
}

#[test]
fn a_transfer_whose_thread_panics_comes_back_with_an_error() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("image");
    image(&path, 1024);
    let options = StoreOptions::new(StoreKind::Direct, &path);
    let mut store = DirectStore::open(&options, &StoreRegistry::default(), Losses::default()).unwrap();
    let (_, committer) = committer(0, Duration::from_secs(60));
    let disk = Arc::clone(store.commit_by(&committer));
    let mut queue = CompletionQueue::without_uring().unwrap();
    let transfer = Transfer::new(
        disk.backing.file(),
        0,
        Direction::Read,
        Buffer::new(512, disk.alignment.memory),
    );
    queue.start(disk.backing.device(), transfer, Box::new(BadStart));
    queue.submit(Instant::now());
    assert_eq!(ends(&mut queue, 1), [(1, false)]);
}
