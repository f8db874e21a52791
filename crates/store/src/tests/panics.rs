//! A thread of the store that panics owes an answer all the same: else what it had would be taken for ever.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::commit::{committer, ends, lone_write, policy, submit};
use super::{image, stamp};
use crate::commit::{Committer, Losses, Medium, Task};
use crate::completion_queue::CompletionQueue;
use crate::direct::DirectStore;
use crate::handle::Owed;
use crate::io::buffer::Buffer;
use crate::io::continuation::{Continuation, Next};
use crate::io::pool::Pool;
use crate::io::threads::Threads;
use crate::io::transfer::{Direction, Transfer};
use crate::mapped::writer::{Cache, Writer};
use crate::options::{StoreKind, StoreOptions};
use crate::registry::StoreRegistry;
use engine::{Completion, Completions as _, Durability, Event, Extent, Fault, FaultKind};

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
    fn write(&self, _: Extent, _: &[&[u8]]) -> Result<(), Fault> {
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
struct Bad;

impl Continuation for Bad {
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
    queue.start(disk.backing.device(), transfer, Box::new(Bad));
    queue.submit(Instant::now());
    assert_eq!(ends(&mut queue, 1), [(1, false)]);
}
