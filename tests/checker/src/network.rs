//! A network that misbehaves by a plan: between clients and a target every frame may be lost, doubled or held back,
//! and so overtaken. What happens to a frame depends only on the seed, its sender, its tag and its direction.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aoe_common::Mac;

use lab::frame::mac;
use lab::image::Random;

/// The target's end: where frames go that got through.
pub trait Wire: Send {
    /// Sends a frame to a port of the target so that it arrives on one of its queues. May lose it.
    fn send(&mut self, port: usize, queue: usize, frame: &[u8]);
}

/// How a kind of frame fares, in chances of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// Is lost.
    pub lost: u64,
    /// Arrives twice.
    pub doubled: u64,
    /// Is held back, each copy by itself.
    pub held: u64,
}

impl Fate {
    /// Nothing happens to it.
    pub const SAFE: Fate = Fate {
        lost: 0,
        doubled: 0,
        held: 0,
    };
}

/// What the network does to whom.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Where all chance comes from.
    pub seed: u64,
    /// Requests to read.
    pub reads: Fate,
    /// Requests to write.
    pub writes: Fate,
    /// Replies to reads.
    pub read_replies: Fate,
    /// Replies to writes.
    pub write_replies: Fate,
    /// The longest that a frame is held back.
    pub longest: Duration,
}

/// What the network did, for the report of a run.
#[derive(Debug, Default)]
pub struct Tally {
    /// Frames lost.
    pub lost: AtomicU64,
    /// Frames doubled.
    pub doubled: AtomicU64,
    /// Copies held back.
    pub held: AtomicU64,
    /// Copies delivered.
    pub delivered: AtomicU64,
}

/// Something to carry.
#[derive(Debug)]
pub enum Parcel {
    /// From a client, for this port of the target.
    ToTarget {
        /// Port.
        port: usize,
        /// The frame.
        frame: Vec<u8>,
    },
    /// From a client, for this port and queue; nothing happens to it.
    Escorted {
        /// Port.
        port: usize,
        /// Queue.
        queue: usize,
        /// The frame.
        frame: Vec<u8>,
    },
    /// From the target.
    ToClient(Vec<u8>),
    /// The end.
    Close,
}

/// A running network.
#[derive(Debug)]
pub struct Network {
    inbox: Sender<Parcel>,
    clients: Arc<Mutex<HashMap<Mac, Sender<Vec<u8>>>>>,
    tally: Arc<Tally>,
    longest: Duration,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts carrying between clients and `wire`, each of whose ports has this many queues. `wire` gets the
    /// sender to which it gives the target's replies.
    pub fn start<W: Wire + 'static>(
        weather: Weather,
        queues: usize,
        wire: impl FnOnce(Sender<Parcel>) -> W,
    ) -> Network {
        let (inbox, parcels) = channel();
        let clients = Arc::new(Mutex::new(HashMap::new()));
        let tally = Arc::new(Tally::default());
        let carrier = Carrier {
            weather,
            queues,
            wire: wire(inbox.clone()),
            clients: Arc::clone(&clients),
            tally: Arc::clone(&tally),
            under_way: BinaryHeap::new(),
            carried: 0,
        };
        let thread = std::thread::spawn(move || carrier.run(&parcels));
        Network {
            inbox,
            clients,
            tally,
            longest: weather.longest,
            thread: Some(thread),
        }
    }

    /// Attaches a client with these addresses: where it sends, and where it finds what arrives for it.
    pub fn attach(&self, macs: &[Mac]) -> (Sender<Parcel>, Receiver<Vec<u8>>) {
        let (deliver, arrivals) = channel();
        let mut clients = self.clients.lock().expect("no client panics here");
        for mac in macs {
            clients.insert(*mac, deliver.clone());
        }
        (self.inbox.clone(), arrivals)
    }

    /// What happened so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How long a frame may be under way.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.inbox.send(Parcel::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A copy under way; ordered by when it arrives.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    due: Instant,
    number: u64,
    to: To,
    frame: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Target { port: usize, queue: usize },
    Client(Mac),
}

