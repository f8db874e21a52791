//! Writes that wait for the store's thread, and commits that fail meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::commit::{Fake, committer, ends, submit};
use super::faults::patiently;
use crate::commit::{Committer, Losses, Task};
use crate::completion_queue::CompletionQueue;
use crate::direct::DirectStore;
use crate::io::device::Waiting;
use crate::io::threads::Threads;
use crate::mapped::writer::{Cache, Writer};
use crate::options::{StoreKind, StoreOptions};
use crate::registry::StoreRegistry;
use engine::{Completions as _, Durability, Event, Extent, Fault, Step, Store as _};

/// A page cache that takes a write when the test lets it.
#[derive(Debug)]
struct Slow {
    begun: AtomicUsize,
    gate: Mutex<Receiver<()>>,
}

impl Cache for Slow {
    fn write(&self, _: Waiting, _: Extent, _: &[&[u8]]) -> Result<(), Fault> {
        self.begun.fetch_add(1, SeqCst);
        self.gate.lock().recv().expect("the test lives");
        Ok(())
    }

    fn name(&self) -> String {
        "slow".to_owned()
    }
}

struct Setup {
    fake: Arc<Fake>,
    committer: Arc<Committer>,
    slow: Arc<Slow>,
    open: Sender<()>,
    writer: Arc<Writer>,
    queue: CompletionQueue,
}

impl Setup {
    fn new() -> Setup {
        let (fake, committer) = committer(0, Duration::from_secs(60));
        let threads = Threads::new().unwrap();
        let (open, gate) = channel();
        let slow = Arc::new(Slow {
            begun: AtomicUsize::new(0),
            gate: Mutex::new(gate),
        });
        let writer = Writer::new(Arc::clone(&slow) as Arc<dyn Cache>, &committer, &threads);
        let queue = CompletionQueue::new().unwrap();
        Setup {
            fake,
            committer,
            slow,
            open,
            writer,
            queue,
        }
    }

    fn write(&self, token: u64, durability: Durability) {
        let extent = Extent { lba: token, count: 1 };
        let handle = self.queue.handle();
        assert!(self.writer.admit(|| handle.clone(), token, extent));
        let mut batch = self.writer.batch(&handle);
        batch.push(token, extent, &[&[7; 512]], durability);
        self.writer.submit(batch);
    }

    /// A commit that fails, for a flush.
    fn fail_a_commit(&mut self, token: u64) {
        self.fake.errno.store(libc::EIO, SeqCst);
        submit(&self.committer, &self.queue, token, Task::Flush);
        assert_eq!(ends(&mut self.queue, 1), [(token, false)]);
        self.fake.errno.store(0, SeqCst);
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.writer.close();
    }
}

/// One thread makes it and commits, instead of two that wake each other.
#[test]
fn a_durable_write_that_is_alone_is_made_by_the_thread_that_commits() {
    let mut setup = Setup::new();
    let extent = Extent { lba: 1, count: 1 };
    let lone = setup.writer.lone(extent, &[&[7; 512]]).expect("nothing else");
    submit(&setup.committer, &setup.queue, 1, Task::LoneWrite(Box::new(lone)));
    patiently("it enters", || setup.slow.begun.load(SeqCst) == 1);
    assert_eq!(setup.fake.commits.load(SeqCst), 0, "the write comes first");
    setup.open.send(()).unwrap();
    assert_eq!(ends(&mut setup.queue, 1), [(1, true)]);
    assert_eq!(setup.fake.commits.load(SeqCst), 1);
    setup.write(2, Durability::Durable);
    let other = setup.writer.lone(extent, &[&[7; 512]]);
    assert!(other.is_none(), "one commit can cover both");
    setup.open.send(()).unwrap();
    assert_eq!(ends(&mut setup.queue, 1), [(2, true)]);
}

/// The stamp is taken where the data enters: not before, when the write is still waiting for the thread, and not after.
#[test]
fn a_failure_takes_down_what_was_entering_the_cache_and_not_what_still_waited() {
    for durability in [Durability::WriteBack, Durability::Durable] {
        let mut setup = Setup::new();
        setup.write(1, durability);
        patiently("it enters", || setup.slow.begun.load(SeqCst) == 1);
        setup.write(2, durability);
        setup.fail_a_commit(9);
        setup.open.send(()).unwrap();
        setup.open.send(()).unwrap();
        assert_eq!(
            ends(&mut setup.queue, 2),
            [(1, false), (2, true)],
            "{durability:?}"
        );
    }
}

/// What was acknowledged before is lost: nothing that waits is written any more.
#[test]
fn after_a_loss_nothing_that_waits_enters_the_cache() {
    let mut setup = Setup::new();
    setup.write(1, Durability::WriteBack);
    setup.open.send(()).unwrap();
    assert_eq!(ends(&mut setup.queue, 1), [(1, true)]);
    setup.write(2, Durability::WriteBack);
    patiently("it enters", || setup.slow.begun.load(SeqCst) == 2);
    setup.write(3, Durability::WriteBack);
    setup.fail_a_commit(9);
    setup.open.send(()).unwrap();
    assert_eq!(ends(&mut setup.queue, 2), [(2, false), (3, false)]);
    assert_eq!(setup.slow.begun.load(SeqCst), 2, "the third never began");
}

/// The same of the direct store: a write enters when it is handed to the kernel, not when it is queued.
#[test]
fn a_failure_does_not_take_down_direct_writes_that_still_waited() {
    for (mut queue, block) in [
        (CompletionQueue::new().unwrap(), 512),
        (CompletionQueue::without_uring().unwrap(), 512),
        (CompletionQueue::new().unwrap(), 4096),
    ] {
        let directory = tempfile::tempdir_in(".").unwrap();
        let path = directory.path().join("image");
        super::image(&path, 1024);
        let (fake, committer) = committer(0, Duration::from_secs(60));
        let options = StoreOptions::new(StoreKind::Direct, &path);
        let mut store =
            DirectStore::open_with_block(&options, &StoreRegistry::default(), Losses::default(), block)
                .unwrap();
        let disk = Arc::clone(store.commit_by(&committer));
        // Whatever carries the writes out has no time for them: a ring is not entered, threads are busy.
        let gates: Vec<Sender<()>> = (0..64)
            .map(|_| {
                let (open, gate) = channel();
                disk.backing.device().pool.run(move || {
                    let _ = gate.recv();
                });
                open
            })
            .collect();
        for (token, durability) in [(1, Durability::WriteBack), (2, Durability::Durable)] {
            let extent = Extent {
                lba: token * 64,
                count: 1,
            };
            let step = store.write(&mut queue, token, extent, &[&[7; 512]], durability);
            assert!(matches!(step, Ok(Step::Later)), "{step:?}");
        }
        let mut other = CompletionQueue::new().unwrap();
        fake.errno.store(libc::EIO, SeqCst);
        submit(&committer, &other, 9, Task::Flush);
        assert_eq!(ends(&mut other, 1), [(9, false)]);
        fake.errno.store(0, SeqCst);
        drop(gates);
        let mut told = Vec::new();
        patiently("they end", || {
            queue.submit(Instant::now());
            while let Some(completion) = queue.next() {
                let is_good = matches!(completion.event, Event::Finished(Ok(_)));
                told.push((completion.token, is_good));
            }
            told.len() == 2
        });
        told.sort_unstable();
        assert_eq!(told, [(1, true), (2, true)], "blocks of {block} bytes");
    }
}
