//! Writes that wait for the store's thread, and commits that fail meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::commit::{Fake, committer, ends, submit};
use super::faults::patiently;
use crate::commit::{Committer, Task};
use crate::completion_queue::CompletionQueue;
use crate::mapped::writer::{Cache, Writer};
use engine::{Completions as _, Durability, Extent, Fault};

/// A page cache that takes a write when the test lets it.
#[derive(Debug)]
struct Slow {
    begun: AtomicUsize,
    gate: Mutex<Receiver<()>>,
}

impl Cache for Slow {
    fn write(&self, _: Extent, _: &[&[u8]]) -> Result<(), Fault> {
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
        let (open, gate) = channel();
        let slow = Arc::new(Slow {
            begun: AtomicUsize::new(0),
            gate: Mutex::new(gate),
        });
        let writer = Writer::new(Arc::clone(&slow) as Arc<dyn Cache>, &committer);
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