struct Carrier<W> {
    weather: Weather,
    queues: usize,
    wire: W,
    clients: Arc<Mutex<HashMap<Mac, Sender<Vec<u8>>>>>,
    tally: Arc<Tally>,
    under_way: BinaryHeap<Reverse<Copy>>,
    carried: u64,
}

impl<W: Wire> Carrier<W> {
    fn run(mut self, parcels: &Receiver<Parcel>) {
        loop {
            self.deliver();
            let next = self.under_way.peek().map(|Reverse(copy)| copy.due);
            let wait = next.map_or(Duration::from_secs(1), |due| {
                due.saturating_duration_since(Instant::now())
            });
            match parcels.recv_timeout(wait) {
                Ok(Parcel::ToTarget { port, frame }) => {
                    let mut random = self.chance(0, &frame);
                    let queue = random.below(self.queues as u64) as usize;
                    let fate = if is_write(&frame) {
                        self.weather.writes
                    } else {
                        self.weather.reads
                    };
                    self.post(random, fate, To::Target { port, queue }, &frame);
                }
                Ok(Parcel::Escorted { port, queue, frame }) => self.wire.send(port, queue, &frame),
                Ok(Parcel::ToClient(frame)) if frame.len() >= 36 => {
                    let fate = match (frame[19], is_write(&frame)) {
                        (0, true) => self.weather.write_replies,
                        (0, false) => self.weather.read_replies,
                        _ => Fate::SAFE,
                    };
                    let to = To::Client(mac(&frame[0..6]));
                    self.post(self.chance(1, &frame), fate, to, &frame);
                }
                Ok(Parcel::ToClient(_)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Parcel::Close) | Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
        }
    }

    /// Delivers what is under way, each when it is due.
    fn finish(mut self) {
        while let Some(Reverse(copy)) = self.under_way.peek() {
            std::thread::sleep(copy.due.saturating_duration_since(Instant::now()));
            self.deliver();
        }
    }

    /// The chance of one frame. The low half of a tag is a time (see [`super::client`]), which no seed repeats.
    fn chance(&self, direction: u64, frame: &[u8]) -> Random {
        let client = if direction == 0 {
            mac(&frame[6..12])
        } else {
            mac(&frame[0..6])
        };
        let counter = u64::from(u16::from_be_bytes([frame[20], frame[21]]));
        let mut random =
            Random::new(self.weather.seed ^ client.to_u64().rotate_left(20) ^ counter << 1 ^ direction);
        for _ in 0..4 {
            random.number();
        }
        random
    }

    fn post(&mut self, mut random: Random, fate: Fate, to: To, frame: &[u8]) {
        let mut hit = |chance| random.below(1000) < chance;
        if hit(fate.lost) {
            self.tally.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let doubled = hit(fate.doubled);
        self.tally
            .doubled
            .fetch_add(u64::from(doubled), Ordering::Relaxed);
        for _ in 0..=usize::from(doubled) {
            let held = random.below(1000) < fate.held;
            let longest_us = self.weather.longest.as_micros() as u64;
            let delay = if held {
                Duration::from_micros(random.below(longest_us + 1))
            } else {
                Duration::ZERO
            };
            self.tally.held.fetch_add(u64::from(held), Ordering::Relaxed);
            self.carried += 1;
            let copy = Copy {
                due: Instant::now() + delay,
                number: self.carried,
                to,
                frame: frame.to_vec(),
            };
            self.under_way.push(Reverse(copy));
        }
    }

    /// Delivers what is due.
    fn deliver(&mut self) {
        while let Some(Reverse(copy)) = self.under_way.peek()
            && copy.due <= Instant::now()
            && let Some(Reverse(copy)) = self.under_way.pop()
        {
            self.tally.delivered.fetch_add(1, Ordering::Relaxed);
            match copy.to {
                To::Target { port, queue } => self.wire.send(port, queue, &copy.frame),
                To::Client(mac) => {
                    let clients = self.clients.lock().expect("no client panics here");
                    if let Some(client) = clients.get(&mac) {
                        let _ = client.send(copy.frame);
                    }
                }
            }
        }
    }
}

/// Is this an ATA command with data for the device, or its reply? By the flag that both carry.
fn is_write(frame: &[u8]) -> bool {
    frame.len() > 24 && frame[19] == 0 && frame[24] & 1 != 0
}
