//! A worker in a few lines: it starts operations and waits for their ends as the data path does, with poll.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use crate::completion_queue::CompletionQueue;
use engine::{Completions as _, Durability, Event, Extent, Fault, Step, Store, Token};

/// One queue and the store it uses.
pub(crate) struct Driver {
    pub store: Arc<dyn Store<CompletionQueue>>,
    pub queue: CompletionQueue,
    next_token: Token,
    arrived: HashMap<Token, Event>,
}

impl Driver {
    pub(crate) fn new(store: &Arc<dyn Store<CompletionQueue>>) -> Driver {
        Driver {
            store: Arc::clone(store),
            queue: CompletionQueue::new().unwrap(),
            next_token: 1,
            arrived: HashMap::new(),
        }
    }

    pub(crate) fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    /// Sleeps until `token`'s event is there.
    pub(crate) fn wait(&mut self, token: Token) -> Event {
        loop {
            self.queue.submit(std::time::Instant::now());
            while let Some(completion) = self.queue.next() {
                let twice = self.arrived.insert(completion.token, completion.event);
                assert!(twice.is_none(), "two events for token {}", completion.token);
            }
            if let Some(event) = self.arrived.remove(&token) {
                return event;
            }
            if self.queue.prepare_sleep() {
                let fd = self.queue.fd().try_clone_to_owned().unwrap();
                let limit = rustix::event::Timespec {
                    tv_sec: 60,
                    tv_nsec: 0,
                };
                let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap();
                assert!(ready > 0, "nothing arrived in a minute");
                self.queue.awake();
            }
        }
    }

    /// Runs one operation to its end; the bytes are a deferred read's.
    fn run(
        &mut self,
        mut start: impl FnMut(&dyn Store<CompletionQueue>, &mut CompletionQueue, Token) -> Result<Step, Fault>,
    ) -> Result<Option<Box<[u8]>>, Fault> {
        let token = self.token();
        let store = Arc::clone(&self.store);
        for _ in 0..8 {
            match start(&*store, &mut self.queue, token)? {
                Step::Done => return Ok(None),
                Step::Later => match self.wait(token) {
                    Event::Again => {}
                    Event::Finished(result) => return result,
                },
            }
        }
        panic!("asked to come again 8 times");
    }

    pub(crate) fn read(&mut self, lba: u64, count: u64) -> Result<Vec<u8>, Fault> {
        // What is not filled in shows.
        let mut data = vec![0xa5; count as usize * 512];
        let result = self.run(|store, queue, token| {
            // Cut like a jumbo frame: the pieces need not end with sectors.
            let (head, tail) = data.split_at_mut(476.min(count as usize * 256));
            store.read(queue, token, Extent { lba, count }, &mut [head, tail])
        })?;
        if let Some(bytes) = result {
            assert_eq!(bytes.len(), data.len());
            data.copy_from_slice(&bytes);
        }
        Ok(data)
    }

    pub(crate) fn write(&mut self, lba: u64, data: &[u8], durability: Durability) -> Result<(), Fault> {
        let extent = Extent {
            lba,
            count: data.len() as u64 / 512,
        };
        let (head, tail) = data.split_at(300.min(data.len()));
        self.run(|store, queue, token| store.write(queue, token, extent, &[head, tail], durability))
            .map(drop)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Fault> {
        self.run(|store, queue, token| store.flush(queue, token))
            .map(drop)
    }

    pub(crate) fn trim(&mut self, extents: &[Extent]) -> Result<(), Fault> {
        self.run(|store, queue, token| store.trim(queue, token, extents))
            .map(drop)
    }

    pub(crate) fn verify(&mut self, lba: u64, count: u64) -> Result<(), Fault> {
        self.run(|store, queue, token| store.verify(queue, token, Extent { lba, count }))
            .map(drop)
    }
}

/// A figure of the store by its name.
pub(crate) fn counter(store: &Arc<dyn Store<CompletionQueue>>, name: &str) -> u64 {
    let counters = store.counters();
    let found = counters.iter().find(|(known, _)| *known == name);
    found
        .unwrap_or_else(|| panic!("no counter {name} in {counters:?}"))
        .1
}
