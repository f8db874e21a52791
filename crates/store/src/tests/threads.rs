//! A system that gives no further thread: everything is done all the same, by the one that is kept.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::commit::{Fake, ends, policy, submit};
use super::faults::patiently;
use crate::commit::{Committer, Medium, Task};
use crate::completion_queue::CompletionQueue;
use crate::io::device::Waiting;
use crate::io::threads::Threads;
use crate::mapped::writer::{Cache, Writer};
use engine::{Durability, Extent, Fault};

/// A page cache that takes everything.
#[derive(Debug)]
struct Quick;

impl Cache for Quick {
    fn write(&self, _: Waiting, _: Extent, _: &[&[u8]]) -> Result<(), Fault> {
        Ok(())
    }

    fn name(&self) -> String {
        "quick".to_owned()
    }
}

fn store(threads: &Arc<Threads>, interval: Duration) -> (Arc<Fake>, Arc<Committer>, Arc<Writer>) {
    let fake = Arc::new(Fake::default());
    let medium = Arc::clone(&fake) as Arc<dyn Medium>;
    let committer = Committer::new(medium, policy(interval), threads);
    let writer = Writer::new(Arc::new(Quick), &committer, threads);
    (fake, committer, writer)
}

fn write(writer: &Arc<Writer>, queue: &CompletionQueue, token: u64, durability: Durability) {
    let extent = Extent { lba: token, count: 1 };
    let handle = engine::Completions::handle(queue);
    assert!(writer.admit(|| handle.clone(), token, extent));
    let mut batch = writer.batch(&handle);
    batch.push(token, extent, &[&[7; 512]], durability);
    writer.submit(batch);
}

#[test]
fn writes_and_flushes_of_several_stores_end_well_without_a_thread_of_their_own() {
    let threads = Threads::refused();
    let mut queue = CompletionQueue::new().unwrap();
    let stores: Vec<_> = (0..3).map(|_| store(&threads, Duration::from_secs(60))).collect();
    for token in 0..300 {
        let (_, committer, writer) = &stores[token as usize % 3];
        match token % 5 {
            0 => submit(committer, &queue, token, Task::Flush),
            1 => write(writer, &queue, token, Durability::Durable),
            _ => write(writer, &queue, token, Durability::WriteBack),
        }
    }
    let all = ends(&mut queue, 300);
    assert!(all.iter().all(|(_, is_good)| *is_good), "{all:?}");
    for (fake, committer, writer) in &stores {
        writer.close();
        let before = fake.commits.load(SeqCst);
        committer.close().unwrap();
        assert!(
            fake.commits.load(SeqCst) > before,
            "the last writes are committed"
        );
    }
}

#[test]
fn what_is_due_later_is_committed_in_its_time_by_a_thread_of_its_own_when_there_is_one_again() {
    let threads = Threads::refused();
    let mut queue = CompletionQueue::new().unwrap();
    let (fake, committer, writer) = store(&threads, Duration::from_millis(50));
    write(&writer, &queue, 1, Durability::WriteBack);
    assert_eq!(ends(&mut queue, 1), [(1, true)]);
    patiently("committed by the kept thread", || fake.commits.load(SeqCst) == 1);
    threads.give_again();
    write(&writer, &queue, 2, Durability::WriteBack);
    assert_eq!(ends(&mut queue, 1), [(2, true)]);
    patiently("committed", || fake.commits.load(SeqCst) == 2);
    assert!(committer.has_thread_and_end().0, "a thread of its own");
    writer.close();
    committer.close().unwrap();
}

#[test]
fn a_store_that_is_closed_by_the_kept_thread_waits_for_nobody() {
    let threads = Threads::refused();
    let mut queue = CompletionQueue::new().unwrap();
    let (fake, committer, writer) = store(&threads, Duration::from_secs(60));
    write(&writer, &queue, 1, Durability::WriteBack);
    assert_eq!(ends(&mut queue, 1), [(1, true)]);
    let (closed, is_closed) = std::sync::mpsc::channel();
    let handle = engine::Completions::handle(&queue);
    threads.spare(move || {
        // Behind this job on the same thread.
        let extent = Extent { lba: 2, count: 1 };
        assert!(writer.admit(|| handle.clone(), 2, extent));
        let mut batch = writer.batch(&handle);
        batch.push(2, extent, &[&[7; 512]], Durability::WriteBack);
        writer.submit(batch);
        writer.close();
        closed.send(committer.close().is_ok()).unwrap();
    });
    assert!(is_closed.recv_timeout(Duration::from_secs(60)).unwrap());
    assert_eq!(ends(&mut queue, 1), [(2, true)]);
    assert!(fake.commits.load(SeqCst) > 0);
}
