//! A worker in a few lines: it starts operations and waits for their ends as the data path does, with poll.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use crate::lane::Lane;
use engine::{Completions as _, Durability, Event, Extent, Fault, Step, Store, Token};

/// One lane and the store it uses.
pub struct Driver {
    pub store: Arc<dyn Store<Lane>>,
    pub lane: Lane,
    next_token: Token,
    arrived: HashMap<Token, Event>,
}

impl Driver {
    pub fn new(store: &Arc<dyn Store<Lane>>) -> Driver {
        Driver {
            store: Arc::clone(store),
            lane: Lane::new().unwrap(),
            next_token: 1,
            arrived: HashMap::new(),
        }
    }

    pub fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    /// Sleeps until `token`'s event is there.
    pub fn wait(&mut self, token: Token) -> Event {
        loop {
            self.lane.submit(std::time::Instant::now());
            while let Some(completion) = self.lane.next() {
                let twice = self.arrived.insert(completion.token, completion.event);
                assert!(twice.is_none(), "two events for token {}", completion.token);
            }
            if let Some(event) = self.arrived.remove(&token) {
                return event;
            }
            if self.lane.prepare_sleep() {
                let fd = self.lane.fd().try_clone_to_owned().unwrap();
                let limit = rustix::event::Timespec {
                    tv_sec: 60,
                    tv_nsec: 0,
                };
                let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap();
                assert!(ready > 0, "nothing arrived in a minute");
                self.lane.awake();
            }
        }
    }

    /// Runs one operation to its end; the bytes are a deferred read's.
    fn run(
        &mut self,
        mut start: impl FnMut(&dyn Store<Lane>, &mut Lane, Token) -> Result<Step, Fault>,
    ) -> Result<Option<Box<[u8]>>, Fault> {
        let token = self.token();
        let store = Arc::clone(&self.store);
        for _ in 0..8 {
            match start(&*store, &mut self.lane, token)? {
                Step::Done => return Ok(None),
                Step::Later => match self.wait(token) {
                    Event::Again => {}
                    Event::Finished(result) => return result,
                },
            }
        }
        panic!("asked to come again 8 times");
    }

    pub fn read(&mut self, lba: u64, count: u64) -> Result<Vec<u8>, Fault> {
        // What is not filled in shows.
        let mut data = vec![0xa5; count as usize * 512];
        let result = self.run(|store, lane, token| {
            // Cut like a jumbo frame: the pieces need not end with sectors.
            let (head, tail) = data.split_at_mut(476.min(count as usize * 256));
            store.read(lane, token, Extent { lba, count }, &mut [head, tail])
        })?;
        if let Some(bytes) = result {
            assert_eq!(bytes.len(), data.len());
            data.copy_from_slice(&bytes);
        }
        Ok(data)
    }

    pub fn write(&mut self, lba: u64, data: &[u8], durability: Durability) -> Result<(), Fault> {
        let extent = Extent {
            lba,
            count: data.len() as u64 / 512,
        };
        let (head, tail) = data.split_at(300.min(data.len()));
        self.run(|store, lane, token| store.write(lane, token, extent, &[head, tail], durability))
            .map(drop)
    }

    pub fn flush(&mut self) -> Result<(), Fault> {
        self.run(|store, lane, token| store.flush(lane, token)).map(drop)
    }

    pub fn trim(&mut self, extents: &[Extent]) -> Result<(), Fault> {
        self.run(|store, lane, token| store.trim(lane, token, extents))
            .map(drop)
    }

    pub fn verify(&mut self, lba: u64, count: u64) -> Result<(), Fault> {
        self.run(|store, lane, token| store.verify(lane, token, Extent { lba, count }))
            .map(drop)
    }
}

/// A figure of the store by its name.
pub fn counter(store: &Arc<dyn Store<Lane>>, name: &str) -> u64 {
    let counters = store.counters();
    let found = counters.iter().find(|(known, _)| *known == name);
    found
        .unwrap_or_else(|| panic!("no counter {name} in {counters:?}"))
        .1
}
